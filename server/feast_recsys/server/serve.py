"""A whole server, from its settings to its end."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from feast_recsys.features.settings import Settings
from feast_recsys.server.imports import import_server, limit_threads, quickly

logger = logging.getLogger(__name__)


def serve(
    settings: Settings,
    folder: Path,
    feature_store_yaml: Path | None = None,
    *,
    address: str | None = None,
    announce: Callable[[str], None] = logger.info,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends everything at once.

    It takes the process over, and imports Feast and NumPy itself, in the way that is best for a server: call it
    before they are imported.

    Args:
        settings: The repository's.
        folder: Folder of the Feast repository.
        feature_store_yaml: Another configuration file than the folder's own.
        address: Where to listen instead of the settings' address.
        announce: Told where metrics are and where the server listens, a line each, once all workers do.

    Raises:
        InvalidSettings: an address can't be listened on.
        InvalidRepository: Feast refuses the repository.
        RecsysError: workers end as soon as they begin.
    """
    limit_threads(settings.serving)
    hurried = _serve(settings, folder, feature_store_yaml, address or settings.serving.address, announce)
    if hurried is not None:
        os.kill(os.getpid(), hurried)  # as if nobody had handled it


def _serve(
    settings: Settings, folder: Path, yaml: Path | None, address: str, announce: Callable[[str], None]
) -> int | None:
    # Not before the threads are limited: these import NumPy.
    from feast_recsys.server.children import Life, rename
    from feast_recsys.server.exposition import listen, with_port
    from feast_recsys.server.ports import HeldPort
    from feast_recsys.server.seat import Seat
    from feast_recsys.server.supervisor import Supervisor

    rename("supervisor")
    serving, announcements = settings.serving, []
    with ExitStack() as undo:
        port = HeldPort(address)
        port.take()
        undo.callback(port.close)
        metrics = None
        if serving.metrics_address is not None:
            metrics = undo.enter_context(listen(serving.metrics_address))
            announcements.append(f"metrics at http://{with_port(serving.metrics_address, metrics)}/metrics")
        announcements.append(f"listening on {port.address}")
        shared = Path(tempfile.mkdtemp(prefix="feast-recsys-"))
        undo.callback(shutil.rmtree, shared, ignore_errors=True)

        def listening() -> None:
            for line in announcements:
                announce(line)

        supervisor = Supervisor(serving, folder / settings.bundles, shared, metrics, listening)
        supervisor.start()
        undo.callback(supervisor.close)
        with quickly():
            from feast_recsys.features.repo import open_repo

            repo = replace(open_repo(folder, yaml), settings=settings)
            import_server(repo.store.config.online_store)
        # Collections in a worker would write to every object that it shares, and so copy it.
        gc.disable()
        gc.collect()
        gc.freeze()

        def work(seat: Seat, report: int, life: Life) -> None:
            from feast_recsys.server.worker import work as serve_calls

            port.close()
            serve_calls(repo, port.address, seat, report, life)

        return supervisor.run(work)
