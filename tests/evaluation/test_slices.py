"""Slices add up to the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feast_recsys.evaluation.metrics import recall_at
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.evaluation.slices import Slice, item_slices, popularity_tiers, recall_within, user_slices


def test_users_by_their_likes():
    parts = user_slices(np.array([0, 4, 5, 60]), (5, 20, 50))
    assert [(p.name, p.members.tolist()) for p in parts] == [
        ("0 to 4 likes", [True, True, False, False]),
        ("5 to 19 likes", [False, False, True, False]),
        ("50 likes or more", [False, False, False, True]),
    ]


def test_tiers_share_the_likes_of_the_warm_items():
    # 90 warm likes: the first item has the first third, the next two the second, and so on; under 5 is cold.
    assert popularity_tiers(np.array([4, 30, 15, 15, 10, 10, 10, 0])).tolist() == [3, 0, 1, 1, 2, 2, 2, 3]
    assert popularity_tiers(np.array([0, 1])).tolist() == [3, 3]


def test_recall_within_a_slice_by_hand():
    relevant = Relevant.from_lists([[1, 2, 3], [4]])
    part = Slice("2 and 3", np.array([False, True, True, False]))
    values = recall_within(np.array([[1, 2, 9], [4, 5, 6]]), relevant, part, 3)
    np.testing.assert_allclose(values, [1 / 2, np.nan])


@given(st.lists(st.lists(st.integers(0, 11), max_size=6), min_size=1, max_size=5), st.integers(0, 99))
def test_slices_add_up_to_the_whole(lists, seed):
    random = np.random.default_rng(seed)
    relevant, likes = Relevant.from_lists(lists), random.integers(0, 30, 12)
    ranked = np.stack([random.permutation(12)[:4] for _ in lists])
    parts = item_slices(relevant, likes)
    assert sum(p.members.astype(int) for p in parts).tolist() == [1] * len(relevant.items) if parts else True
    hits = np.zeros(len(lists))
    for part in parts:
        counts = relevant.only(part.members).counts
        hits += np.nan_to_num(recall_within(ranked, relevant, part, 4)) * counts
    assert hits == pytest.approx(np.nan_to_num(recall_at(ranked, relevant, 4)) * relevant.counts)
    users = user_slices(relevant.counts, (1, 3))
    assert sum(p.members.astype(int) for p in users).tolist() == [1] * len(lists)
