"""One worker: a server that shares its port and its files with others."""

from __future__ import annotations

import json
import logging
import os

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.server.app import Server
from feast_recsys.server.children import Life
from feast_recsys.server.collector import Collector
from feast_recsys.server.seat import Seat
from feast_recsys.server.supervisor import LISTENING

logger = logging.getLogger(__name__)


def work(repo: Repo, address: str, seat: Seat, report: int, life: Life) -> None:
    """Serves until it is told to end, then drains.

    Args:
        repo: The repository, opened before the fork, and used by nobody then.
        address: What to listen on; held by the parent.
        seat: Its place.
        report: Descriptor to say on that it listens, or why it can't; closed afterwards.
        life: Says when to end.
    """
    life.begin(heed_sigterm=True)
    collector = Collector()
    loaded = False

    def on_loaded() -> None:
        nonlocal loaded
        if not loaded:
            collector.settle()
        loaded = True

    server = Server(repo, address=address, on_loaded=on_loaded, seat=seat)
    try:
        server.start()
    except InvalidSettings as error:
        os.write(report, json.dumps([error.message, error.field]).encode())
        raise
    os.write(report, LISTENING)
    os.close(report)
    collector.start()
    life.over()
    logger.info("draining for at most %g s", repo.settings.serving.drain_seconds)
    server.stop()
    collector.stop()
