"""Recall against brute force, and its interval against the textbook's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from feast_recsys.jobs.recall import exact_answers, interval, recalls


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_recall_is_the_share_of_the_true_items(n, k, seed):
    rng = np.random.default_rng(seed)
    vectors, queries = rng.normal(size=(n, 5)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    truth = exact_answers(vectors, queries, k)
    scores = queries @ vectors.T
    best = [set(np.argsort(-row)[:k].tolist()) for row in scores]
    assert [set(row.tolist()) for row in truth.rows] == best
    found = np.stack([rng.permutation(n)[: truth.k] for _ in queries])
    got = recalls(truth, found, np.take_along_axis(scores, found, axis=1))
    expected = [len(set(row.tolist()) & b) / truth.k for row, b in zip(found, best, strict=True)]
    assert got.tolist() == pytest.approx(expected)


def test_an_item_of_the_same_score_is_as_good():
    vectors = np.array([[1.0], [2.0], [2.0], [2.0]], np.float32)
    truth = exact_answers(vectors, np.ones((1, 1), np.float32), 2)
    assert truth.rows.tolist() == [[1, 2]]
    assert recalls(truth, np.array([[3, 2]]), np.array([[2.0, 2.0]], np.float32)).tolist() == [1.0]
    assert recalls(truth, np.array([[3, 0]]), np.array([[2.0, 1.0]], np.float32)).tolist() == [0.5]


@given(st.integers(2, 400), st.data())
def test_of_one_item_for_each_query_it_is_wilsons_interval(q, data):
    hits = data.draw(st.integers(0, q))
    mean, low, high = interval(np.array([1.0] * hits + [0.0] * (q - hits)), 1)
    wilson = binomtest(hits, q).proportion_ci(0.95, "wilson")
    assert mean == hits / q
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-6)


def test_items_that_are_missed_together_count_as_one_trial():
    scattered = np.tile([0.99, 1.0, 0.98, 0.99], 250)
    together = np.where(np.arange(1000) % 100 == 0, 0.0, 1.0)
    assert scattered.mean() == pytest.approx(together.mean())
    close, wide = interval(scattered, 100), interval(together, 100)
    assert close[1] > 0.989
    assert wide[1] == pytest.approx(binomtest(990, 1000).proportion_ci(0.95, "wilson").low, abs=1e-4)


@given(st.lists(st.integers(0, 100), min_size=1, max_size=50))
def test_an_interval_holds_its_mean_and_stays_between_nought_and_one(hits):
    mean, low, high = interval(np.array(hits) / 100, 100)
    assert 0.0 <= low <= mean <= high <= 1.0


def test_the_interval_covers_the_truth_in_19_of_20_samples():
    """Beta-distributed recalls of queries, with a known mean."""
    rng = np.random.default_rng(0)
    a, b = 30.0, 0.6
    covered = 0
    for _ in range(400):
        p = rng.beta(a, b, 500)
        _, low, high = interval(rng.binomial(100, p) / 100, 100)
        covered += low <= a / (a + b) <= high
    assert 0.92 <= covered / 400 <= 0.98
