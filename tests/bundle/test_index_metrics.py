"""Cosine and Euclidean distance through indexes that know the inner product only, by their definitions."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.by_metric import by_metric, search_vectors, underlying
from feast_recsys.bundle.index.contract import Case, share_found, violation
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, open_index
from feast_recsys.bundle.index.reduction import METRICS, centre_for, items_for, score_all, width_of
from feast_recsys.bundle.index.spec import spec_of
from feast_recsys.bundle.index.vectors import mean_direction, query_like

# All lists, and all of the graph: what is missing then is no matter of recall.
SPECS = [
    spec_of("exact", {}),
    spec_of("ivf_flat", {"lists": 4, "probes": 4}),
    spec_of("hnsw", {"links": 16, "building": 100, "breadth": 400}),
]
each_kind = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
each_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small indexes are built and searched faster without waiting for other threads."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def built(spec, folder, vectors, metric):
    made = search_vectors(vectors, metric)
    build_index(spec, made.vectors, folder)
    return by_metric(open_index(spec, folder, made.vectors), vectors, metric, made.centre)


def by_definition(queries, vectors, metric):
    """[B, n] from SciPy, which has no cosine of a zero vector."""
    queries, vectors = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "l2":
        return -cdist(queries, vectors, "sqeuclidean")
    if metric == "inner_product":
        return queries @ vectors.T
    known = np.outer(queries.any(axis=1), vectors.any(axis=1))
    with np.errstate(invalid="ignore"):
        return np.where(known, 1.0 - cdist(queries, vectors, "cosine"), 0.0)


@st.composite
def cases(draw):
    """Items of different lengths, some equal, some zero; whatever is allowed."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.sampled_from([1, 2, 40, 150])), draw(st.sampled_from([1, 2, 5, 16]))
    distinct = draw(st.sampled_from([1, 3, 400]))
    vectors = random.standard_normal((distinct, d), np.float32)[random.integers(0, distinct, n)]
    vectors *= draw(st.sampled_from([1e-3, 1.0, 1e3])) * random.lognormal(0.0, 1.0, (n, 1)).astype(np.float32)
    vectors[random.random(n) < draw(st.sampled_from([0.0, 0.3]))] = 0.0
    queries = random.standard_normal((draw(st.integers(0, 3)), d), np.float32) * draw(st.sampled_from([0.0, 1.0, 1e3]))
    excluded = random.integers(0, n, draw(st.sampled_from([1, 50])))
    some = Allowed(random.random(n) < draw(st.sampled_from([0.05, 0.5, 1.0])))
    allow = draw(st.sampled_from([None, some, all_but(excluded, n), some.without(excluded)]))
    k = draw(st.sampled_from([1, 10, 39, 500]))
    return Case("generated", vectors, queries.astype(np.float32), k, allow, draw(st.sampled_from(METRICS)))


@each_kind
@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_order_and_scores_are_those_of_the_metric(spec, case):
    with tempfile.TemporaryDirectory() as folder:
        index = built(spec, Path(folder), case.vectors, case.metric)
        rows, scores = index.search(case.queries, case.k, case.allow)
        assert violation((rows, scores), case) == ""
        assert share_found((rows, scores), case) == 1.0
        exact = by_definition(case.queries, case.vectors, case.metric)
        np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-4, atol=1e-5 * size(case))
        if case.metric == "cosine":
            assert (np.abs(scores) <= 1).all()
        if case.metric == "l2":
            assert (scores <= 0).all()
        every = np.arange(len(case.vectors))
        np.testing.assert_array_equal(index.vectors_of(every), case.vectors)
        assert (len(index), index.dimension) == case.vectors.shape


def size(case):
    """How large the numbers are that inner products are sums of; cosines have none."""
    if case.metric == "cosine":
        return 1.0
    longest = [np.linalg.norm(side, axis=1).max(initial=0.0) for side in (case.queries, case.vectors)]
    return max(1.0, longest[0] * longest[1] if case.metric == "inner_product" else sum(longest) ** 2)


@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_scores_of_the_whole_catalogue_are_those_of_the_definition(case):
    scores = score_all(case.queries, case.vectors, case.metric)
    exact = by_definition(case.queries, case.vectors, case.metric)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=1e-5 * size(case))


@each_metric
def test_what_an_index_takes_of_an_item_does_not_depend_on_the_others(metric):
    vectors = np.random.default_rng(0).standard_normal((50, 7), np.float32)
    made = items_for(vectors, metric)
    assert made.shape == (50, width_of(7, metric))
    for rows in ([3], [9, 3, 41], range(10, 50)):
        np.testing.assert_array_equal(items_for(vectors[list(rows)], metric), made[list(rows)])


def test_zero_has_no_direction_and_is_a_place():
    vectors = np.array([[0, 0], [3, 4], [-3, -4]], np.float32)
    zero, query = np.zeros((1, 2), np.float32), np.array([[6, 8]], np.float32)
    for asked, rows, scores in ((query, [1, 0, 2], [1, 0, -1]), (zero, [0, 1, 2], [0, 0, 0])):
        found = by_metric(ExactIndex(items_for(vectors, "cosine")), vectors, "cosine").search(asked, 3)
        assert [part[0].tolist() for part in found] == [rows, scores]
    for asked, rows, scores in ((query, [1, 0, 2], [-25, -100, -225]), (zero, [0, 1, 2], [0, -25, -25])):
        found = by_metric(ExactIndex(items_for(vectors, "l2")), vectors, "l2").search(asked, 3)
        assert [part[0].tolist() for part in found] == [rows, scores]


