"""Reads of the online store: each in a thread that may hang without the call hanging with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.errors import OnlineStoreUnavailable, RecsysError
from feast_recsys.features.reader import OnlineReader
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.requests import UserStatus

logger = logging.getLogger(__name__)

Key = int | str
STORE_UNAVAILABLE = "ONLINE_STORE_UNAVAILABLE"


@dataclass(frozen=True)
class Source:
    """What one kind of call reads of a user.

    Attributes:
        reader: Reads the row.
        absent: The columns of a user of whom nothing is known, one row each, for when the store is down.
        inputs: References that are inputs of a model; the others are lists of seen items.
    """

    reader: OnlineReader
    absent: Mapping[str, Column]
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class User:
    """What the store said of a user: one row per reference, and why it may say less than it could."""

    columns: Mapping[str, Column]
    status: UserStatus
    degraded: tuple[str, ...] = ()


NOBODY_ASKED = User({}, UserStatus.UNSPECIFIED)


class _Job:
    """One read: handed to a thread, waited for by another."""

    __slots__ = ("columns", "error", "finished", "given_up", "key", "lock", "reader", "running")

    def __init__(self, reader: OnlineReader, key: Key) -> None:
        self.reader, self.key = reader, key
        self.lock = threading.Lock()
        self.lock.acquire()
        self.columns: Mapping[str, Column] = {}
        self.error: Exception | None = None
        self.running = self.finished = self.given_up = False


class StoreReads:
    """Daemon threads that read the online store, and the policy for when it does not answer.

    The threads are not those of concurrent.futures: Python waits for these at exit, and one that hangs in a store would
    keep the process alive.

    Args:
        threads: Reads at the same time. When all of them hang, further ones fail at once.
        timeout: Seconds that one read may take.
        policy: What a failed read means: defaults and a reason, or an error.
        metrics: Where failures are counted.
    """

    def __init__(self, *, threads: int, timeout: float, policy: Literal["degrade", "fail"], metrics: Metrics) -> None:
        self._threads, self._timeout, self._policy, self._metrics = threads, timeout, policy, metrics
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._hanging = 0
        self._failing = False

    def start(self) -> None:
        """Starts the threads."""
        for n in range(self._threads):
            threading.Thread(target=self._work, name=f"store-read-{n}", daemon=True).start()

    def stop(self) -> None:
        """Lets the threads end after what they are reading now; waits for none of them."""
        for _ in range(self._threads):
            self._queue.put(None)

    def begin(self, source: Source | None, key: Key) -> Read:
        """Begins to read a user; None as source reads nothing."""
        if source is None:
            return Read(self, None, None, 0.0)
        if self._hanging >= self._threads:
            return Read(self, source, None, 0.0)
        job = _Job(source.reader, key)
        self._queue.put(job)
        return Read(self, source, job, time.monotonic() + self._timeout)

    def finish(self, read: Read, deadline: Deadline) -> User:
        """See Read.result."""
        if read.source is None:
            return NOBODY_ASKED
        try:
            columns = self._wait(read.job, read.limit, deadline)
        except OnlineStoreUnavailable as error:
            self._report(error)
            if self._policy == "fail":
                raise
            return User(read.source.absent, UserStatus.UNSPECIFIED, (STORE_UNAVAILABLE,))
        if self._failing:
            self._failing = False
            logger.warning("the online store answers again")
        known = any(c.status[0] != FieldStatus.NOT_FOUND for c in columns.values())
        return User(columns, UserStatus.KNOWN if known else UserStatus.UNKNOWN)

    def _wait(self, job: _Job | None, limit: float, deadline: Deadline) -> Mapping[str, Column]:
        if job is None:
            self._metrics.store_failed("refused")
            raise OnlineStoreUnavailable(f"the online store left {self._threads} reads unanswered; try again later")
        if not job.lock.acquire(timeout=max(min(limit, deadline.expires) - time.monotonic(), 0.0)):
            self._give_up(job)
            deadline.check("waiting for the online store")
            self._metrics.store_failed("timeout")
            raise OnlineStoreUnavailable(f"the online store did not answer within {self._timeout * 1000:.0f} ms")
        if job.error is None:
            return job.columns
        if isinstance(job.error, RecsysError) and not isinstance(job.error, OnlineStoreUnavailable):
            raise job.error
        self._metrics.store_failed("error")
        raise OnlineStoreUnavailable("the online store can't be read; the server's log says why") from job.error

    def _report(self, error: OnlineStoreUnavailable) -> None:
        """Logs the first failure of an outage; the counter has the others."""
        if not self._failing:
            self._failing = True
            logger.warning("%s (further failures are only counted)", error, exc_info=error.__cause__)

    def _give_up(self, job: _Job) -> None:
        with self._lock:
            job.given_up = True
            if job.running and not job.finished:
                self._hanging += 1

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if job.given_up:
                    continue
                job.running = True
            try:
                job.columns = job.reader.read([job.key])
            except Exception as error:  # stores raise what their client libraries raise
                job.error = error
            with self._lock:
                job.finished = True
                self._hanging -= job.given_up
            job.lock.release()


@dataclass(frozen=True, slots=True)
class Read:
    """A read that has begun."""

    owner: StoreReads
    source: Source | None
    job: _Job | None
    limit: float

    def result(self, deadline: Deadline) -> User:
        """Waits for the read, until its own limit or the call's.

        Raises:
            OnlineStoreUnavailable: the store failed or was too slow, and the policy is `fail`.
            StaleFeature: a value is older than its view's ttl, and the view's policy is `fail`.
            DeadlineExceeded: the call's deadline passed first.
        """
        return self.owner.finish(self, deadline)
