"""A model's metric through the runs of the job: what is searched follows it, what is the model's own stays."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta

import numpy as np
import onnx
import pytest
from scipy.spatial.distance import cdist
from support import warehouse
from support.materialized import add_rows, bundle_of, counts, feast_vectors, vectors_of

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.by_metric import underlying
from feast_recsys.bundle.index.segments import Segments
from feast_recsys.bundle.manifest import Manifest
from feast_recsys.bundle.signature import Role, Signature
from feast_recsys.bundle.store import current, open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize

AS_OF = warehouse.AS_OF
HOUR = timedelta(hours=1)
IVF = {"kind": "ivf_flat", "lists": 2, "probes": 2, "compaction": 1.0}


def build(folder, metric, index):
    settings = {"retrieval": {"index": index, "vectors": warehouse.VECTORS}, "seen": ["history:item_ids"]}
    repo = warehouse.build(folder, settings={"recommenders": {"things": settings}})
    set_metric(folder, metric)
    return repo


def set_metric(folder, metric):
    model = folder / "models/things_retrieval"
    replace(Signature.load(model), metric=metric).save(model)


def expect_answers_by(metric, repo):
    """Whatever is asked is answered by the definition, over the model's own vectors, which Feast has too."""
    bundle = bundle_of(repo)
    index, vectors = bundle.recommenders["things"].index, vectors_of(bundle, repo)
    queries = np.random.default_rng(0).normal(size=(20, warehouse.DIMENSION)).astype(np.float32)
    if metric == "l2":
        exact = -cdist(queries, vectors, "sqeuclidean")
    else:
        lengths = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(vectors, axis=1))
        exact = queries @ vectors.T / (np.where(lengths > 0, lengths, 1) if metric == "cosine" else 1)
    for k in (1, 3, len(vectors)):
        rows, scores = index.search(queries, k)
        np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(scores, -np.sort(-exact, axis=1)[:, :k], rtol=1e-4, atol=1e-4)
    ids = bundle.snapshot.ids_of(np.arange(len(vectors)))
    for stored, row, at in zip(feast_vectors(repo, ids), vectors, range(len(ids)), strict=True):
        np.testing.assert_array_equal(stored, row)
        np.testing.assert_array_equal(index.vectors_of(np.array([at]))[0], row)
    return bundle


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_an_incremental_run_keeps_it_and_embeds_no_more_than_what_changed(tmp_path, metric):
    repo = build(tmp_path, metric, IVF)
    materialize(repo, as_of=AS_OF)
    np.testing.assert_array_equal(vectors_of(bundle_of(repo), repo), warehouse.expected_vectors(True))
    expect_answers_by(metric, repo)
    for hour, year in ((1, 7), (2, 9)):
        add_rows(tmp_path, warehouse.catalogue_rows(["item-a", f"item-{hour}"], AS_OF + hour * HOUR, year=[year, 1]))
        summary = materialize(open_repo(tmp_path), as_of=AS_OF + hour * HOUR)
        assert counts(summary, "embed")["embedded"] == 2
        assert counts(summary, "write vectors")["written"] == 2
        assert counts(summary, "carry indexes") == {"carried": 1}
        bundle = expect_answers_by(metric, repo)
        assert isinstance(underlying(bundle.recommenders["things"].index), Segments)
    searched = np.load(repo.resolve("bundles") / bundle.id / str(bundle.manifest.recommenders["things"].searched))
    materialize(open_repo(tmp_path), mode="full", as_of=AS_OF + 3 * HOUR)
    bundle = expect_answers_by(metric, repo)
    if metric == "cosine":  # a full run takes places from a centre of its own
        anew = np.load(repo.resolve("bundles") / bundle.id / str(bundle.manifest.recommenders["things"].searched))
        np.testing.assert_array_equal(searched, anew)


