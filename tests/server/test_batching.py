"""Several callers' work in one run: each gets its own result, whatever becomes of the others."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import DeadlineExceeded
from feast_recsys.server.batching import Batcher
from feast_recsys.server.deadline import Deadline


class Device:
    """Runs batches one at a time, and only as fast as the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Semaphore(0)
        self.running = threading.Semaphore(0)
        self.busy = threading.Lock()

    def run(self, items: Sequence[int]) -> list[int]:
        assert self.busy.acquire(blocking=False), "two batches at the same time"
        self.batches.append(list(items))
        self.running.release()
        self.gate.acquire()
        self.busy.release()
        if any(item < 0 for item in items):
            raise ValueError(f"no square of {min(items)}")
        return [item * item for item in items]

    def open(self) -> None:
        self.gate.release(1_000)


@dataclass
class Caller:
    """A caller in a thread of its own, and what it got."""

    thread: threading.Thread
    got: list[object]

    def result(self) -> object:
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.got[0]


def call(batcher: Batcher[int, int], item: int, deadline: Deadline = Deadline()) -> Caller:  # noqa: B008 -- frozen
    got: list[object] = []

    def submit() -> None:
        try:
            got.append(batcher.submit(item, deadline))
        except Exception as error:
            got.append(error)

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    return Caller(thread, got)


def waiting(batcher: Batcher[int, int], n: int) -> None:
    """Returns once n callers stand in line."""
    while len(batcher._waiting) < n:
        threading.Event().wait(0.001)


def behind_a_first_one(device: Device, limit: int = 100) -> tuple[Batcher[int, int], Caller]:
    """A batcher whose first caller is being served, so that whoever comes now has to wait."""
    batcher = Batcher(device.run, lambda item: max(abs(item), 1), limit)
    first = call(batcher, 1)
    device.running.acquire()
    return batcher, first


def line_up(batcher: Batcher[int, int], items: Sequence[int]) -> list[Caller]:
    """Callers that wait in this order."""
    callers = []
    for n, item in enumerate(items, start=1):
        callers.append(call(batcher, item))
        waiting(batcher, n)
    return callers


def test_a_caller_alone_is_served_alone():
    device = Device()
    device.open()
    assert Batcher(device.run, abs, 10).submit(7, Deadline()) == 49
    assert device.batches == [[7]]


def test_whoever_waits_is_served_together():
    device = Device()
    batcher, first = behind_a_first_one(device)
    others = line_up(batcher, [2, 3, 4])
    device.open()
    assert [c.result() for c in (first, *others)] == [1, 4, 9, 16]
    assert device.batches == [[1], [2, 3, 4]]


def test_a_batch_holds_no_more_candidates_than_the_limit_and_one_larger_item_is_run_alone():
    device = Device()
    batcher, first = behind_a_first_one(device, limit=10)
    others = line_up(batcher, [4, 5, 3, 12, 1])
    device.open()
    assert [c.result() for c in (first, *others)] == [1, 16, 25, 9, 144, 1]
    assert device.batches == [[1], [4, 5], [3], [12], [1]]


def test_who_is_gone_or_late_is_left_out_and_hurts_nobody():
    device = Device()
    batcher, first = behind_a_first_one(device)
    gone = threading.Event()
    cancelled = call(batcher, 2, Deadline(active=lambda: not gone.is_set()))
    waiting(batcher, 1)
    late = call(batcher, 3, Deadline.within(0.05))
    patient = call(batcher, 4)
    assert isinstance(late.result(), DeadlineExceeded)
    waiting(batcher, 2)
    gone.set()
    device.open()
    assert patient.result() == 16
    assert isinstance(cancelled.result(), DeadlineExceeded)
    assert first.result() == 1
    assert device.batches == [[1], [4]]


def test_the_error_of_one_is_not_the_error_of_another():
    device = Device()
    batcher, first = behind_a_first_one(device)
    good, bad, fine = line_up(batcher, [2, -3, 4])
    device.open()
    assert (first.result(), good.result(), fine.result()) == (1, 4, 16)
    error = bad.result()
    assert isinstance(error, ValueError)
    assert str(error) == "no square of -3"
    assert device.batches == [[1], [2, -3, 4], [2], [-3], [4]]


@settings(max_examples=30, deadline=None)
@given(
    items=st.lists(st.integers(-50, 50), min_size=1, max_size=60), limit=st.integers(1, 120), threads=st.integers(1, 8)
)
def test_any_callers_get_their_own(items, limit, threads):
    device = Device()
    device.open()
    batcher = Batcher(device.run, lambda item: max(abs(item), 1), limit)

    def submit(item: int) -> object:
        try:
            return batcher.submit(item, Deadline())
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(threads) as pool:
        got = list(pool.map(submit, items))
    assert got == [item * item if item >= 0 else f"no square of {item}" for item in items]
    assert all(len(batch) == 1 or sum(max(abs(i), 1) for i in batch) <= limit for batch in device.batches)


def test_a_deadline_that_passed_before_is_refused_and_the_line_moves_on():
    device = Device()
    device.open()
    batcher = Batcher(device.run, abs, 10)
    with pytest.raises(DeadlineExceeded):
        batcher.submit(2, Deadline.within(0.0))
    assert batcher.submit(3, Deadline()) == 9
