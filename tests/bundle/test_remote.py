"""Milvus and Qdrant as indexes: the same rows as exact search, filters of ours in words of theirs."""

from __future__ import annotations

import os
import uuid

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.milvus_server import MilvusServer
from support.qdrant_server import QdrantServer

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.filter_plan import evaluate, plan_of
from feast_recsys.bundle.filters import parse_filter
from feast_recsys.bundle.index.allowed import all_but
from feast_recsys.bundle.index.contract import check
from feast_recsys.bundle.index.entry import Remote
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.remote import build_embedded, connect, fill, open_embedded, open_remote
from feast_recsys.bundle.index.remote_filters import folded
from feast_recsys.bundle.index.spec import ENGINES, spec_of
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot

N, D = 60, 4
POOLS = {
    DType.INT64: [0, 1, -3, 2**53 + 1, -(2**63)],
    DType.FLOAT32: [0.0, -0.0, 0.5, float(np.float32(0.1)), -1.5, float("inf")],
    DType.BOOL: [True, False],
    DType.STRING: ["", "a", 'say "b"', "back\\slash", "é", "Z", "it's"],
}
OPERANDS = {
    **POOLS,
    DType.INT64: [0, 1, -2, 0.5, -3.0, 2**53, 2**53 + 1, -(2**63), 2**70],
    DType.FLOAT32: [0, 0.5, 0.1, 1e39, float("-inf")],
    DType.STRING: [*POOLS[DType.STRING], "two\nlines", "ab"],
}
FEATURES = {f"view:{d.value}{'s' if many else ''}": (d, many) for d in DType for many in (False, True)}
ADDRESSES = {"milvus": os.environ.get("TEST_MILVUS_ADDRESS"), "qdrant": os.environ.get("TEST_QDRANT_ADDRESS")}
PLACES = ["milvus embedded", "qdrant embedded", "milvus served", "qdrant served"] + [
    f"{k} address" for k, a in ADDRESSES.items() if a
]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """Every type of feature, and lists of it; some items have no value, and one feature has all."""
    random, folder = np.random.default_rng(0), tmp_path_factory.mktemp("snapshot")
    columns = {"view:all": Column.of(DType.INT64, list(range(N)))}
    for reference, (dtype, many) in FEATURES.items():
        pool, items = POOLS[dtype], []
        for _ in range(N):
            picked = [pool[at] for at in random.integers(0, len(pool), random.integers(0, 4) if many else 1)]
            items.append(None if random.random() < 0.2 else picked if many else picked[0])
        columns[reference] = Column.of(dtype, items, is_list=many)
    write_snapshot(folder, np.arange(N), columns)
    return open_snapshot(folder)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(1).standard_normal((N, D), np.float32)


@pytest.fixture(scope="module")
def milvus_server(tmp_path_factory):
    with MilvusServer(tmp_path_factory.mktemp("server") / "milvus.db") as server:
        yield server


@pytest.fixture(scope="module")
def qdrant_server():
    with QdrantServer() as server:
        yield server


@pytest.fixture(scope="module", params=PLACES)
def index(request, snapshot, vectors, tmp_path_factory):
    """The same items in every engine, asked even where exact search would be quicker."""
    kind, place = request.param.split()
    spec = spec_of(kind, {})
    if place == "embedded":
        folder = tmp_path_factory.mktemp(kind) / "index"
        build_embedded(spec, vectors, folder, snapshot)
        yield open_embedded(spec, folder, vectors, snapshot, few=0)
        return
    address = request.getfixturevalue(f"{kind}_server").address if place == "served" else ADDRESSES[kind]
    engine, name = connect(kind, address, 10.0), f"test_{uuid.uuid4().hex}"
    fill(engine, name, spec, vectors, snapshot)
    yield open_remote(spec, Remote(address, name, 10.0), vectors, snapshot, few=0)
    engine.drop(name)
    engine.close()


@st.composite
def comparisons(draw):
    reference = draw(st.sampled_from(list(FEATURES)))
    dtype, many = FEATURES[reference]
    kinds = ["eq", "ne", "in", "nin"]
    if not many and dtype is not DType.BOOL:
        kinds += ["gt", "gte", "lt", "lte"]
    kind, operand = draw(st.sampled_from(kinds)), st.sampled_from(OPERANDS[dtype])
    value = draw(st.lists(operand, max_size=3)) if kind in ("in", "nin") else draw(operand)
    return {"type": kind, "key": reference, "value": value}


def compounds(children):
    several = st.lists(children, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda f: {"type": "and", "filters": f}, several),
        st.builds(lambda f: {"type": "or", "filters": f}, several),
        st.builds(lambda f: {"type": "not", "filters": [f]}, children),
    )


TREES = st.recursive(comparisons(), compounds, max_leaves=6).map(parse_filter)
EXCLUDED = st.lists(st.integers(0, N - 1), max_size=N).map(lambda rows: np.array(rows, np.int64))
QUICKLY = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICKLY
@given(tree=TREES)
def test_an_engine_lets_pass_what_the_filter_does(index, snapshot, tree):
    """Of the engine alone: what the index makes of its answers would hide a filter that means something else."""
    condition = folded(plan_of(tree, snapshot))
    passing = evaluate(tree, snapshot)
    if isinstance(condition, bool):
        assert (passing == condition).all()
        return
    query = np.ones((1, D), np.float32)
    answer = index.engine.search(index.collection, query, N, condition, max(passing.mean(), 1 / N))
    if answer is not None:
        assert set(answer[0]) == set(np.flatnonzero(passing))


@QUICKLY
@given(tree=st.none() | TREES, excluded=EXCLUDED, k=st.integers(1, N + 1), seed=st.integers(0, 99))
def test_an_index_finds_what_exact_search_finds(index, snapshot, vectors, tree, excluded, k, seed):
    queries = np.random.default_rng(seed).standard_normal((2, D), np.float32)
    allow = None if tree is None else FilterCache(snapshot, 0).allowed(tree)[0]
    if len(excluded):
        allow = all_but(excluded, N) if allow is None else allow.without(excluded)
    rows, scores = index.search(queries, k, allow)
    expected, best = ExactIndex(vectors).search(queries, k, allow)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ENGINES)
def test_the_contract_is_kept(kind, tmp_path):
    folders = iter(range(1000))

    def built(vectors):
        folder = tmp_path / str(next(folders))
        build_embedded(spec_of(kind, {}), vectors, folder)
        return open_embedded(spec_of(kind, {}), folder, vectors, few=0)

    check(built, items=40, dimension=4)
