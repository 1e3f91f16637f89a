"""Every kind of index keeps to the contract that is shipped for users' own."""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.contract import Case, check, share_found, violation
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, open_index
from feast_recsys.bundle.index.spec import spec_of

# Probes and breadth for 0.9 of the best of 1,000 items in 20 clusters.
SPECS = [
    spec_of("exact", {}),
    spec_of("ivf_flat", {"lists": 30, "probes": 10}),
    spec_of("ivf_sq8", {"lists": 30, "probes": 10}),
    spec_of("ivf_pq", {"lists": 30, "probes": 10, "widening": 10.0}),
    spec_of("hnsw", {"links": 16, "building": 60, "breadth": 200}),
    spec_of("scann", {"leaves": 30, "leaves_searched": 15, "widening": 5.0}),
]

# ScaNN is an extra that `dev` leaves out.
MARKS = {"scann": pytest.mark.skipif(find_spec("scann") is None, reason="needs feast-recsys[scann]")}
each_kind = pytest.mark.parametrize(
    "spec", [pytest.param(spec, id=spec.kind, marks=MARKS.get(spec.kind, ())) for spec in SPECS]
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small indexes are built and searched faster without waiting for other threads."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


def built(spec, folder, vectors):
    build_index(spec, vectors, folder)
    return open_index(spec, folder, vectors)


@each_kind
def test_the_contract_is_kept(spec, tmp_path):
    folders = iter(range(1000))
    check(lambda vectors: built(spec, tmp_path / str(next(folders)), vectors))


@st.composite
def cases(draw):
    """Few or many, different or equal, long or short vectors; whatever is allowed."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.sampled_from([0, 1, 2, 5, 39, 40, 100, 400])), draw(st.sampled_from([1, 2, 3, 8, 17]))
    distinct = draw(st.sampled_from([1, 3, 400]))
    vectors = random.standard_normal((distinct, d), np.float32)[random.integers(0, distinct, n)]
    vectors = vectors * draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    if n:
        vectors[random.integers(0, n)] *= draw(st.sampled_from([0.0, 1.0, 100.0]))
    queries = random.standard_normal((draw(st.integers(0, 3)), d), np.float32) * draw(st.sampled_from([0.0, 1.0, 1e3]))
    excluded = random.integers(0, n, draw(st.sampled_from([0, 1, 50, 800]))) if n else np.empty(0, np.int64)
    filter_ = Allowed(random.random(n) < draw(st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0])))
    allow = draw(st.sampled_from([None, filter_, all_but(excluded, n), filter_.without(excluded)]))
    k = draw(st.sampled_from([1, 2, 10, 39, 100, 500]))
    return Case("generated", vectors.astype(np.float32), queries.astype(np.float32), k, allow)


@each_kind
@settings(deadline=None, max_examples=60)
@given(case=cases())
def test_nothing_is_missing_or_forbidden_or_misordered_in_whatever_is_asked(spec, case):
    with tempfile.TemporaryDirectory() as folder:
        assert violation(built(spec, Path(folder), case.vectors).search(case.queries, case.k, case.allow), case) == ""


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_exact_search_finds_all_of_the_best(case):
    answer = ExactIndex(case.vectors).search(case.queries, case.k, case.allow)
    assert violation(answer, case) == ""
    assert share_found(answer, case) == 1.0
