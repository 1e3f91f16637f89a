"""How the retrieval benchmark times in rounds and finds the least effort."""

from __future__ import annotations

import time

import numpy as np
import pytest
from benchmarks.retrieval.rounds import Contender, Rounds, run
from benchmarks.retrieval.tuning import least_effort
from hypothesis import given
from hypothesis import strategies as st


def nothing() -> None:
    pass


def contender(asked: list[int], seconds: float = 0.0) -> Contender:
    def search(number: int) -> np.ndarray:
        asked.append(number)
        time.sleep(seconds)
        return np.array([number])

    return Contender(search, nothing)


def test_every_contender_is_asked_every_query_in_every_pass():
    asked: dict[str, list[int]] = {"a": [], "b": []}
    rounds = run({name: contender(numbers) for name, numbers in asked.items()}, 7, block=3, passes=2)
    assert {name: len(times) for name, times in rounds.times.items()} == {"a": 6, "b": 6}
    assert [len(times) for times in rounds.times["a"]] == [3, 3, 1, 3, 3, 1]
    assert len(rounds.by_query("a")) == 7
    assert {number: int(rows[0]) for number, rows in rounds.found["b"].items()} == {n: n for n in range(7)}


def test_a_slow_contender_is_asked_fewer_queries():
    rounds = run({"slow": contender([], 0.004), "quick": contender([])}, 40, block=20, passes=1, longest=0.03)
    assert 8 <= len(rounds.found["slow"]) < 20
    assert len(rounds.found["quick"]) == 40
    assert 0 < rounds.ratio("quick", "slow").median < 1


def test_answers_are_kept_although_the_next_search_overwrites_them():
    memory = np.zeros(1, np.int64)

    def search(number: int) -> np.ndarray:
        memory[0] = number
        return memory

    rounds = run({"it": Contender(search, nothing)}, 5, passes=1)
    assert [int(rounds.found["it"][number][0]) for number in range(5)] == [0, 1, 2, 3, 4]


def test_a_ratio_is_taken_within_rounds():
    # All is ten times as slow in the second round.
    slow, quick = [np.array([2.0, 2.0, 2.0]), np.array([20.0] * 3)], [np.array([1.0, 1.0]), np.array([10.0] * 2)]
    rounds = Rounds({"slow": slow, "quick": quick}, {}, {}, 1)
    assert rounds.ratio("slow", "quick").median == 2.0
    assert rounds.ratio("quick", "slow").high == 0.5


def test_of_a_query_the_middle_pass_counts():
    passes = [np.array([1.0]), np.array([900.0]), np.array([2.0])]
    assert Rounds({"it": passes}, {}, {}, 3).by_query("it").tolist() == [2.0]


@given(st.integers(1, 5000), st.integers(1, 200), st.integers(1, 5000))
def test_the_least_effort_is_found_to_a_sixteenth(needed, first, more):
    most = first + more
    found = least_effort(lambda effort: effort >= needed, first, most)
    if needed > most:
        assert found is None
    else:
        least = max(needed, first)
        assert found is not None
        assert least <= found <= least + max(1, found // 16)


def test_the_first_effort_may_do_and_is_then_taken():
    assert least_effort(lambda _: True, 100, 6400) == 100


def test_no_effort_is_tried_twice():
    tried: list[int] = []

    def reaches(effort: int) -> bool:
        tried.append(effort)
        return effort >= 77

    least_effort(reaches, 1, 1000)
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("most", [1, 3])
def test_no_effort_beyond_the_most_is_tried(most):
    tried: list[int] = []
    assert least_effort(lambda effort: bool(tried.append(effort)), 10, most) is None
    assert tried == [most]
