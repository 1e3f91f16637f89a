"""Milvus and Qdrant on their way through the job: filled, measured, published, pointed at, tidied up."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from support import warehouse
from support.during import During
from support.feast_repo import at
from support.materialized import add_rows, bundle_of, counts
from support.milvus_server import MilvusServer

from feast_recsys.bundle.errors import IndexUnavailable
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.remote import connect
from feast_recsys.bundle.index.remote_index import RemoteIndex
from feast_recsys.bundle.index.waiting import WaitingIndex
from feast_recsys.bundle.store import current, history, point
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.check_index import check_index
from feast_recsys.jobs.ledger import Ledger, collection_of
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.jobs.remote_tidying import switch_aliases

AS_OF = warehouse.AS_OF


def retrieval(index):
    return {"recommenders": {"things": {"retrieval": {"index": index}, "seen": ["history:item_ids"]}}}


def build(folder, index):
    return warehouse.build(folder, vectors=None, settings=retrieval(index))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with MilvusServer(tmp_path_factory.mktemp("milvus") / "data.db") as running:
        yield running


def expect_exact_answers(index):
    oracle = ExactIndex(warehouse.expected_vectors(True))
    queries = np.random.default_rng(0).normal(size=(20, warehouse.DIMENSION)).astype(np.float32)
    rows, scores = index.search(queries, warehouse.N)
    expected_rows, expected = oracle.search(queries, warehouse.N)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)
    assert all(set(a.tolist()) == set(b.tolist()) for a, b in zip(rows, expected_rows, strict=True))


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_embedded_it_is_part_of_the_bundle(tmp_path, kind):
    repo = build(tmp_path, {"kind": kind})
    summary = materialize(repo, as_of=AS_OF)
    bundle = bundle_of(repo)
    entry = bundle.manifest.recommenders["things"].index
    assert (entry.spec.kind, entry.folder, entry.remote) == (kind, "index/things", None)
    assert (entry.queries, entry.measured.recall) == (2, 1.0)
    assert counts(summary, f"fill {kind} for things")["items"] == warehouse.N
    index = bundle.recommenders["things"].index
    assert isinstance(index, RemoteIndex)
    expect_exact_answers(index)
    assert Ledger(repo.resolve("bundles")).read() == []
    assert not materialize(open_repo(tmp_path), as_of=AS_OF).published


def add_item(folder, letter, seconds):
    """Another item, so that there is something new."""
    add_rows(folder, warehouse.catalogue_rows([f"item-{letter}"], at(seconds), price=[1.0], year=[3]))


def collections_of(server):
    engine = connect("milvus", server.address)
    try:
        return engine.names("")
    finally:
        engine.close()


def aliased(server, repo):
    engine = connect("milvus", server.address)
    try:
        return engine.aliased(f"{repo.store.project}_things")
    finally:
        engine.close()


def named(repo, *bundle_ids):
    return sorted(collection_of(repo.store.project, "things", bundle_id) for bundle_id in bundle_ids)


def own(server, repo):
    return [name for name in collections_of(server) if name.startswith(repo.store.project)]


def test_on_a_server_each_bundle_has_its_collection_until_it_is_gone(tmp_path, server):
    repo = build(tmp_path, {"kind": "milvus", "address": server.address})
    root = repo.resolve("bundles")
    first = materialize(repo, as_of=AS_OF)
    bundle = bundle_of(repo)
    entry = bundle.manifest.recommenders["things"].index
    assert (entry.folder, entry.remote.address) == (None, server.address)
    assert [entry.remote.collection] == named(repo, first.bundle_id) == own(server, repo)
    assert not (root / first.bundle_id / "index").exists()
    assert isinstance(bundle.recommenders["things"].index, WaitingIndex)
    expect_exact_answers(bundle.recommenders["things"].index)
    assert aliased(server, repo) == entry.remote.collection
    [finding] = [f for f in check_index(repo, bundle, "things") if f.severity == "ok"]
    assert "milvus m=" in finding.message
    assert server.address in finding.message

    assert not materialize(open_repo(tmp_path), as_of=AS_OF).published
    made = [first.bundle_id]
    for n, letter in enumerate("yz"):
        add_item(tmp_path, letter, 60 + n)
        summary = materialize(open_repo(tmp_path), as_of=None)
        made.append(summary.bundle_id)
        assert counts(summary, "switch aliases")["switched"] == 1
        # keep_bundles is 2
        assert own(server, repo) == named(repo, *made[-2:])
        assert [aliased(server, repo)] == named(repo, made[-1])
        assert len(bundle_of(repo).recommenders["things"].index.opened()) == warehouse.N + n + 1
    assert history(root) == made[-2:]

    point(root, made[-2])
    assert switch_aliases(root) == 1
    assert [aliased(server, repo)] == named(repo, made[-2])
    assert switch_aliases(root) == 0


def test_back_to_files_leaves_nothing_on_the_server_in_the_end(tmp_path, server):
    repo = build(tmp_path, {"kind": "milvus", "address": server.address})
    first = materialize(repo, as_of=AS_OF)
    warehouse.change_settings(tmp_path, retrieval({"kind": "exact"}))
    assert materialize(open_repo(tmp_path), as_of=AS_OF).published
    assert own(server, repo) == named(repo, first.bundle_id)
    add_item(tmp_path, "z", 60)
    materialize(open_repo(tmp_path), as_of=None)
    assert own(server, repo) == []
    assert Ledger(repo.resolve("bundles")).read() == []


def test_what_a_dead_job_left_is_dropped_and_what_others_have_is_not(tmp_path, server):
    """A job that dies at its audit has filled a collection that nobody will ask."""
    repos = [build(tmp_path / name, {"kind": "milvus", "address": server.address}) for name in ("a", "b")]
    other = materialize(repos[0], as_of=AS_OF)
    repo = repos[1]

    def die():
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        materialize(repo, as_of=AS_OF, reporter=During("audit", die))
    assert current(repo.resolve("bundles")) is None
    [left] = own(server, repo)
    summary = materialize(open_repo(repo.path), as_of=AS_OF)
    assert counts(summary, "drop old collections")["dropped"] == 1
    assert own(server, repo) == named(repo, summary.bundle_id) != [left]
    assert own(server, repos[0]) == named(repos[0], other.bundle_id)


def test_a_server_that_goes_after_publishing_is_asked_again_by_the_next_run(tmp_path):
    with MilvusServer(tmp_path / "milvus.db") as server:
        repo = build(tmp_path / "warehouse", {"kind": "milvus", "address": server.address})
        summary = materialize(repo, as_of=AS_OF, reporter=During("switch aliases", server.stop))
        assert summary.published
        [note] = [note for note in summary.notes if "the alias is switched by the next run" in note]
        assert server.address in note
        [error] = [f for f in check_index(repo, bundle_of(repo), "things") if f.severity == "error"]
        assert server.address in error.message
        server.start()
        again = materialize(open_repo(repo.path), as_of=AS_OF)
        assert not again.published
        assert counts(again, "switch aliases")["switched"] == 1
        assert [aliased(server, repo)] == named(repo, summary.bundle_id)


def test_two_recommenders_have_two_collections(tmp_path, server):
    index = {"kind": "milvus", "address": server.address}
    recommender = {"retrieval": {"model": "things_retrieval", "index": index}, "ranking": None}
    repo = warehouse.build(
        tmp_path, vectors=None, settings={"recommenders": {"things": recommender, "more-things": recommender}}
    )
    summary = materialize(repo, as_of=AS_OF)
    project = repo.store.project
    names = [collection_of(project, name, summary.bundle_id) for name in ("things", "more-things")]
    assert own(server, repo) == sorted(names)
    assert len(set(names)) == 2


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_a_server_that_is_not_there_is_named_before_anything_is_published(tmp_path, kind):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    repo = warehouse.build(tmp_path, settings=retrieval({"kind": kind, "address": address}))
    with pytest.raises(IndexUnavailable, match=f"{kind.title()} at {address} can't connect"):
        materialize(repo, as_of=AS_OF)
    root = repo.resolve("bundles")
    assert current(root) is None
    assert not (root / ".pending").exists()  # no vector was written to Feast either
    warehouse.change_settings(tmp_path, retrieval({"kind": "exact"}))
    assert materialize(open_repo(tmp_path), as_of=AS_OF).published