def test_where_items_have_moved_away_from_their_centre_there_is_another_one_and_another_index(tmp_path):
    repo = build(tmp_path, "l2", IVF)
    materialize(repo, as_of=AS_OF)
    first, n = centre(repo), len(warehouse.ITEMS["year"])
    for hour in (1, 2):
        # Less than half of the items are far away first, then more. One that was there has another vector: with the new
        # ones that is too much for an index to be carried on, but only in the first run.
        ids = [f"far-{hour}-{number}" for number in range(n - 1)] + ["item-a"] * (hour == 1)
        years = [90_000] * (n - 1) + [7] * (hour == 1)
        add_rows(tmp_path, warehouse.catalogue_rows(ids, AS_OF + hour * HOUR, year=years))
        summary = materialize(open_repo(tmp_path), as_of=AS_OF + hour * HOUR)
        assert counts(summary, "carry indexes") == {"carried": 0}
        expect_answers_by("l2", repo)
        if hour == 1:
            np.testing.assert_array_equal(centre(repo), first)
    np.testing.assert_allclose(centre(repo), np.median(vectors_of(bundle_of(repo), repo), axis=0), rtol=1e-5)


def centre(repo):
    bundle = bundle_of(repo)
    return np.load(repo.resolve("bundles") / bundle.id / str(bundle.manifest.recommenders["things"].centre))[0]


def test_other_queries_are_an_index_measured_anew_over_the_same_vectors(tmp_path):
    """Recall and plans are of the queries that were asked, and another query encoder asks other ones."""
    repo = build(tmp_path, "inner_product", IVF)
    materialize(repo, as_of=AS_OF)
    model = tmp_path / "models/things_retrieval"
    signature = Signature.load(model)
    encoder = signature.graphs[Role.QUERY_ENCODER]
    graph = onnx.load(model / encoder.file)
    graph.doc_string = "trained anew"
    onnx.save(graph, model / encoder.file)
    changed = replace(encoder, sha256=hashlib.sha256((model / encoder.file).read_bytes()).hexdigest())
    replace(signature, graphs={**signature.graphs, Role.QUERY_ENCODER: changed}).save(model)
    summary = materialize(open_repo(tmp_path), as_of=AS_OF + HOUR)
    assert summary.published
    assert counts(summary, "embed")["embedded"] == 0
    assert counts(summary, "carry indexes") == {"carried": 0}
    expect_answers_by("inner_product", repo)


def test_another_metric_is_another_bundle_with_the_same_vectors_and_another_index(tmp_path):
    repo = build(tmp_path, "inner_product", IVF)
    materialize(repo, as_of=AS_OF)
    assert bundle_of(repo).manifest.recommenders["things"].searched is None
    for hour, metric in enumerate(("cosine", "l2", "inner_product"), start=1):
        set_metric(tmp_path, metric)
        summary = materialize(open_repo(tmp_path), as_of=AS_OF + hour * HOUR)
        assert summary.published
        assert counts(summary, "embed")["embedded"] == 0
        assert counts(summary, "write vectors")["written"] == 0
        assert counts(summary, "carry indexes") == {"carried": 0}
        expect_answers_by(metric, repo)


@pytest.mark.parametrize(("kind", "metric"), [("milvus", "l2"), ("qdrant", "cosine")])
def test_engines_hold_what_is_searched_by_inner_product(tmp_path, kind, metric):
    repo = build(tmp_path, metric, {"kind": kind})
    materialize(repo, as_of=AS_OF)
    entry = expect_answers_by(metric, repo).manifest.recommenders["things"].index
    assert (entry.spec.kind, entry.queries, entry.measured.recall) == (kind, 2, 1.0)


def test_a_bundle_without_what_its_metric_needs_is_refused(tmp_path):
    repo = build(tmp_path, "cosine", IVF)
    materialize(repo, as_of=AS_OF)
    root = repo.resolve("bundles")
    folder = root / str(current(root))
    manifest = Manifest.load(folder)
    entry = replace(manifest.recommenders["things"], searched=None)
    replace(manifest, recommenders={"things": entry}).save(folder)
    with pytest.raises(CorruptArtifact, match=r"compares by cosine.*materialize again"):
        open_bundle(folder)
