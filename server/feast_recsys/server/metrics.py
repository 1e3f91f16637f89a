"""What Prometheus sees of a server."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

# Import this module before Feast: Feast sets PROMETHEUS_MULTIPROC_DIR when it is imported, and a prometheus_client
# that comes after it writes every count to a mapped file.
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.server.deadline import Deadline

# Seconds; the floor of a call is a few hundred microseconds.
BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters and histograms of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Calls answered.", "rpc", "recommender", "code")
        self._latency = self._histogram("request_seconds", "Time from decoding to encoding.", "rpc")
        self._stages = self._histogram("stage_seconds", "Time in one stage of a call.", "rpc", "stage")
        self._defaults = self._counter("defaults", "Values replaced by the default.", "feature", "status")
        self._degraded = self._counter("degraded_replies", "Replies that say they are degraded.", "reason")
        self._store = self._counter("store_failures", "Reads of the online store that failed.", "kind")
        self._swaps = self._counter("bundle_swaps", "Bundles taken into service.")
        self._refusals = self._counter("bundle_failures", "Bundles refused, once per attempt.")
        self._refreshes = self._counter("plan_refresh_failures", "Refreshes that kept the old read plans.")
        self._bundle = self._gauge("bundle_info", "1 for the bundle in service.", "bundle_id")
        self._as_of = self._gauge("bundle_as_of_seconds", "Unix time at which the bundle's features were read.")
        self._age = self._gauge("bundle_age_seconds", "Time since then.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"feast_recsys_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"feast_recsys_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"feast_recsys_{name}", text, labels, registry=self.registry, buckets=BUCKETS)

    def request(self, rpc: str, recommender: str, code: str, seconds: float) -> None:
        """Counts one answered call."""
        self._requests.labels(rpc, recommender, code).inc()
        self._latency.labels(rpc).observe(seconds)

    def stage(self, rpc: str, stage: str, seconds: float) -> None:
        """Records the time that one stage of a call took."""
        self._stages.labels(rpc, stage).observe(seconds)

    def defaults(self, feature: str, column: Column) -> None:
        """Counts the rows of a column whose value a default replaces."""
        if column.valid.all():
            return
        for status, count in enumerate(np.bincount(column.status[~column.valid]).tolist()):
            if count:
                self._defaults.labels(feature, FieldStatus(status).name).inc(count)

    def degraded(self, reasons: Iterable[str]) -> None:
        """Counts one degraded reply under each of its reasons."""
        for reason in reasons:
            self._degraded.labels(reason).inc()

    def store_failed(self, kind: str) -> None:
        """Counts a failed read: `error`, `timeout`, or `refused` for one that was not even begun."""
        self._store.labels(kind).inc()

    def bundle_loaded(self, bundle_id: str, as_of: int) -> None:
        """Records the bundle that is in service from now on; `as_of` in unix seconds."""
        self._swaps.inc()
        self._bundle.clear()
        self._bundle.labels(bundle_id).set(1)
        self._as_of.set(as_of)
        self._age.set_function(lambda: time.time() - as_of)

    def bundle_refused(self) -> None:
        """Counts a bundle that could not be taken into service."""
        self._refusals.inc()

    def refresh_failed(self) -> None:
        """Counts a refresh that kept the old read plans."""
        self._refreshes.inc()


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
