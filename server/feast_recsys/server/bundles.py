"""Keeps the shelf filled: new bundles as they are published, read plans as the registry changes.

Two threads, both off the request path. Whatever they prepare replaces one reference when it is complete; whatever
fails leaves that reference alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from feast_recsys.bundle.errors import CorruptArtifact, RecsysError
from feast_recsys.bundle.manifest import MANIFEST_FILE
from feast_recsys.bundle.runtime import Execution
from feast_recsys.bundle.store import POINTER, current, open_bundle
from feast_recsys.features.repo import Repo
from feast_recsys.server.courtesy import Courtesy
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.prepare import prepare
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.refusals import Refusals
from feast_recsys.server.seat import Seat
from feast_recsys.server.state import Held, ServingState, Shelf
from feast_recsys.server.warmup import warm_up

logger = logging.getLogger(__name__)

_JOIN_SECONDS = 5.0  # a registry that hangs must not keep the process


class BundleKeeper:
    """Watches the pointer and the registry.

    Args:
        repo: The repository; its settings say where bundles are and how often to look.
        shelf: What to fill.
        reads: Reads the online store once per bundle, so that the first caller does not open the connection.
        metrics: Where swaps and failures are counted.
        on_loaded: Called after each swap, in the watcher's thread.
        seat: Where to see which bundle was verified, and whose turn it is to load it; None to verify here.
    """

    def __init__(
        self,
        repo: Repo,
        shelf: Shelf,
        reads: StoreReads,
        metrics: Metrics,
        on_loaded: Callable[[], None],
        seat: Seat | None = None,
    ) -> None:
        self._repo, self._shelf, self._reads, self._metrics = repo, shelf, reads, metrics
        self._on_loaded, self._seat = on_loaded, seat
        self._root = repo.resolve(repo.settings.bundles)
        self._refusals = Refusals(metrics, repo.settings.serving.poll_seconds)
        self._writing = threading.Lock()
        self._preparing = threading.Lock()
        self._courtesy = Courtesy()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the threads; the first bundle is loaded by one of them."""
        serving = self._repo.settings.serving
        for name, work, first, seconds in (
            ("bundle-watcher", self.look, 0.0, serving.poll_seconds),
            ("plan-refresher", self.refresh, serving.refresh_seconds, serving.refresh_seconds),
        ):
            thread = threading.Thread(target=self._repeat, args=(work, first, seconds), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Ends the threads after what they are doing now."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)

    def look(self) -> None:
        """Takes the published bundle into service, unless it is there already, or was refused just now."""
        if self._refusals.pausing(POINTER):
            return
        try:
            wanted = current(self._root if self._seat is None else self._seat.folder)
        except (OSError, UnicodeDecodeError) as error:
            self._refuse(POINTER, error)
            return
        held = self._shelf.held
        if wanted is None or (held.current is not None and held.current.bundle.id == wanted):
            return
        if self._refusals.pausing(wanted):
            return
        # One worker after the other, so that most of them answer undisturbed; all at once where nobody answers yet.
        turn = self._seat.turn() if self._seat is not None and held.current is not None else nullcontext(True)
        with turn as mine:
            if mine:
                self._take(wanted, held.previous)

    def refresh(self) -> None:
        """Compiles the read plans of what is held anew; keeps the old ones where that fails."""
        for state in (self._shelf.held.current, self._shelf.held.previous):
            if state is None:
                continue
            try:
                with self._preparing:
                    fresh = prepare(self._repo, state.bundle, state.filters)
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

    def _take(self, wanted: str, before: ServingState | None) -> None:
        try:
            self._put(before if before is not None and before.bundle.id == wanted else self._load(wanted))
        except Exception as error:
            self._refuse(wanted, error)

    def _load(self, bundle_id: str) -> ServingState:
        started = time.monotonic()
        execution = Execution(device=self._repo.settings.serving.device)
        bundle = open_bundle(self._root / bundle_id, execution, verified=self._seat is not None)
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
            for reading in {id(r): r for r in served.readings.values() if r is not None}.values():
                try:
                    self._reads.warm_up(reading)
                except RecsysError as error:
                    logger.warning("the first read of bundle %s failed: %s", state.bundle.id, error)

    def _put(self, state: ServingState) -> None:
        with self._writing:
            held = self._shelf.held
            self._shelf.held = Held(current=state, previous=held.current)
        self._refusals.forget()
        self._metrics.bundle_loaded(state.bundle.id, state.bundle.manifest.as_of)
        logger.info("bundle %s is in service", state.bundle.id)
        self._on_loaded()

    def _refuse(self, bundle_id: str, error: Exception) -> None:
        stays = self._shelf.held.current
        self._refusals.refuse(bundle_id, error, stays.bundle.id if stays is not None else None)

    def _repeat(self, work: Callable[[], None], first: float, seconds: float) -> None:
        pause = first
        while not self._stopping.wait(pause):
            with self._courtesy:
                work()
            pause = seconds
