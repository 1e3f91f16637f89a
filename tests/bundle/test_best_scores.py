"""The best of many scores, against sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest

from feast_recsys.bundle.index.rescoring import products, settled
from feast_recsys.bundle.index.top import best, leading, top

SIZES = (1, 7, 130, 1_000, 8_191, 8_192, 8_193, 30_001)
KINDS = ("scattered", "equal", "in few columns", "ascending", "hidden")


def scores_of(kind, n):
    random = np.random.default_rng(n)
    scores = random.standard_normal(n).astype(np.float32)
    if kind == "equal":  # many times each
        scores = random.integers(0, 5, n).astype(np.float32)
    elif kind == "in few columns":  # of the matrix that `leading` takes them for
        scores[::1024] += 10.0
    elif kind == "ascending":
        scores.sort()
    elif kind == "hidden":  # all but a tenth
        scores[random.permutation(n)[n // 10 + 1 :]] = -np.inf
    return scores


def sorted_positions(scores, k):
    return np.argsort(-scores, kind="stable")[:k]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("k", [0, 1, 10, 100, 2_000])
def test_the_best_come_in_order(kind, n, k):
    scores = scores_of(kind, n)
    k = min(k, np.count_nonzero(scores > -np.inf))
    np.testing.assert_array_equal(top(scores, k), sorted_positions(scores, k))
    rows, found = best(np.stack([scores, scores]), k)
    np.testing.assert_array_equal(rows[1], sorted_positions(scores, k))
    np.testing.assert_array_equal(found[1], scores[rows[1]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("k", [1, 10, 100])
def test_the_best_come_with_few_others_and_none_that_is_hidden(kind, n, k):
    scores = scores_of(kind, n)
    k = min(k, np.count_nonzero(scores > -np.inf))
    positions, bound = leading(scores, k)
    assert set(sorted_positions(scores, k)) <= set(positions)
    assert (np.diff(positions) > 0).all()
    assert (scores[positions] > -np.inf).all()
    others = np.delete(scores, positions)
    assert not len(others) or others.max() <= bound
    if kind != "equal":
        assert len(positions) <= max(4 * k, k + 40)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("ties", [3, 5, 9, 10, 11])
def test_what_is_left_out_beside_ties_is_known_to_be_less(k, ties):
    scores = np.random.default_rng(ties).standard_normal(9_000).astype(np.float32)
    scores[:ties], scores[8_999] = 9.0, 8.999999
    positions, bound = leading(scores, k)
    assert np.delete(scores, positions).max() <= bound


@pytest.mark.parametrize("kind", ["different", "alike", "hidden"])
@pytest.mark.parametrize("n", [20, 300, 9_000])
@pytest.mark.parametrize("k", [0, 1, 15])
def test_scores_that_are_off_in_their_last_digits_are_settled(kind, n, k):
    random = np.random.default_rng(k)
    vectors = random.standard_normal((n, 16)).astype(np.float32)
    if kind == "alike":  # too much so for the digits that are right
        vectors[:] = vectors[0] + np.float32(1e-7) * vectors
    query = random.standard_normal(16).astype(np.float32)
    exact = products(vectors, query)
    about = exact * (1 + random.uniform(-2e-7, 2e-7, n).astype(np.float32))
    if kind == "hidden":
        hidden = random.permutation(n)[: n - k - 2]
        exact[hidden] = about[hidden] = -np.inf
    found, scores = settled(about, query, k, lambda some: vectors[some])
    np.testing.assert_array_equal(found, sorted_positions(exact, k))
    np.testing.assert_array_equal(scores, exact[found])