def test_very_short_and_very_long_vectors_have_a_direction():
    vectors = np.array([[1e-30, 0], [0, 1e30], [1e30, 1e30]], np.float32)
    scores = score_all(np.array([[1e-25, 0]], np.float32), vectors, "cosine")
    assert scores[0].tolist() == pytest.approx([1, 0, 0.5**0.5])


def test_a_distance_keeps_its_digits_far_from_zero():
    """|q|^2 and |x|^2 are 40 million times as large as what is left of them."""
    vectors = np.array([[1000, 1000], [1000, 1000.5], [1001, 1000]], np.float32)
    query = np.array([[1000, 1000.25]], np.float32)
    rows, scores = by_metric(ExactIndex(items_for(vectors, "l2")), vectors, "l2").search(query, 3)
    assert dict(zip(rows[0].tolist(), scores[0].tolist(), strict=True)) == {0: -0.0625, 1: -0.0625, 2: -1.0625}


@each_kind
@pytest.mark.parametrize("away", [10, 1e3, 1e5])
def test_the_nearest_are_found_far_from_zero(spec, away, tmp_path):
    """Single precision has seven digits: at 1e5 they say a place to 1 / 128, and nothing of its square."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((2_000, 16)).astype(np.float32) + np.float32(away)
    queries = random.standard_normal((20, 16)).astype(np.float32) + np.float32(away)
    rows, scores = built(spec, tmp_path, vectors, "l2").search(queries, 20)
    exact = by_definition(queries, vectors, "l2")
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :20], rtol=1e-5)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-5)
    np.testing.assert_allclose(score_all(queries, vectors, "l2"), exact, rtol=1e-3)


@each_kind
@pytest.mark.parametrize("shape", ["two groups", "one far away"])
def test_the_nearest_are_found_however_far_apart_others_are(spec, shape, tmp_path):
    random = np.random.default_rng(0)
    vectors, queries = (random.standard_normal((n, 16)).astype(np.float32) for n in (5_000, 8))
    if shape == "two groups":
        vectors[::2] += 1e4
        vectors[1::2] -= 1e4
        queries += 1e4
    else:
        vectors[77] = 1e6
    index = built(spec, tmp_path, vectors, "l2")
    exact = by_definition(queries, vectors, "l2")
    for allow in (None, all_but(np.arange(50), len(vectors)), Allowed(random.random(len(vectors)) < 0.7)):
        scores = exact if allow is None else np.where(allow.mask, exact, -np.inf)
        found = index.search(queries, 30, allow)[1]
        np.testing.assert_allclose(found, -np.sort(-scores, axis=1)[:, :30], rtol=1e-5)


def test_a_centre_stays_while_it_is_among_the_items():
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 8)).astype(np.float32) + 5
    centre = centre_for(vectors, "l2")
    np.testing.assert_allclose(centre, np.median(vectors, axis=0), rtol=1e-6)
    far = vectors.copy()
    far[7] = 1e8
    np.testing.assert_allclose(centre_for(far, "l2"), centre, atol=0.05)
    assert centre_for(vectors + 0.5, "l2", centre) is centre  # half of them are nearer than the root of 8, about
    np.testing.assert_allclose(centre_for(vectors + 2, "l2", centre), centre + 2, rtol=1e-6)
    np.testing.assert_allclose(centre_for(vectors[:, :4], "l2", centre), centre[:4], rtol=1e-6)
    for metric in ("cosine", "inner_product"):
        assert centre_for(vectors, metric, centre) is None
    assert centre_for(vectors[:0], "l2") is None


def test_an_item_whose_square_is_no_number_is_refused_by_its_row():
    vectors = np.array([[1, 2], [1e20, 0]], np.float32)
    for metric in ("l2", "inner_product"):
        with pytest.raises(ValueError, match=f"row 1 is too long for metric {metric}"):
            search_vectors(vectors, metric)
    assert search_vectors(vectors, "cosine").vectors[1].tolist() == [1, 0]
    short = vectors[:1]
    assert search_vectors(short, "inner_product").vectors is short


def test_by_inner_product_there_is_nothing_in_between():
    index = ExactIndex(np.eye(3, dtype=np.float32))
    assert by_metric(index, index.vectors, "inner_product") is index
    assert underlying(by_metric(index, index.vectors, "cosine")) is underlying(index) is index


def test_items_like_others_are_around_the_mean_of_their_places_or_directions():
    vectors = np.array([[0, 8, 1], [2, 0, 5]], np.float32)
    assert query_like(vectors, bias=0, metric="l2").tolist() == [[1, 4, 3]]
    np.testing.assert_array_equal(query_like(vectors, bias=0, metric="cosine"), mean_direction(vectors, bias=0))
    assert query_like(vectors, bias=1, metric="inner_product").tolist() == [[0.5, 0.5, 0]]


def test_of_no_items_and_of_no_direction_nothing_is_known():
    zero = np.zeros((2, 3), np.float32)
    for metric in METRICS:
        assert query_like(zero[:0], bias=0, metric=metric) is None
    assert query_like(zero, bias=0, metric="cosine") is None
    assert query_like(np.float32([[0, 0, 9]]), bias=1, metric="inner_product") is None
    assert query_like(zero, bias=0, metric="l2").tolist() == [[0, 0, 0]]
