"""The process beside the workers: verifies bundles for all of them, and answers for all of them to Prometheus.

Both would cost the workers dearly: hashing a bundle takes seconds, and a page holds the interpreter for milliseconds.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from prometheus_client import CollectorRegistry

from feast_recsys.bundle.store import POINTER, current, verify_published
from feast_recsys.server.children import Life
from feast_recsys.server.exposition import Page, PageServer, read_folder
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.refusals import Refusals
from feast_recsys.server.seat import point_workers

logger = logging.getLogger(__name__)

NAME = "warden"
_NICENESS = 10

Traces = frozenset[tuple[str, int, int, int]]


def watch(root: Path, shared: Path, poll_seconds: float, listener: socket.socket | None, life: Life) -> None:
    """Looks for new bundles until it is told to end.

    Args:
        root: Folder of bundles.
        shared: The workers' folder; its pointer is set to what was verified.
        poll_seconds: How often to look.
        listener: Where to answer with metrics; None for nowhere.
        life: Says when to end. The folder goes with it.
    """
    life.begin(heed_sigterm=False)
    gc.enable()
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, shared, ignore_errors=True)
        if listener is not None:
            registry = CollectorRegistry()
            registry.register(Page(lambda: read_folder(shared)))
            page = PageServer(listener, registry)
            page.start()
            undo.callback(page.stop)
        verifier = Verifier(root, shared, Metrics(shared / NAME).open(), poll_seconds)
        verifier.look()
        os.nice(_NICENESS)  # the first bundle is waited for, the later ones are not
        while not life.over(poll_seconds):
            verifier.look()


class Verifier:
    """Points workers to published bundles whose checksums are right.

    Args:
        root: Folder of bundles.
        shared: The workers' folder.
        metrics: Where refusals are counted.
        poll_seconds: Pause before the second attempt, halved.
    """

    def __init__(self, root: Path, shared: Path, metrics: Metrics, poll_seconds: float) -> None:
        self._root, self._shared = root, shared
        self._refusals = Refusals(metrics, poll_seconds)
        self._verified: dict[str, Traces] = {}

    def look(self) -> None:
        """Verifies the published bundle, unless it was verified last, or refused just now."""
        if self._refusals.pausing(POINTER):
            return
        stays = current(self._shared)
        wanted: str | None = POINTER
        try:
            wanted = current(self._root)
            if wanted is None or wanted == stays or self._refusals.pausing(wanted):
                return
            traces = _traces(self._root / wanted)
            if self._verified.get(wanted) != traces:
                self._verify(wanted)
            # A roll-back to the one before must not wait for another hashing of it.
            self._verified = {name: t for name, t in self._verified.items() if name == stays} | {wanted: traces}
            point_workers(self._shared, wanted)
        except Exception as error:
            self._refusals.refuse(str(wanted), error, stays)
        else:
            self._refusals.forget()

    def _verify(self, bundle_id: str) -> None:
        started = time.monotonic()
        manifest = verify_published(self._root, bundle_id)
        size = sum(file.bytes for file in manifest.files.values())
        seconds = time.monotonic() - started
        logger.info("bundle %s is verified: %.1f MB in %.1f s", bundle_id, size / 1e6, seconds)


def _traces(folder: Path) -> Traces:
    """What changes when somebody changes a file: number on the disk, size, time of the last change."""
    found = [(str(path), path.stat()) for path in folder.rglob("*")]
    return frozenset((name, stat.st_ino, stat.st_size, stat.st_ctime_ns) for name, stat in found)
