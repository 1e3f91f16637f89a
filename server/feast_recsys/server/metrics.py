"""What Prometheus sees of a server."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

# Import this module before Feast: Feast sets PROMETHEUS_MULTIPROC_DIR when it is imported, and a prometheus_client
# that comes after it keeps its own numbers in mapped files.
from prometheus_client import CollectorRegistry

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.exposition import Page
from feast_recsys.server.families import (
    BUNDLE_AS_OF,
    BUNDLE_FAILURES,
    BUNDLE_INFO,
    BUNDLE_SWAPS,
    DEFAULTS,
    DEGRADED,
    FILTERS,
    PLAN_REFRESH_FAILURES,
    REQUEST_SECONDS,
    REQUESTS,
    STAGE_SECONDS,
    STORE_FAILURES,
)
from feast_recsys.server.tally import Tally


class Metrics:
    """What one server counts.

    Threads share it. Where the numbers of known labels live is remembered, so that a count costs no search.

    Args:
        path: Where the numbers live, for a process that answers for several; None keeps them in this one.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.registry = CollectorRegistry()
        self._tally = Tally(path)
        self.registry.register(Page(self._tally.entries))
        self._requests: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._stages: dict[tuple[str, str], int] = {}
        self._bundle: str | None = None

    def open(self) -> Metrics:
        """Opens the files, if there are any; a server that was there before counts on.

        Raises:
            OSError: they can't be made.
        """
        self._tally.open()
        for family in (BUNDLE_SWAPS, BUNDLE_FAILURES, PLAN_REFRESH_FAILURES, BUNDLE_AS_OF):
            self._tally.at(family)
        return self

    def request(self, rpc: str, recommender: str, code: str, seconds: float) -> None:
        """Counts one answered call."""
        key = (rpc, recommender, code)
        places = self._requests.get(key)
        if places is None:
            places = self._tally.at(REQUESTS, *key), self._tally.at(REQUEST_SECONDS, rpc)
            self._requests[key] = places
        self._tally.add(places[0])
        self._tally.observe(places[1], seconds)

    def stage(self, rpc: str, stage: str, seconds: float) -> None:
        """Records the time that one stage of a call took."""
        key = (rpc, stage)
        place = self._stages.get(key)
        if place is None:
            place = self._stages[key] = self._tally.at(STAGE_SECONDS, rpc, stage)
        self._tally.observe(place, seconds)

    def defaults(self, feature: str, column: Column) -> None:
        """Counts the rows of a column whose value a default replaces."""
        if column.valid.all():
            return
        for status, count in enumerate(np.bincount(column.status[~column.valid]).tolist()):
            if count:
                self._tally.add(self._tally.at(DEFAULTS, feature, FieldStatus(status).name), count)

    def degraded(self, reasons: Iterable[str]) -> None:
        """Counts one degraded reply under each of its reasons."""
        for reason in reasons:
            self._tally.add(self._tally.at(DEGRADED, reason))

    def store_failed(self, kind: str) -> None:
        """Counts a failed read: `error`, `timeout`, or `refused` for one that was not even begun."""
        self._tally.add(self._tally.at(STORE_FAILURES, kind))

    def filter_found(self, known: bool) -> None:
        """Counts one filter: a hit where what it lets pass was kept, else a miss."""
        self._tally.add(self._tally.at(FILTERS, "hit" if known else "miss"))

    def bundle_loaded(self, bundle_id: str, as_of: int) -> None:
        """Records the bundle that is in service from now on; `as_of` in unix seconds."""
        self._tally.add(self._tally.at(BUNDLE_SWAPS))
        if self._bundle is not None:
            self._tally.set(self._tally.at(BUNDLE_INFO, self._bundle), 0.0)
        self._tally.set(self._tally.at(BUNDLE_INFO, bundle_id), 1.0)
        self._bundle = bundle_id
        self._tally.set(self._tally.at(BUNDLE_AS_OF), as_of)

    def bundle_refused(self) -> None:
        """Counts a bundle that could not be taken into service."""
        self._tally.add(self._tally.at(BUNDLE_FAILURES))

    def refresh_failed(self) -> None:
        """Counts a refresh that kept the old read plans."""
        self._tally.add(self._tally.at(PLAN_REFRESH_FAILURES))


class Stages:
    """Times the stages of one call, and stops it between two of them once nobody waits for it."""

    __slots__ = ("_deadline", "_metrics", "_rpc", "_since")

    def __init__(self, metrics: Metrics, rpc: str, deadline: Deadline) -> None:
        self._metrics, self._rpc, self._deadline = metrics, rpc, deadline
        self._since = time.perf_counter()

    def done(self, stage: str) -> None:
        """Ends a stage; the next one begins.

        Raises:
            DeadlineExceeded: the time is up, or the caller cancelled.
        """
        now = time.perf_counter()
        self._metrics.stage(self._rpc, stage, now - self._since)
        self._since = now
        self._deadline.check(stage)
