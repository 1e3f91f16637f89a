"""Keeps the shelf filled: new bundles as they are published, read plans as the registry changes.

Two threads, both off the request path. Whatever they prepare replaces one reference when it is complete; whatever
fails leaves that reference alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from feast_recsys.bundle.errors import CorruptArtifact, RecsysError
from feast_recsys.bundle.manifest import MANIFEST_FILE
from feast_recsys.bundle.store import POINTER, current, open_bundle
from feast_recsys.features.repo import Repo
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.prepare import prepare
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.state import Held, ServingState, Shelf
from feast_recsys.server.warmup import warm_up

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between attempts to load a bundle that was refused; they double up to this."""

_JOIN_SECONDS = 5.0  # a registry that hangs must not keep the process


class BundleKeeper:
    """Watches the pointer and the registry.

    Args:
        repo: The repository; its settings say where bundles are and how often to look.
        shelf: What to fill.
        reads: Reads the online store once per bundle, so that the first caller does not open the connection.
        metrics: Where swaps and failures are counted.
        on_loaded: Called after each swap, in the watcher's thread.
    """

    def __init__(
        self, repo: Repo, shelf: Shelf, reads: StoreReads, metrics: Metrics, on_loaded: Callable[[], None]
    ) -> None:
        self._repo, self._shelf, self._reads, self._metrics = repo, shelf, reads, metrics
        self._on_loaded = on_loaded
        self._root = repo.resolve(repo.settings.bundles)
        self._writing = threading.Lock()
        self._preparing = threading.Lock()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._refused: str | None = None
        self._pause = 0.0
        self._retry_at = 0.0

    def start(self) -> None:
        """Starts the threads; the first bundle is loaded by one of them."""
        serving = self._repo.settings.serving
        for name, work, seconds in (
            ("bundle-watcher", self.look, serving.poll_seconds),
            ("plan-refresher", self.refresh, serving.refresh_seconds),
        ):
            thread = threading.Thread(target=self._repeat, args=(work, seconds), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ends the threads after what they are doing now."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def look(self) -> None:
        """Takes the published bundle into service, unless it is there already, or was refused just now."""
        pausing = time.monotonic() < self._retry_at
        if pausing and self._refused == POINTER:
            return
        try:
            wanted = current(self._root)
        except (OSError, UnicodeDecodeError) as error:
            self._refuse(POINTER, error)
            return
        held = self._shelf.held
        if wanted is None or (held.current is not None and held.current.bundle.id == wanted):
            return
        if pausing and self._refused == wanted:
            return
        try:
            before = held.previous
            self._put(before if before is not None and before.bundle.id == wanted else self._load(wanted))
        except Exception as error:
            self._refuse(wanted, error)

    def refresh(self) -> None:
        """Compiles the read plans of what is held anew; keeps the old ones where that fails."""
        for state in (self._shelf.held.current, self._shelf.held.previous):
            if state is None:
                continue
            try:
                with self._preparing:
                    fresh = prepare(self._repo, state.bundle)
            except Exception:
                logger.exception("the read plans for bundle %s can't be refreshed; the old ones stay", state.bundle.id)
                self._metrics.refresh_failed()
                continue
            with self._writing:
                held = self._shelf.held
                if held.current is state:
                    self._shelf.held = replace(held, current=fresh)
                elif held.previous is state:
                    self._shelf.held = replace(held, previous=fresh)

    def _load(self, bundle_id: str) -> ServingState:
        started = time.monotonic()
        bundle = open_bundle(self._root / bundle_id)
        if bundle.id != bundle_id:
            raise CorruptArtifact(f"{MANIFEST_FILE} of {self._root / bundle_id} is that of bundle {bundle.id}")
        with self._preparing:
            state = prepare(self._repo, bundle)
        warm_up(state, candidates=self._repo.settings.serving.max_candidates)
        self._read_once(state)
        seconds = time.monotonic() - started
        logger.info("bundle %s with %d items is ready after %.1f s", bundle_id, len(bundle.snapshot), seconds)
        return state

    def _read_once(self, state: ServingState) -> None:
        """Feast opens its store on the first read, without a lock; a store that is down delays nothing."""
        for served in state.recommenders.values():
            for source in {id(s): s for s in served.sources.values()}.values():
                try:
                    self._reads.begin(source, state.user_key.parse("0")).result(Deadline())
                except RecsysError as error:
                    logger.warning("the first read of bundle %s failed: %s", state.bundle.id, error)

    def _put(self, state: ServingState) -> None:
        with self._writing:
            held = self._shelf.held
            self._shelf.held = Held(current=state, previous=held.current)
        self._refused, self._pause = None, 0.0
        self._metrics.bundle_loaded(state.bundle.id, state.bundle.manifest.as_of)
        logger.info("bundle %s is in service", state.bundle.id)
        self._on_loaded()

    def _refuse(self, bundle_id: str, error: Exception) -> None:
        if bundle_id != self._refused:
            self._refused, self._pause = bundle_id, self._repo.settings.serving.poll_seconds
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._retry_at = time.monotonic() + self._pause
        stays = self._shelf.held.current
        logger.error(
            "bundle %s is refused: %s (%s; next attempt in %.1f s)",
            bundle_id,
            error,
            f"bundle {stays.bundle.id} stays in service" if stays is not None else "there is no other",
            self._pause,
            exc_info=None if isinstance(error, RecsysError) else error,
        )
        self._metrics.bundle_refused()

    def _repeat(self, work: Callable[[], None], seconds: float) -> None:
        while True:
            work()
            if self._stopping.wait(seconds):
                return
