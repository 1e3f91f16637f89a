"""One evaluator for all models: lists of the whole catalogue, and every metric of a checkerboard worked by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.full_ranking import means, measure, rank_users
from feast_recsys.evaluation.metrics import top_k
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.data.histories import Histories, from_lists


@dataclass(frozen=True)
class Table:
    """Scores written down beforehand, one row a user."""

    scores: np.ndarray

    def score(self, histories: Histories, chosen: np.ndarray, /) -> np.ndarray:
        return self.scores[chosen]


@dataclass(frozen=True)
class Popular:
    def score(self, histories: Histories, chosen: np.ndarray, /) -> np.ndarray:
        counts = np.bincount(histories.items, minlength=histories.catalogue).astype(np.float32)
        return np.broadcast_to(counts, (len(chosen), len(counts)))


# Even users have even items, odd users odd ones; user 4 has nothing. Users and items of each colour: 0 and 2, 1 and 3.
BOARD = from_lists([[0, 2], [1, 3], [0, 4], [1], []], 6)
# Number of users: items 0 and 1 two each, 2, 3 and 4 one each, 5 none.
LISTS = [[1, 3, 4], [0, 2, 4], [1, 2, 3], [0, 2, 3], [0, 1, 2]]
RELEVANT = Relevant.from_lists([[4], [5], [2, 5], [3, 5], []])


def test_popularity_on_a_checkerboard():
    assert rank_users(Popular(), BOARD, 3).tolist() == LISTS
    assert rank_users(Popular(), BOARD, 3, chosen=[3, 0]).tolist() == [LISTS[3], LISTS[0]]


def test_metrics_of_the_checkerboard_by_hand():
    found = means(measure(np.array(LISTS), RELEVANT, (1, 3)))
    # Hits: user 0 at rank 3 of one item, user 1 none of one, user 2 at rank 2 of two, user 3 at rank 3 of two.
    third, second, ideal = 1 / 2, 1 / math.log2(3), 1 + 1 / math.log2(3)
    assert found == pytest.approx({
        "recall@1": 0, "recall_min@1": 0, "ndcg@1": 0, "map@1": 0, "hit_rate@1": 0,
        "recall@3": (1 + 0 + 1 / 2 + 1 / 2) / 4,
        "recall_min@3": (1 + 0 + 1 / 2 + 1 / 2) / 4,
        "ndcg@3": (third + 0 + second / ideal + third / ideal) / 4,
        "map@3": (1 / 3 + 0 + (1 / 2) / 2 + (1 / 3) / 2) / 4,
        "hit_rate@3": 3 / 4,
    })  # fmt: skip


def test_the_smaller_denominator_counts_what_a_short_list_can_hold():
    found = measure(np.array([[0]]), Relevant.from_lists([[0, 1]]), (1,))
    assert (found["recall@1"][0], found["recall_min@1"][0]) == (0.5, 1.0)


def test_short_lists_are_filled_up():
    ranked = rank_users(Popular(), from_lists([[0, 1], [0, 1, 2]], 3), 2)
    assert ranked.tolist() == [[2, -1], [-1, -1]]


def test_what_lists_leave_out_may_be_more_than_what_the_scorer_is_given():
    met = from_lists([[0, 2, 1], [1, 3], [0, 4], [1], [5]], 6)
    assert rank_users(Popular(), BOARD, 2, seen=met).tolist()[0] == [3, 4]


def test_nan_and_wrong_shapes_are_refused():
    with pytest.raises(InvalidArgument, match="NaN"):
        rank_users(Table(np.full((5, 6), np.nan, np.float32)), BOARD, 2)
    with pytest.raises(InvalidArgument, match="scores are"):
        rank_users(Table(np.zeros((5, 7), np.float32)), BOARD, 2)
    with pytest.raises(InvalidArgument, match="at least 1"):
        rank_users(Popular(), BOARD, 0)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_lists_are_those_of_the_plain_definition(data):
    users, items = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 12))
    # Few different scores, so that there are ties; -inf is a score like others.
    values = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 2.0, math.inf])
    scores = data.draw(arrays.arrays(np.float32, (users, items), elements=values))
    seen = data.draw(arrays.arrays(np.bool_, (users, items)))
    k, block = data.draw(st.integers(1, items + 2)), data.draw(st.integers(1, 3))
    histories = from_lists([np.flatnonzero(row) for row in seen], items)
    before = scores.copy()
    ranked = rank_users(Table(scores), histories, k, block=block)
    assert ranked.tolist() == top_k(scores, k, ~seen).tolist()
    assert np.array_equal(scores, before)
