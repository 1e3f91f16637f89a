"""Exact search finds what sorting all scores finds."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.slices import Slices
from feast_recsys.bundle.index.vectors import open_vectors, save_vectors

# Whole numbers: their products are exact in float32, so that equal scores are equal.
WHOLE = st.integers(-3, 3)


@st.composite
def searches(draw):
    n, d, queries = draw(st.integers(0, 12)), draw(st.integers(1, 3)), draw(st.integers(0, 3))
    numbers = st.lists(WHOLE, min_size=(n + queries) * d, max_size=(n + queries) * d)
    matrix = np.array(draw(numbers), np.float32).reshape(n + queries, d)
    allow = draw(st.none() | st.lists(st.booleans(), min_size=n, max_size=n))
    mask = None if allow is None else np.array(allow, bool)
    return matrix[:n], matrix[n:], mask, draw(st.integers(1, 15))


@settings(deadline=None, max_examples=300)
@given(searches())
def test_search_is_a_sort_of_all_scores_with_ties_by_row(case):
    vectors, queries, allow, k = case
    rows, scores = ExactIndex(vectors).search(queries, k, None if allow is None else Allowed(allow))
    eligible = [row for row in range(len(vectors)) if allow is None or allow[row]]
    assert rows.shape == scores.shape == (len(queries), min(k, len(eligible)))
    assert (rows.dtype, scores.dtype) == (np.int64, np.float32)
    for query, found, score in zip(queries, rows, scores, strict=True):
        by_row = {row: float(np.dot(query, vectors[row])) for row in eligible}
        assert found.tolist() == sorted(eligible, key=lambda row: (-by_row[row], row))[:k]
        assert score.tolist() == [by_row[row] for row in found.tolist()]


@st.composite
def scored(draw):
    """Many items with few distinct scores, most of them equal or all different, and some that may not come back."""
    n = draw(st.sampled_from([1, 1023, 8_191, 8_192, 8_193, 9_000, 20_000, 40_000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(["normal", "few", "equal", "ascending", "descending", "crowded"]))
    scores = {
        "normal": lambda: rng.normal(size=n),
        "few": lambda: rng.integers(-2, 3, n),
        "equal": lambda: np.zeros(n),
        "ascending": lambda: np.arange(n),
        "descending": lambda: -np.arange(n),
        # The best ones are neighbours, or lie one below the other however the scores are folded.
        "crowded": lambda: np.where(np.arange(n) % draw(st.sampled_from([1024, 1000, 800])) < 2, 1 + rng.random(n), 0),
    }[shape]().astype(np.float32)
    share = draw(st.sampled_from([None, 0.0, 0.001, 0.3, 0.4, 0.9, 1.0]))
    allow = None if share is None else rng.random(n) < share
    return scores, allow, draw(st.sampled_from([1, 2, 10, 100, 1000, 5000, 50_000]))


@settings(deadline=None, max_examples=200)
@given(scored(), st.integers(1, 3))
def test_the_best_of_many_are_those_of_a_sort(case, queries):
    """Vectors of one number and queries of 1, 2, ... make the scores known exactly."""
    scores, allow, k = case
    factors = np.arange(1, queries + 1, dtype=np.float32)[:, None]
    rows, found = ExactIndex(scores[:, None]).search(factors, k, None if allow is None else Allowed(allow))
    eligible = np.arange(len(scores)) if allow is None else np.flatnonzero(allow)
    for factor, some_rows, some in zip(factors, rows, found, strict=True):
        expected = eligible[np.lexsort((eligible, -(scores * factor)[eligible]))][:k]
        np.testing.assert_array_equal(some_rows, expected)
        np.testing.assert_array_equal(some, (scores * factor)[expected])


@pytest.mark.parametrize("share", [0.02, 0.34, 0.36, 0.98])
def test_gathering_and_masking_find_the_same(share):
    """Whole numbers in 64 columns, more items than are gathered at a time."""
    rng = np.random.default_rng(0)
    vectors, queries = rng.integers(-9, 10, (10_000, 64)), rng.integers(-9, 10, (3, 64))
    allow = rng.random(len(vectors)) < share
    rows, scores = ExactIndex(vectors.astype(np.float32)).search(queries.astype(np.float32), 50, Allowed(allow))
    products = np.where(allow, queries @ vectors.T, -(10**6))
    expected = np.argsort(-products, axis=1, kind="stable")[:, :50]
    assert rows.tolist() == expected.tolist()
    assert scores.tolist() == np.take_along_axis(products, expected, axis=1).tolist()


@pytest.mark.parametrize("kept", [False, True])
def test_many_queries_are_answered_a_few_at_a_time(kept, monkeypatch):
    random = np.random.default_rng(0)
    vectors, queries = (random.integers(-3, 4, shape).astype(np.float32) for shape in ((500, 6), (7, 6)))
    some = Allowed(random.random(500) < 0.2, Slices(1 << 20) if kept else None)
    for allow in (None, some, some.without(np.arange(0, 500, 3))):
        singly = [ExactIndex(vectors).search(query[None], 20, allow) for query in queries]
        with monkeypatch.context() as patch:
            patch.setattr("feast_recsys.bundle.index.exact._SCORES", 1_100)
            together = ExactIndex(vectors).search(queries, 20, allow)
        for n, part in enumerate(together):
            np.testing.assert_array_equal(part, np.concatenate([answer[n] for answer in singly]))


def test_each_item_is_its_own_best_match():
    """Permuted unit vectors: the answer is known by construction."""
    order = np.random.default_rng(0).permutation(64)
    index = ExactIndex(np.eye(64, dtype=np.float32)[order])
    rows, _ = index.search(np.eye(64, dtype=np.float32), 1)
    assert order[rows[:, 0]].tolist() == list(range(64))


def test_the_allowed_items_are_found_however_few_they_are():
    vectors = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    allow = np.zeros(1000, bool)
    allow[[17, 900]] = True
    rows, scores = ExactIndex(vectors).search(vectors[:5], 10, Allowed(allow))
    assert np.sort(rows, axis=1).tolist() == [[17, 900]] * 5
    assert (scores[:, 0] >= scores[:, 1]).all()


def test_size_and_width_are_known():
    index = ExactIndex(np.zeros((3, 5), np.float32))
    assert (len(index), index.dimension) == (3, 5)


def test_a_file_is_mapped_and_gives_the_vectors_back(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    save_vectors(tmp_path / "v.npy", vectors)
    opened = open_vectors(tmp_path / "v.npy")
    np.testing.assert_array_equal(opened, vectors)
    base = opened
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, mmap.mmap)


def test_no_vectors_are_a_file_too(tmp_path):
    save_vectors(tmp_path / "v.npy", np.empty((0, 4), np.float32))
    index = ExactIndex(open_vectors(tmp_path / "v.npy"))
    rows, scores = index.search(np.ones((2, 4), np.float32), 3)
    assert (len(index), index.dimension, rows.shape, scores.shape) == (0, 4, (2, 0), (2, 0))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros(3, np.float32), r"\[n, d\] float32"),
        (np.zeros((3, 2)), r"\[n, d\] float32"),
        (np.array([[0, 1], [np.nan, 1]], np.float32), "row 1 is not"),
        (np.array([[0, 1], [0, 1], [0, -np.inf]], np.float32), "row 2 is not"),
    ],
)
def test_only_finite_float32_rows_are_written(tmp_path, vectors, message):
    with pytest.raises(ValueError, match=message):
        save_vectors(tmp_path / "v.npy", vectors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_broken_file_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "v.npy").write_bytes(content)
    with pytest.raises(CorruptArtifact, match=r"v\.npy can't be read"):
        open_vectors(tmp_path / "v.npy")


@pytest.mark.parametrize("array", [np.zeros(3, np.float32), np.zeros((2, 2))])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, array):
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(CorruptArtifact, match=r"v\.npy holds"):
        open_vectors(tmp_path / "v.npy")
