"""Work of several callers done together, without a thread of its own.

Whoever finds nobody at work does the work of all that wait, itself included, and then hands over to the longest waiting
(flat combining: Hendler, Incze, Shavit and Tzafrir 2010). A caller alone pays one lock; a batch forms only while the
one before it is running, so nobody waits for a batch to fill.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from feast_recsys.bundle.errors import DeadlineExceeded
from feast_recsys.server.deadline import Deadline

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING = "waiting for its batch"


class Batcher(Generic[Item, Result]):
    """Runs what callers submit, several at a time.

    Args:
        run: One result for each item, in order. If it fails for several items, each is run alone, so that no caller
            gets the error of another.
        size: Candidates of one item.
        limit: Most candidates in one run; a single larger item is run alone.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], size: Callable[[Item], int], limit: int
    ) -> None:
        self._run, self._size, self._limit = run, size, limit
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[Item, Result]] = deque()
        self._busy = False

    def submit(self, item: Item, deadline: Deadline) -> Result:
        """The result of one item.

        Raises:
            DeadlineExceeded: the time was up, or the caller gone, before the item's turn.
            Exception: whatever `run` raised for this item.
        """
        entry: _Entry[Item, Result] = _Entry(item, self._size(item), deadline)
        with self._lock:
            self._waiting.append(entry)
            leads = not self._busy
            self._busy = True
        if leads or self._wait(entry):
            self._lead()
        return entry.outcome()

    def _wait(self, entry: _Entry[Item, Result]) -> bool:
        """Waits for the result; True if the caller is to lead instead."""
        woken = entry.wake.acquire(timeout=min(entry.deadline.remaining(), threading.TIMEOUT_MAX))
        if woken:
            return entry.leads
        with self._lock:
            if entry.leads:  # asked in the very moment in which the time was up
                entry.wake.acquire()
                return True
            if entry in self._waiting:
                self._waiting.remove(entry)
        raise DeadlineExceeded(f"the deadline passed; the last thing done was: {_WAITING}")

    def _lead(self) -> None:
        """Runs one batch, then hands over."""
        try:
            with self._lock:
                batch = self._take()
            if batch:
                self._run_batch(batch)
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting[0].leads = True
                    self._waiting[0].wake.release()
                else:
                    self._busy = False

    def _take(self) -> list[_Entry[Item, Result]]:
        """The longest waiting entries that somebody still waits for, up to the limit."""
        batch: list[_Entry[Item, Result]] = []
        total = 0
        while self._waiting and (not batch or total + self._waiting[0].size <= self._limit):
            entry = self._waiting.popleft()
            try:
                entry.deadline.check(_WAITING)
            except DeadlineExceeded as error:
                entry.fail(error)
                continue
            batch.append(entry)
            total += entry.size
        return batch

    def _run_batch(self, batch: Sequence[_Entry[Item, Result]]) -> None:
        try:
            results = self._run([entry.item for entry in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for entry in batch:
                self._run_batch([entry])
            return
        for entry, result in zip(batch, results, strict=True):
            entry.finish(result)


class _Entry(Generic[Item, Result]):
    """What one caller submitted, and what became of it."""

    __slots__ = ("deadline", "error", "item", "leads", "result", "size", "wake")

    def __init__(self, item: Item, size: int, deadline: Deadline) -> None:
        self.item, self.size, self.deadline = item, size, deadline
        self.leads = False
        self.result: list[Result] = []
        self.error: Exception | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def finish(self, result: Result) -> None:
        self.result.append(result)
        self.wake.release()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.wake.release()

    def outcome(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.result[0]
