"""Lists of best items, ties and all, and candidates that do not depend on what the user came to like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from feast_recsys.models.data.queries import Queries
from feast_recsys.models.ranking.candidates import choose_candidates
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.retrieval.scoring import Candidates, best, is_liked, recall

# Few distinct scores, so that ties are common; -inf is an item met before.
SCORES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.integers(1, 12)), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5])
)
QUERIES = Queries(np.array([0, 1]), np.array([10, 20]), np.array([3, 5, 1]), np.array([0, 2, 3]))


@settings(deadline=None)
@given(SCORES, st.integers(1, 15))
def test_the_best_are_those_of_a_sort_with_ties_by_position(scores: np.ndarray, k: int) -> None:
    found = best(scores, k)
    for row, items, values in zip(scores, found.items, found.scores, strict=True):
        expected = sorted((i for i in range(len(row)) if row[i] > -np.inf), key=lambda i: (-row[i], i))[:k]
        assert items.tolist() == expected + [-1] * (len(items) - len(expected))
        assert values[: len(expected)].tolist() == row[expected].tolist()
        assert (values[len(expected) :] == -np.inf).all()


def test_likes_are_those_of_the_own_query_and_padding_is_none() -> None:
    items = np.array([[3, 1, -1], [3, 1, 5]])
    assert is_liked(items, QUERIES).tolist() == [[True, False, False], [False, True, False]]


def test_recall_is_the_mean_share_of_likes_found() -> None:
    found = Candidates(np.array([[3, 1], [1, 5]]), np.zeros((2, 2), np.float32))
    assert recall(found, QUERIES) == pytest.approx((1 / 2 + 1) / 2)


@pytest.mark.parametrize("items", [4, 300])
def test_candidates_are_new_each_once_and_hold_the_best(items: int) -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(20, items)).astype(np.float32)
    scores[:, ::3] = -np.inf
    config = WideDeepConfig(candidates=10, popular=5, random=5)
    popularity = np.arange(items) + 0.01
    chosen = choose_candidates(scores, popularity, config, 23, np.random.default_rng(1))
    for row, of_row in zip(scores, chosen, strict=True):
        real = of_row[of_row >= 0]
        assert len(set(real.tolist())) == len(real)
        assert np.isfinite(row[real]).all()
        assert set(best(row[None], 10).items[0].tolist()) - {-1} <= set(real.tolist())


def test_a_user_who_met_everything_has_no_candidates() -> None:
    scores = np.full((1, 8), -np.inf, np.float32)
    assert (choose_candidates(scores, np.ones(8), WideDeepConfig(), 86, np.random.default_rng(0)) == -1).all()


def test_popular_items_are_drawn_more_often() -> None:
    scores = np.zeros((200, 100), np.float32)
    scores[:, :10] = 1.0  # what retrieval finds; the draws are about the rest
    popularity = np.full(100, 0.01)
    popularity[60] = 10.0
    config = WideDeepConfig(candidates=3, popular=5, random=0)
    chosen = choose_candidates(scores, popularity, config, 9, np.random.default_rng(0))
    counts = np.bincount(chosen[chosen >= 0], minlength=100)
    assert counts[60] == 200
    assert counts[61:].max() < 20
