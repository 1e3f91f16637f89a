"""Vectors of filters that are asked for again: kept within a limit, and searched as if they were not."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.slices import Slices

N, D = 400, 6
VECTORS = np.random.default_rng(0).integers(-3, 4, (N, D)).astype(np.float32)
BYTES = D * 4


def some(rows, slices):
    mask = np.zeros(N, np.bool_)
    mask[rows] = True
    return Allowed(mask, slices)


def test_what_is_asked_for_twice_is_kept_and_the_same_array_from_then_on():
    slices = Slices(1 << 20)
    allow = some([3, 5, 8], slices)
    assert slices.of(allow, VECTORS) is None
    kept = slices.of(allow, VECTORS)
    np.testing.assert_array_equal(kept, VECTORS[[3, 5, 8]])
    assert slices.of(allow, VECTORS) is kept
    assert not kept.flags.writeable


def test_two_indexes_with_one_filter_have_a_slice_each():
    slices, others = Slices(1 << 20), -VECTORS
    allow = some([1, 2], slices)
    for vectors in (VECTORS, others):
        assert slices.of(allow, vectors) is None
        np.testing.assert_array_equal(slices.of(allow, vectors), vectors[[1, 2]])


def test_the_limit_is_kept_and_the_least_lately_used_forgotten():
    slices = Slices(100 * BYTES + 3 * 600)
    first, second, third = (some(range(start, start + 40), slices) for start in (0, 50, 100))
    for allow in (first, second, second, first):
        slices.of(allow, VECTORS)
    assert slices.of(first, VECTORS) is not None and slices.of(second, VECTORS) is not None
    slices.of(first, VECTORS)
    slices.of(third, VECTORS)
    slices.of(third, VECTORS)
    assert slices.bytes <= 100 * BYTES + 3 * 600
    assert slices.of(first, VECTORS) is not None
    assert slices.of(second, VECTORS) is None


@pytest.mark.parametrize("limit", [0, 10 * BYTES])
def test_what_is_larger_than_the_limit_is_never_kept(limit):
    slices = Slices(limit)
    allow = some(range(30), slices)
    assert [slices.of(allow, VECTORS) for _ in range(4)] == [None] * 4
    assert slices.bytes == 0


def test_a_filter_in_the_memory_of_one_that_is_gone_does_not_get_its_vectors():
    slices = Slices(1 << 20)
    for row in range(50):
        allow = some([row], slices)
        assert slices.of(allow, VECTORS) is None
        np.testing.assert_array_equal(slices.of(allow, VECTORS), VECTORS[[row]])
        del allow
        gc.collect(0)


@settings(max_examples=60, deadline=None)
@given(
    passing=st.sets(st.integers(0, N - 1), max_size=120),
    excluded=st.lists(st.integers(0, N - 1), max_size=60),
    k=st.integers(1, 80),
    seed=st.integers(0, 99),
)
def test_a_search_of_what_is_kept_is_that_of_all_rows(passing, excluded, k, seed):
    """Whole numbers, so that many scores are equal and every product exact."""
    queries = np.random.default_rng(seed).integers(-3, 4, (2, D)).astype(np.float32)
    index, filter_ = ExactIndex(VECTORS), some(sorted(passing), Slices(1 << 20))
    plain = some(sorted(passing), None)
    for allow, same in ((filter_, plain), (filter_.without(np.array(excluded, np.int64)),
                                           plain.without(np.array(excluded, np.int64)))):  # fmt: skip
        rows, scores = index.search_anew(queries, k, same)
        for _ in range(3):
            found, products = index.search(queries, k, allow)
            np.testing.assert_array_equal(found, rows)
            np.testing.assert_array_equal(products, scores)


def test_many_threads_get_the_same_answer():
    index, allow = ExactIndex(VECTORS), some(range(0, N, 5), Slices(1 << 20))
    query = VECTORS[:1]
    expected = index.search_anew(query, 10, some(range(0, N, 5), None))
    with ThreadPoolExecutor(4) as pool:
        for rows, scores in pool.map(lambda _: index.search(query, 10, allow), range(200)):
            np.testing.assert_array_equal(rows, expected[0])
            np.testing.assert_array_equal(scores, expected[1])


def test_all_rows_but_some_have_no_filter():
    assert Without(N, np.array([1])).filter is None
    base = some([1, 2, 3], None)
    assert base.filter is base and base.without(np.array([1])).filter is base
