"""An index whose server is down: searches fail at once and by name, and succeed once it is back."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from feast_recsys.bundle.errors import CorruptArtifact, IndexUnavailable, RecsysError
from feast_recsys.bundle.index import waiting
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Index
from feast_recsys.bundle.index.waiting import open_waiting

VECTORS = np.eye(4, 3, dtype=np.float32)


class Door:
    """Opens the index as often as it is asked, and fails while there is something wrong."""

    def __init__(self, wrong: RecsysError | None) -> None:
        self.wrong, self.asked = wrong, 0
        self.hold = threading.Event()
        self.hold.set()

    def __call__(self) -> Index:
        self.asked += 1
        self.hold.wait()
        if self.wrong is not None:
            raise self.wrong
        return ExactIndex(VECTORS)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_PAUSE_SECONDS", 0.0)


def eventually_found(index: Index) -> list[int]:
    end = time.monotonic() + 10
    while True:
        try:
            return [int(row) for row in index.search(VECTORS[:1], 1)[0][0]]
        except IndexUnavailable:
            assert time.monotonic() < end
            time.sleep(0.001)


def test_where_the_server_answers_it_is_opened_once() -> None:
    door = Door(None)
    index = open_waiting(door, VECTORS)
    assert (eventually_found(index), eventually_found(index), door.asked) == ([0], [0], 1)


def test_where_it_does_not_its_vectors_are_there_and_searches_fail_until_it_does() -> None:
    door = Door(IndexUnavailable("nobody at home"))
    index = open_waiting(door, VECTORS)
    assert (len(index), index.dimension) == (4, 3)
    np.testing.assert_array_equal(index.vectors_of(np.array([2, 0])), VECTORS[[2, 0]])
    with pytest.raises(IndexUnavailable, match="nobody at home"):
        index.search(VECTORS[:1], 1)
    door.wrong = None
    assert eventually_found(index) == [0]


def test_no_search_waits_for_an_attempt_and_there_is_one_at_a_time() -> None:
    door = Door(IndexUnavailable("nobody at home"))
    index = open_waiting(door, VECTORS)
    door.hold.clear()
    for _ in range(50):
        with pytest.raises(IndexUnavailable):
            index.search(VECTORS[:1], 1)
    assert door.asked <= 3  # when it was opened, at once in the background, and the one that is held up
    door.wrong = None
    door.hold.set()
    assert eventually_found(index) == [0]


def test_other_errors_are_not_waited_for() -> None:
    with pytest.raises(CorruptArtifact, match="another number"):
        open_waiting(Door(CorruptArtifact("another number of items")), VECTORS)
