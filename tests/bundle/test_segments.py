"""An index that is carried on answers as one does that is built of the items of now."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, open_index
from feast_recsys.bundle.index.segments import TOMBSTONE, Segments, open_base_rows, save_base_rows
from feast_recsys.bundle.index.spec import spec_of

DIMENSION = 3


@st.composite
def histories(draw):
    """Segments after any history, and the vectors of now. Small whole numbers make many scores equal, exactly."""
    n = draw(st.integers(0, 40))
    base = draw(st.integers(0, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-3, 4, (n, DIMENSION)).astype(np.float32)
    base_vectors = rng.integers(-3, 4, (base, DIMENSION)).astype(np.float32)
    live = draw(st.integers(0, min(n, base)))
    rows = np.full(base, TOMBSTONE, np.int64)
    places = np.sort(rng.permutation(base)[:live])
    rows[places] = np.sort(rng.permutation(n)[:live])
    base_vectors[places] = vectors[rows[places]]
    return Segments(ExactIndex(base_vectors), rows, vectors), vectors, rng


def queries(rng, b=2):
    return rng.integers(-3, 4, (b, DIMENSION)).astype(np.float32)


def same(index, vectors, asked, k, allow=None):
    for found, expected in zip(index.search(asked, k, allow), ExactIndex(vectors).search(asked, k, allow), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(1, 50))
def test_everything_is_found(history, k):
    index, vectors, rng = history
    same(index, vectors, queries(rng), k)


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(1, 50), st.floats(0, 1))
def test_only_what_is_allowed_is_found_and_all_of_it(history, k, share):
    index, vectors, rng = history
    allow = Allowed(rng.random(len(vectors)) < share)
    for _ in range(2):  # the second time from what was kept for the filter
        same(index, vectors, queries(rng), k, allow)


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(1, 50), st.floats(0, 1), st.booleans())
def test_what_is_excluded_never_comes_back(history, k, share, filtered):
    index, vectors, rng = history
    n = len(vectors)
    excluded = rng.integers(0, n, rng.integers(0, 2 * n)) if n else np.empty(0, np.int64)
    allow = Allowed(rng.random(n) < share).without(excluded) if filtered else all_but(excluded, n)
    same(index, vectors, queries(rng), k, allow)


@settings(max_examples=30, deadline=None)
@given(histories())
def test_vectors_are_those_of_now(history):
    index, vectors, rng = history
    rows = rng.permutation(len(vectors))
    np.testing.assert_array_equal(index.vectors_of(rows), vectors[rows])
    assert (len(index), index.dimension) == vectors.shape


def test_tombstones_at_the_top_do_not_shorten_a_list():
    """All of the best items of the base are gone, more than are asked for in advance."""
    base = np.arange(100, 0, -1, dtype=np.float32)[:, None]
    rows = np.full(100, TOMBSTONE, np.int64)
    rows[90:] = np.arange(10)
    index = Segments(ExactIndex(base), rows, base[90:])
    found, scores = index.search(np.ones((1, 1), np.float32), 10)
    assert found.tolist() == [list(range(10))]
    assert scores.tolist() == [[10, 9, 8, 7, 6, 5, 4, 3, 2, 1]]


def test_what_is_kept_for_a_filter_goes_with_the_filter():
    vectors = np.eye(4, dtype=np.float32)
    index = Segments(ExactIndex(vectors), np.arange(4), vectors)
    allow = Allowed(np.array([True, False, True, False]))
    index.search(vectors[:1], 2, allow)
    assert len(index._base_filters) == 1
    del allow
    gc.collect()
    assert len(index._base_filters) == 0


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8", "hnsw"])
def test_the_base_may_be_of_any_kind(tmp_path, kind):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2000, 8)).astype(np.float32)
    spec = spec_of(kind, {"breadth": 2000} if kind == "hnsw" else {"lists": 8, "probes": 8})
    build_index(spec, base, tmp_path)
    gone = rng.permutation(2000)[:60]
    rows = np.full(2000, TOMBSTONE, np.int64)
    live = np.setdiff1d(np.arange(2000), gone)
    rows[live] = np.arange(len(live)) + 20
    vectors = np.concatenate([rng.normal(size=(20, 8)).astype(np.float32), base[live]])
    index = Segments(open_index(spec, tmp_path, base), rows, vectors)
    asked = rng.normal(size=(5, 8)).astype(np.float32)
    for allow in (None, Allowed(rng.random(len(vectors)) < 0.3), all_but(np.arange(0, 500), len(vectors))):
        found, scores = index.search(asked, 20, allow)
        expected, best = ExactIndex(vectors).search(asked, 20, allow)
        shared = [len(set(a) & set(b)) for a, b in zip(found.tolist(), expected.tolist(), strict=True)]
        assert sum(shared) >= 0.97 * expected.size
        np.testing.assert_allclose(scores[:, 0], best[:, 0], rtol=1e-5)


def test_rows_are_kept_and_held_against_the_items(tmp_path):
    rows = np.array([2, TOMBSTONE, 0], np.int64)
    save_base_rows(tmp_path, rows)
    np.testing.assert_array_equal(open_base_rows(tmp_path, 3, 3), rows)
    for base, n in ((2, 3), (3, 2)):
        with pytest.raises(CorruptArtifact, match="materialize --full"):
            open_base_rows(tmp_path, base, n)
    with pytest.raises(CorruptArtifact, match="can't be read"):
        open_base_rows(tmp_path / "nothing", 3, 3)
