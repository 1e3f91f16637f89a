"""Indexes of every kind: named by settings, written, opened, planned by measurement."""

from __future__ import annotations

import sys
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSettings, JobFailed
from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, candidates, measure_switching, open_index
from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.reduction import items_for, of_equal_length, queries_for
from feast_recsys.bundle.index.spec import ENGINES, KINDS, IndexSpec, spec_of
from feast_recsys.bundle.index.switching import Switching, unmeasured

N, D, RECALL = 8_000, 16, 0.95
MISSING = () if find_spec("scann") is not None else ("scann",)
STORED = [kind for kind in KINDS if kind not in ("exact", *ENGINES, *MISSING)]
FILTERED = [kind for kind in STORED if kind not in ENGINES]
CODED = ("ivf_sq8", "ivf_pq")
BUILD = {"hnsw": {"links": 16, "building": 50}, "scann": {"leaves": 60}}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small indexes are built and searched faster without waiting for other threads."""
    with pytest.MonkeyPatch.context() as patch, threadpool_limits(1):
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def vectors():
    random = np.random.default_rng(0)
    centres = random.standard_normal((N // 100, D), np.float32)
    items = centres[random.integers(0, len(centres), N)] + np.float32(0.4) * random.standard_normal((N, D), np.float32)
    items[:, -1] = 0.5 * random.standard_normal(N)  # a bias
    return items


@pytest.fixture(scope="module")
def queries(vectors):
    random = np.random.default_rng(1)
    near = vectors[random.integers(0, N, 120)] + np.float32(0.4) * random.standard_normal((120, D), np.float32)
    near[:, -1] = 1.0
    return near


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vectors):
    """The files of each kind."""
    made = {}
    for kind in STORED:
        made[kind] = tmp_path_factory.mktemp(kind)
        build_index(spec_of(kind, BUILD.get(kind, {"lists": 80})), vectors, made[kind])
    return made


def recall(index, queries, k, allow=None):
    rows, _ = index.search(queries, k, allow)
    due, _ = ExactIndex(index.vectors).search(queries, k, allow)
    return np.mean([len(np.intersect1d(*pair)) / max(len(pair[1]), 1) for pair in zip(rows, due, strict=True)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_survives_json_and_has_a_name(kind):
    spec = spec_of(kind, {})
    assert IndexSpec.of(spec.document()) == spec
    assert str(spec).split()[0] == kind


def test_what_the_build_chooses_is_called_auto():
    assert str(spec_of("ivf_flat", {})) == "ivf_flat lists=auto probes=16"
    assert str(spec_of("ivf_flat", {"lists": 80})) == "ivf_flat lists=80 probes=16"


@pytest.mark.parametrize(
    ("kind", "parameters", "field", "message"),
    [
        ("ivf", {}, "kind", "there are: exact, ivf_flat"),
        ("exact", {"probes": 3}, "probes", "it has none"),
        ("ivf_flat", {"widening": 2.0}, "widening", "it has: lists, probes"),
        ("ivf_flat", {"probes": 0}, "probes", "at least 1"),
        ("ivf_flat", {"probes": 2.5}, "probes", "whole number"),
        ("ivf_flat", {"probes": True}, "probes", "whole number"),
        ("ivf_sq8", {"widening": float("nan")}, "widening", "at least 1"),
    ],
)
def test_a_wrong_kind_or_parameter_is_named_with_what_there_is(kind, parameters, field, message):
    with pytest.raises(InvalidSettings, match=message) as caught:
        spec_of(kind, parameters)
    assert caught.value.field == field


def test_candidates_are_specs_whose_effort_ascends_for_each_build():
    efforts = {}
    for spec in candidates(40_000, 64):
        assert IndexSpec.of(spec.document()) == spec
        effort = next(value for name, value in spec.search.items() if name != "widening")
        key = (spec.kind, *spec.build.items(), spec.search.get("widening"))
        assert effort > efforts.get(key, 0)
        efforts[key] = effort
    assert {key[0] for key in efforts} >= {"ivf_flat", "ivf_sq8", "ivf_pq", "hnsw"}


@pytest.mark.parametrize("kind", STORED)
def test_more_effort_finds_more_and_enough_of_it_finds_nearly_all(kind, folders, vectors, queries):
    name = {"hnsw": "breadth", "scann": "leaves_searched"}.get(kind, "probes")
    widening = {"widening": 20.0} if kind in ("ivf_pq", "scann") else {}
    specs = [spec_of(kind, {**BUILD.get(kind, {"lists": 80}), name: n, **widening}) for n in (1, 4, 80, 400)]
    shares = [recall(open_index(spec, folders[kind], vectors), queries, 50) for spec in specs]
    assert shares == sorted(shares)
    assert shares[-1] >= 0.98


@pytest.mark.parametrize("kind", STORED)
def test_progress_ends_with_all_items(kind, tmp_path):
    seen = []
    build_index(spec_of(kind, {}), np.ones((300, 4), np.float32), tmp_path, progress=lambda *at: seen.append(at))
    assert seen[-1] == (300, 300)


@pytest.mark.parametrize("kind", STORED)
def test_files_of_other_vectors_are_refused(kind, folders, vectors):
    for others in (vectors[:-1], vectors[:, :-1]):
        with pytest.raises(CorruptArtifact, match=str(folders[kind])):
            open_index(spec_of(kind, {}), folders[kind], np.ascontiguousarray(others))


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_a_missing_or_broken_file_is_refused(kind, content, folders, vectors, tmp_path):
    name = {"hnsw": "graph.faiss", "scann": "scann_config.pb"}.get(kind, "index.faiss")
    for path in folders[kind].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorruptArtifact, match=str(tmp_path)):
        open_index(spec_of(kind, {}), tmp_path, vectors)


@pytest.mark.parametrize("kind", STORED)
def test_a_vector_whose_square_is_no_float_is_refused_by_its_row(kind, vectors, tmp_path):
    huge = vectors[:500].copy()
    huge[7] = 1e19
    with pytest.raises(JobFailed, match="row 7"):
        build_index(spec_of(kind, {}), huge, tmp_path)


@pytest.mark.parametrize(("kind", "library", "extra"), [("ivf_flat", "faiss", "ann"), ("scann", "scann", "scann")])
def test_a_missing_library_is_named_with_its_extra(kind, library, extra, vectors, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    faiss.cache_clear()
    with pytest.raises(InvalidSettings, match=rf"feast-recsys\[{extra}\]"):
        build_index(spec_of(kind, {}), vectors[:50], tmp_path)


def test_the_nearest_lists_are_those_of_the_nearest_centroids(folders, vectors, queries):
    """The lists are clusters of the vectors made equally long; a query made twice as long looks at the nearest ones."""
    index = open_index(spec_of("ivf_flat", {"lists": 80}), folders["ivf_flat"], vectors)
    equal, length = of_equal_length(vectors)
    stored = index.inverted.searcher.quantizer.reconstruct_n(0, 80)
    centroids = stored[:, : D + 1]
    distances = ((equal[:, None] - centroids[None]) ** 2).sum(axis=2)
    assert (distances[np.arange(N), index.lists] <= distances.min(axis=1) + 1e-3).all()
    for query in queries[:20]:
        aim = np.append(query * (2 * length / np.linalg.norm(query)), 0.0)
        expected = ((centroids - aim) ** 2).sum(axis=1)
        found = index.probing.order(index.inverted.extended(query))
        assert sorted(found.tolist()) == list(range(80))
        assert (np.diff(expected[found]) >= -1e-3).all()
        assert set(index.probing.nearest(index.inverted.extended(query), 7, 1).keys.tolist()) == set(found[:7].tolist())


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq8", "ivf_pq"])
def test_items_that_are_equally_long_are_kept_as_they_are(kind, vectors, queries, tmp_path):
    """Their lists are clusters of directions, and nothing is added to them or to a query."""
    lengths = np.float32(3.0) / np.linalg.norm(vectors, axis=1, keepdims=True)
    equal = np.ascontiguousarray(vectors * lengths)
    build_index(spec_of(kind, {"lists": 80}), equal, tmp_path)
    index = open_index(spec_of(kind, {"lists": 80, "probes": 80}), tmp_path, equal)
    centroids = index.inverted.searcher.quantizer.reconstruct_n(0, 80)
    assert centroids.shape == (80, D)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1.0, rtol=1e-5)
    cosines = equal @ centroids.T
    assert (cosines[np.arange(N), index.lists] >= cosines.max(axis=1) - 1e-4).all()
    assert recall(index, queries, 50) >= (0.9 if kind == "ivf_pq" else 0.999)
    rows, scores = index.search(queries, 50)
    np.testing.assert_allclose(scores, np.take_along_axis(queries @ equal.T, rows, axis=1), rtol=1e-4, atol=1e-4)


def test_where_lists_hold_too_few_items_further_ones_are_looked_at(folders, vectors, queries):
    """Exact search of everything would take many times as long as one more list."""
    index = open_index(spec_of("ivf_flat", {"lists": 80, "probes": 1}), folders["ivf_flat"], vectors)
    efforts = set()
    for query in queries:
        order = index.probing.order(index.inverted.extended(query))
        looked = next(p for p in (1, 2, 4, 8) if index.probing.sizes[order[:p]].sum() >= 100)
        rows, _ = index.search(query[None], 100)
        assert set(index.lists[rows[0]]) <= set(order[:looked].tolist())
        efforts.add(looked)
    assert len(efforts) > 1


@pytest.mark.parametrize("kind", FILTERED)
def test_recall_is_held_at_every_selectivity_and_number_of_exclusions(kind, folders, vectors, queries):
    random = np.random.default_rng(2)
    effort = {"hnsw": {"breadth": 100}, "scann": {"leaves_searched": 20}}.get(kind, {"probes": 20})
    spec = spec_of(kind, {**BUILD.get(kind, {"lists": 80}), **effort})
    plan = measure_switching(open_index(spec, folders[kind], vectors), queries, 50, RECALL)
    assert plan is not None
    index = open_index(spec, folders[kind], vectors, plan)
    assert recall(index, queries, 50) >= RECALL
    cases = [Allowed(random.random(N) < share) for share in (0.9, 0.5, 0.2, 0.1, 0.03, 0.01, 0.001)]
    cases += [Allowed(vectors[:, 0] > edge) for edge in (-1.0, 0.0, 1.0)]
    cases += [all_but(random.integers(0, N, number), N) for number in (1, 100, 2_000)]
    cases += [cases[1].without(random.integers(0, N, number)) for number in (10, 2_000)]
    for allow in cases:
        assert recall(index, queries[:40], 50, allow) >= RECALL - 0.02
    for number in (10, 100, 1_000):
        found = []
        for n in range(30):
            best, _ = ExactIndex(vectors).search(queries[n : n + 1], number)
            found.append(recall(index, queries[n : n + 1], 50, all_but(best[0], N)))
        assert np.mean(found) >= RECALL - 0.02


@pytest.mark.parametrize("kind", FILTERED)
@pytest.mark.parametrize("near", [0.02, 0.1, 0.3, 0.5, 0.7])
def test_recall_is_held_where_a_filter_leaves_out_what_is_nearest(kind, near, folders, vectors, queries):
    """As one that leaves out the genre that a user likes: what passes begins where everything near has ended."""
    effort = {"hnsw": {"breadth": 100}, "scann": {"leaves_searched": 20}}.get(kind, {"probes": 20})
    spec = spec_of(kind, {**BUILD.get(kind, {"lists": 80}), **effort})
    plan = measure_switching(open_index(spec, folders[kind], vectors), queries, 50, RECALL)
    index, scores = open_index(spec, folders[kind], vectors, plan), queries[:30] @ vectors.T
    for k in (10, 50):
        found = []
        for n, mine in enumerate(scores):
            allow = Allowed(mine <= np.quantile(mine, 1.0 - near))
            found.append(recall(index, queries[n : n + 1], k, allow))
        assert np.mean(found) >= RECALL - 0.02


@pytest.mark.parametrize("kind", ["ivf_flat", *CODED])
def test_more_items_than_the_effort_was_chosen_for_are_found_as_well(kind, folders, vectors, queries):
    spec = spec_of(kind, {"lists": 80, "probes": 20})
    plan = measure_switching(open_index(spec, folders[kind], vectors), queries, 50, RECALL)
    index = open_index(spec, folders[kind], vectors, plan)
    for k in (10, 200, 700, 5_000):
        assert recall(index, queries[:40], k) >= RECALL - 0.01


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pq", "scann"])
def test_fewer_items_than_codes_were_measured_with_are_found_as_well(kind, folders, vectors, queries):
    if kind in MISSING:
        pytest.skip("needs its library")
    effort = {"leaves_searched": 40} if kind == "scann" else {"probes": 40}
    spec = spec_of(kind, {**BUILD.get(kind, {"lists": 80}), **effort})
    plan = measure_switching(open_index(spec, folders[kind], vectors), queries, 100, RECALL)
    index = open_index(spec, folders[kind], vectors, plan)
    found = {k: recall(index, queries, k) for k in (1, 10, 50, 100)}
    assert min(found.values()) >= found[100] - 0.005


@pytest.mark.parametrize("kind", ["ivf_flat", *CODED])
@pytest.mark.parametrize("k", [501, N])
def test_any_number_of_items_can_be_measured_with(kind, k, folders, vectors, queries):
    spec = spec_of(kind, {"lists": 80, "probes": 20})
    plan = measure_switching(open_index(spec, folders[kind], vectors), queries[:3], k, RECALL)
    index = open_index(spec, folders[kind], vectors, plan)
    assert recall(index, queries[:3], k) >= RECALL


def test_a_plan_that_makes_no_sense_is_refused():
    good = Switching((1, 2), (1, 2), (1, 2), codes=(1, 2)).document()
    assert Switching.of(good)
    for bad in (
        {"depths": [], "efforts": [], "tails": [], "codes": []},
        {"codes": [-1, 2]},
        {"codes": [1]},
        {"asked_ns": float("nan")},
        {"fixed_ns": -1.0},
    ):
        with pytest.raises(ValueError, match="must"):
            Switching.of(good | bad)


@pytest.mark.parametrize("kind", CODED)
def test_measured_codes_hold_the_last_items_down_to_their_depth(kind, folders, vectors, queries):
    spec = spec_of(kind, {"lists": 80, "probes": 80})
    index = open_index(spec, folders[kind], vectors)
    plan = measure_switching(index, queries, 50, RECALL)
    due, _ = ExactIndex(vectors).search(queries, plan.depths[-1])
    for depth, codes in zip(plan.depths, plan.codes, strict=True):
        assert codes >= depth
        found = [index.inverted.nearest(query, codes, 80).rows.copy() for query in queries]
        held = [np.isin(mine[depth - 50 : depth], rows) for mine, rows in zip(due, found, strict=True)]
        assert np.mean(held) >= RECALL


def test_measured_effort_is_enough_at_its_depth(folders, vectors, queries):
    spec = spec_of("ivf_flat", {"lists": 80, "probes": 5})
    plan = measure_switching(open_index(spec, folders["ivf_flat"], vectors), queries, 50, RECALL)
    depths = np.array([*plan.depths, N // 10])
    assert depths[0] == 50
    assert (depths[1:] >= depths[:-1]).all()
    assert (depths[1:] <= 1.25 * depths[:-1]).all(), "down to a tenth of all items, and no step is wide"
    assert list(plan.efforts) == sorted(plan.efforts)
    for depth, effort in zip(plan.depths, plan.efforts, strict=True):
        at_depth = spec.searching(probes=effort)
        assert recall(open_index(at_depth, folders["ivf_flat"], vectors, None), queries, depth) >= RECALL
    assert list(plan.tails) == sorted(plan.tails)
    due, _ = ExactIndex(vectors).search(queries, plan.depths[-1])
    index = open_index(spec, folders["ivf_flat"], vectors, plan)
    for depth, tail in zip(plan.depths, plan.tails, strict=True):
        held = [
            np.isin(
                index.lists[mine[depth - plan.depths[0] : depth]],
                index.probing.order(index.inverted.extended(query))[:tail],
            )
            for query, mine in zip(queries, due, strict=True)
        ]
        assert np.mean(held) >= RECALL


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8),
    st.floats(0.0, 1e5),
    st.floats(0.0, 1e3),
)
def test_a_plan_survives_json_and_its_effort_grows_with_depth(steps, depth, more):
    depths, efforts, tails = np.cumsum(steps, axis=0).T.tolist()
    plan = Switching(tuple(depths), tuple(efforts), tuple(tails), codes=tuple(depths))
    assert Switching.of(plan.document()) == plan
    low, high = plan.effort(depth), plan.effort(depth + more)
    assert (low is None) == (depth > depths[-1])
    assert high is None or (low is not None and low <= high)
    assert [plan.effort(at) for at in depths] == efforts
    assert [plan.tail(at) for at in depths] == tails


def test_without_a_measurement_effort_grows_to_all_there_is():
    plan = unmeasured(100, 8, 1000)
    assert plan.effort(100) == 8
    assert plan.efforts[-1] == 1000
    assert list(plan.efforts) == sorted(plan.efforts)


MATRICES = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).standard_normal((60, 5), np.float32))


@settings(deadline=None)
@given(MATRICES, st.sampled_from(["inner_product", "cosine", "l2"]))
def test_every_metric_has_the_order_of_inner_products(matrix, metric):
    items, query = matrix[:-1] * 3, matrix[-1:]
    scores = {
        "inner_product": items @ query[0],
        "cosine": items @ query[0] / np.linalg.norm(items, axis=1),
        "l2": -np.linalg.norm(items - query, axis=1),
    }[metric]
    rows, _ = ExactIndex(items_for(items, metric)).search(queries_for(query, metric), len(items))
    assert (np.diff(scores[rows[0]]) <= 1e-4).all()


@settings(deadline=None)
@given(MATRICES)
def test_the_largest_product_is_the_nearest_once_all_are_equally_long(matrix):
    equal, length = of_equal_length(matrix[:-1])
    np.testing.assert_allclose(np.linalg.norm(equal, axis=1), length, rtol=1e-5)
    distances = np.linalg.norm(equal - np.append(matrix[-1], 0.0), axis=1)
    products = matrix[:-1] @ matrix[-1]
    assert (np.diff(products[np.argsort(distances)]) <= 1e-3).all()
