"""Reads of the online store that a call can give up: bounded by the store's own means, or in a thread that may hang."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Literal

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.errors import OnlineStoreUnavailable, RecsysError
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.user_reader import Pending
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.requests import UserStatus
from feast_recsys.server.users import Key, Reading, Users, repeated

logger = logging.getLogger(__name__)

STORE_UNAVAILABLE = "ONLINE_STORE_UNAVAILABLE"


class _Job:
    """One read: handed to a thread, waited for by another."""

    __slots__ = ("columns", "error", "finished", "given_up", "lock", "read", "running")

    def __init__(self, read: Callable[[], Mapping[str, Column]]) -> None:
        self.read = read
        self.lock = threading.Lock()
        self.lock.acquire()
        self.columns: Mapping[str, Column] = {}
        self.error: Exception | None = None
        self.running = self.finished = self.given_up = False


@dataclass(frozen=True, slots=True)
class Read:
    """A read of `rows` rows that has begun; without a job it was refused. `limit` is on the clock of
    `time.monotonic`."""

    job: _Job | Pending | None
    limit: float
    rows: int


class StoreReads:
    """Reads of the online store, and the policy for when it does not answer.

    Where the store has no way to bound a read, daemon threads read. They are not those of concurrent.futures: Python
    waits for these at exit, and one that hangs in a store would keep the process alive.

    Args:
        threads: Reads at the same time in threads. When all of them hang, further ones fail at once; so do bounded
            reads but one at a time, when as many in a row had no answer.
        timeout: Seconds that one read may take.
        policy: What a failed read means: defaults and a reason, or an error.
        metrics: Where failures are counted.
    """

    def __init__(self, *, threads: int, timeout: float, policy: Literal["degrade", "fail"], metrics: Metrics) -> None:
        self._threads, self._timeout, self._policy, self._metrics = threads, timeout, policy, metrics
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._hanging = 0
        self._unanswered = 0
        self._probing = False
        self._failing = False

    def start(self) -> None:
        """Starts the threads."""
        for n in range(self._threads):
            threading.Thread(target=self._work, name=f"store-read-{n}", daemon=True).start()

    def stop(self) -> None:
        """Lets the threads end after what they are reading now; waits for none of them."""
        for _ in range(self._threads):
            self._queue.put(None)

    def begin_users(self, reading: Reading, keys: Sequence[Mapping[str, Key]], request: Mapping[str, Any]) -> Read:
        """Begins to read users, one at least.

        Args:
            reading: What to read.
            keys: Ids of each user and of further entities, by join key.
            request: Values of the request by name, the same for all, for on-demand views; None is null.

        Raises:
            InvalidArgument: an id or a value of the request is missing or can't be what the store needs; `field` is its
                name. Where threads read, `users` raises it.
        """
        limit = time.monotonic() + self._timeout
        if reading.fast is not None:
            if not self._may_ask():
                return Read(None, limit, len(keys))
            try:
                return Read(reading.fast.begin_many(keys, request), limit, len(keys))
            except RecsysError:  # the request is wrong; of the store nothing was learned
                self._release()
                raise
        read, n = reading.reader.read, len(keys)
        ids = {name: [key[name] for key in keys] for name in keys[0]}
        return self._hand_over(lambda: read(ids, {k: [v] * n for k, v in request.items()}), n)

    def warm_up(self, reading: Reading) -> None:
        """Reads somebody once: Feast opens its store on the first read, without a lock.

        Raises:
            RecsysError: the store failed, or the read can't be made.
        """
        plan = reading.reader.plan
        ids = {name: key.parse("0") for name, key in plan.join_keys.items()}
        read = self.begin_users(reading, [ids], dict.fromkeys(plan.request_fields))
        self.users(reading, read, Deadline())

    def begin_items(self, reader: OnlineReader, ids: Sequence[Key]) -> Read:
        """Begins to read items, in a thread."""
        return self._hand_over(lambda: reader.read(ids), len(ids))

    def abandon(self, read: Read) -> None:
        """Gives up a read that nobody waits for any more."""
        if isinstance(read.job, _Job):
            self._give_up(read.job)
        elif read.job is not None:
            read.job.abandon()
            self._release()

    def users(self, reading: Reading, read: Read, deadline: Deadline) -> Users:
        """Waits for users, until the read's own limit or the call's.

        Raises:
            OnlineStoreUnavailable: the store failed or was too slow, and the policy is `fail`.
            StaleFeature: a value is older than its view's ttl, and the view's policy is `fail`.
            DeadlineExceeded: the call's deadline passed first.
            InvalidArgument: see `begin_users`.
        """
        columns = self.columns(read, deadline)
        n = read.rows
        if columns is None:
            absent = {reference: repeated(column, n) for reference, column in reading.absent.items()}
            return Users(absent, (UserStatus.UNSPECIFIED,) * n, (STORE_UNAVAILABLE,))
        statuses = [columns[reference].status for reference in reading.about_user]
        known = (any(status[at] != FieldStatus.NOT_FOUND for status in statuses) for at in range(n))
        return Users(columns, tuple(UserStatus.KNOWN if is_known else UserStatus.UNKNOWN for is_known in known))

    def columns(self, read: Read, deadline: Deadline) -> Mapping[str, Column] | None:
        """What was read, by reference; None if the store failed and the policy is `degrade`.

        Raises:
            OnlineStoreUnavailable, StaleFeature, DeadlineExceeded, InvalidArgument: see `users`.
        """
        try:
            columns = self._wait(read, deadline)
        except OnlineStoreUnavailable as error:
            self._report(error)
            if self._policy == "fail":
                raise
            return None
        if self._failing:
            self._failing = False
            logger.warning("the online store answers again")
        return columns

    def _may_ask(self) -> bool:
        """While the store does not answer, one read at a time goes and looks."""
        if self._unanswered < self._threads:
            return True
        with self._lock:
            if self._probing:
                return False
            self._probing = True
        return True

    def _hand_over(self, work: Callable[[], Mapping[str, Column]], rows: int) -> Read:
        limit = time.monotonic() + self._timeout
        if self._hanging >= self._threads:
            return Read(None, limit, rows)
        job = _Job(work)
        self._queue.put(job)
        return Read(job, limit, rows)

    def _wait(self, read: Read, deadline: Deadline) -> Mapping[str, Column]:
        job = read.job
        if job is None:
            self._metrics.store_failed("refused")
            raise OnlineStoreUnavailable(f"the online store left {self._threads} reads unanswered; try again later")
        if not isinstance(job, _Job):
            return self._wait_bounded(job, read.limit, deadline)
        if not job.lock.acquire(timeout=max(min(read.limit, deadline.expires) - time.monotonic(), 0.0)):
            self._give_up(job)
            deadline.check("waiting for the online store")
            raise self._timed_out()
        if job.error is None:
            return job.columns
        if isinstance(job.error, RecsysError) and not isinstance(job.error, OnlineStoreUnavailable):
            raise job.error
        raise self._failed(job.error)

    def _wait_bounded(self, pending: Pending, limit: float, deadline: Deadline) -> Mapping[str, Column]:
        until = min(limit, deadline.expires)
        try:
            columns = pending.result(max(until - time.monotonic(), 0.0))
        except OnlineStoreUnavailable as error:
            now = time.monotonic()
            if now < until:
                self._answered(True)
                raise self._failed(error) from error
            if now < limit:  # a caller in a hurry says nothing of the store
                self._release()
                deadline.check("waiting for the online store")
            self._answered(False)
            deadline.check("waiting for the online store")
            raise self._timed_out() from error
        except RecsysError:
            self._answered(True)
            raise
        self._answered(True)
        return columns

    def _release(self) -> None:
        """Lets the next read go and look."""
        with self._lock:
            self._probing = False

    def _answered(self, in_time: bool) -> None:
        if in_time and not self._unanswered:
            return
        with self._lock:
            self._unanswered = 0 if in_time else self._unanswered + 1
            self._probing = False

    def _timed_out(self) -> OnlineStoreUnavailable:
        self._metrics.store_failed("timeout")
        return OnlineStoreUnavailable(f"the online store did not answer within {self._timeout * 1000:.0f} ms")

    def _failed(self, cause: Exception) -> OnlineStoreUnavailable:
        self._metrics.store_failed("error")
        error = OnlineStoreUnavailable("the online store can't be read; the server's log says why")
        error.__cause__ = cause
        return error

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
                job.columns = job.read()
            except Exception as error:  # stores raise what their client libraries raise
                job.error = error
            with self._lock:
                job.finished = True
                self._hanging -= job.given_up
            job.lock.release()
