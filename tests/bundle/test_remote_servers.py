"""Servers of indexes: collections and their aliases, outages, secrets; and engines embedded in a bundle."""

from __future__ import annotations

import gc
import hashlib
import socket
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
from support.milvus_server import MilvusServer
from support.qdrant_server import QdrantServer

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, IndexUnavailable, InvalidSettings
from feast_recsys.bundle.index import milvus, remote, remote_index
from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.breaker import Breaker
from feast_recsys.bundle.index.engine import Collection
from feast_recsys.bundle.index.entry import Remote
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.remote import build_embedded, connect, fill, open_embedded, open_remote
from feast_recsys.bundle.index.remote_index import RemoteIndex
from feast_recsys.bundle.index.spec import ENGINES, spec_of
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot

N, D = 40, 4
VECTORS = np.random.default_rng(0).standard_normal((N, D), np.float32)
each_kind = pytest.mark.parametrize("kind", ENGINES)


@pytest.fixture
def server(kind, tmp_path):
    with MilvusServer(tmp_path / "milvus.db") if kind == "milvus" else QdrantServer() as running:
        yield running


@pytest.fixture
def closed_port():
    """An address that nobody listens at, nor will."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def silent_port():
    """An address where calls are taken and not answered."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@each_kind
def test_an_alias_is_switched_and_collections_are_dropped(kind, server):
    engine, spec = connect(kind, server.address), spec_of(kind, {})
    fill(engine, "shop_1", spec, VECTORS)
    fill(engine, "shop_2", spec, VECTORS[:7])
    assert engine.names("shop") == ["shop_1", "shop_2"]
    assert engine.names("shop_2") == ["shop_2"]
    assert [engine.count(name) for name in ("shop_1", "shop_2", "shop_3")] == [N, 7, -1]
    assert engine.aliased("shop") is None
    for name in ("shop_1", "shop_2", "shop_2", "shop_1"):
        engine.point("shop", name)
        assert engine.aliased("shop") == name
    engine.drop("shop_1")  # with its alias
    engine.drop("shop_1")
    assert engine.aliased("shop") is None
    assert engine.names("") == ["shop_2"]
    engine.close()


@each_kind
def test_filling_starts_anew_and_tells_how_far_it_is(kind, server, monkeypatch):
    """What a job left that died in between is not added to."""
    monkeypatch.setattr(remote, "_BATCH_ROWS", 15)
    engine, spec, told = connect(kind, server.address), spec_of(kind, {}), []
    fill(engine, "c", spec, VECTORS)
    fill(engine, "c", spec, VECTORS[:31], progress=lambda done, total: told.append((done, total)))
    assert told == [(15, 31), (30, 31), (31, 31)]
    assert engine.count("c") == 31
    fill(engine, "c", spec, VECTORS[:0])
    assert engine.count("c") == 0
    engine.close()


@each_kind
def test_a_collection_that_is_not_that_of_the_bundle_is_refused_and_named(kind, server):
    engine, spec = connect(kind, server.address), spec_of(kind, {})
    fill(engine, "c", spec, VECTORS[:7])
    with pytest.raises(CorruptArtifact, match=rf"{server.address}.* c holds 7 items.* has 40"):
        open_remote(spec, Remote(server.address, "c", 1.0), VECTORS)
    with pytest.raises(CorruptArtifact, match=r"other is not there"):
        open_remote(spec, Remote(server.address, "other", 1.0), VECTORS)
    engine.close()


@each_kind
def test_a_server_that_goes_is_named(kind, server):
    engine, spec = connect(kind, server.address), spec_of(kind, {})
    fill(engine, "c", spec, VECTORS)
    index = open_remote(spec, Remote(server.address, "c", 0.5), VECTORS, few=1)
    index.search(VECTORS[:1], 3)
    server.stop()
    for _ in range(2):
        with pytest.raises(IndexUnavailable, match=server.address) as raised:
            index.search(VECTORS[:1], 3)
        assert (raised.value.code, raised.value.reason) == ("UNAVAILABLE", "INDEX_UNAVAILABLE")
    with pytest.raises(IndexUnavailable, match=server.address):
        engine.count("c")
    # What needs no server does not mind.
    rows, _ = index.search(VECTORS[:1], 3, Allowed(np.arange(N) == 5))
    assert rows.tolist() == [[5]]
    engine.close()


def test_an_index_answers_again_when_its_server_is_back(tmp_path):
    spec = spec_of("milvus", {})
    with MilvusServer(tmp_path / "milvus.db") as server:
        engine = connect("milvus", server.address)
        fill(engine, "c", spec, VECTORS)
        index = open_remote(spec, Remote(server.address, "c", 1.0), VECTORS, few=0)
        server.stop()
        with pytest.raises(IndexUnavailable):
            index.search(VECTORS[:1], 3)
        server.start()
        fill(eventually(lambda: connect("milvus", server.address)), "c", spec, VECTORS)
        rows, _ = eventually(lambda: index.search(VECTORS[:1], 3))
        np.testing.assert_array_equal(rows, ExactIndex(VECTORS).search(VECTORS[:1], 3)[0])
        engine.close()


def eventually(asked):
    for _ in range(100):
        try:
            return asked()
        except IndexUnavailable:
            time.sleep(0.1)
    return asked()


@each_kind
def test_nobody_there_or_no_answer_is_told_by_name(kind, closed_port, silent_port, monkeypatch):
    monkeypatch.setattr(milvus, "_CONNECT_SECONDS", 0.2)
    for address in (closed_port, silent_port):
        with pytest.raises(IndexUnavailable, match=rf"(?i){kind} at {address}"):
            connect(kind, address, 0.2)


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
def test_a_secret_comes_from_the_environment_and_is_not_told(monkeypatch, caplog):
    with QdrantServer(api_key="sesame") as server:
        monkeypatch.setenv("QDRANT_API_KEY", "sesame")
        engine = connect("qdrant", server.address)
        assert engine.names("") == []
        engine.close()
        monkeypatch.setenv("QDRANT_API_KEY", "simsim")
        with pytest.raises(IndexUnavailable, match="can't connect") as raised:
            connect("qdrant", server.address)
    assert "simsim" not in caplog.text + str(raised.value) + str(raised.value.__cause__)


def test_milvus_gets_its_token_and_does_not_tell_it(monkeypatch, closed_port, caplog):
    monkeypatch.setenv("MILVUS_TOKEN", "root:sesame")
    with pytest.raises(IndexUnavailable) as raised:
        connect("milvus", closed_port)
    assert "sesame" not in caplog.text + str(raised.value) + str(raised.value.__cause__)


@pytest.mark.parametrize(
    ("kind", "package"), [("milvus", "pymilvus"), ("milvus", "milvus_lite"), ("qdrant", "qdrant_client")]
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(kind, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "index").mkdir()
    with pytest.raises(InvalidSettings, match=rf"feast-recsys\[{kind}\]"):
        open_embedded(spec_of(kind, {}), tmp_path / "index", VECTORS)
    if package != "milvus_lite":
        with pytest.raises(InvalidSettings, match=rf"feast-recsys\[{kind}\]"):
            connect(kind, "http://127.0.0.1:1")


def test_qdrant_is_told_the_types_of_columns_before_it_builds_a_graph(tmp_path):
    columns = {
        "v:year": Column.of(DType.INT64, [1] * N),
        "v:genres": Column.of(DType.STRING, [["a"]] * N, is_list=True),
        "v:price": Column.of(DType.FLOAT32, [0.5] * N),
        "v:new": Column.of(DType.BOOL, [True] * N),
    }
    write_snapshot(tmp_path, np.arange(N), columns)
    with QdrantServer() as server:
        engine = connect("qdrant", server.address)
        fill(engine, "c", spec_of("qdrant", {}), VECTORS, open_snapshot(tmp_path))
        engine.close()
        expected = {"f_v_year": "integer", "f_v_genres": "keyword", "f_v_price": "float", "f_v_new": "bool"}
        assert {field: kind for _, field, kind in server.indexed} == expected


@each_kind
def test_embedded_files_stay_as_they_are_and_several_open_them(kind, tmp_path, monkeypatch):
    """Each opens a copy, which goes with the index."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder, spec = tmp_path / "index", spec_of(kind, {})
    build_embedded(spec, VECTORS, folder)
    before = digests(folder)
    indexes = [open_embedded(spec, folder, VECTORS, few=0) for _ in range(2)]
    expected, _ = ExactIndex(VECTORS).search(VECTORS[:2], 5)
    for index in indexes:
        np.testing.assert_array_equal(index.search(VECTORS[:2], 5)[0], expected)
    del index, indexes
    gc.collect()
    assert digests(folder) == before
    assert not list((tmp_path / "temporary").iterdir())


def digests(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_embedded_files_that_are_missing_broken_or_of_other_vectors_are_refused(tmp_path):
    spec, folder = spec_of("milvus", {}), tmp_path / "index"
    with pytest.raises(CorruptArtifact, match=str(folder)):
        open_embedded(spec, folder, VECTORS)
    build_embedded(spec, VECTORS, folder)
    with pytest.raises(CorruptArtifact, match=r"holds 40 items.* has 39"):
        open_embedded(spec, folder, VECTORS[:39])
    for path in folder.rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CorruptArtifact, match=str(folder)):
        open_embedded(spec, folder, VECTORS)


@pytest.mark.parametrize("most", [6, 20, 16_384])
def test_exclusions_and_masks_of_unknown_origin_hold_however_many_an_engine_gives(tmp_path, monkeypatch, most):
    monkeypatch.setattr(remote_index, "MOST_WANTED", most)
    index = open_embedded(spec_of("qdrant", {}), tmp_path, VECTORS, few=0)
    half = Allowed(np.arange(N) % 2 == 0)
    best = ExactIndex(VECTORS).search(VECTORS[:1], 30)[0][0]
    for allow in (all_but(best, N), all_but(best[:5], N), half, half.without(best[:9])):
        rows, _ = index.search(VECTORS[:3], 7, allow)
        np.testing.assert_array_equal(rows, ExactIndex(VECTORS).search(VECTORS[:3], 7, allow)[0])


class Forgetful:
    """An engine that lacks half of the items, and keeps what it was asked."""

    place = "Forgetful"

    def __init__(self, vectors):
        self.vectors, self.asked = vectors, []

    def search(self, collection, queries, k, where, share):
        self.asked.append((len(queries), k))
        scores = queries @ self.vectors.T
        scores[:, ::2] = -np.inf
        return [np.argsort(-mine)[: min(k, len(mine) // 2)] for mine in scores]


def test_an_engine_is_asked_once_more_for_all_that_came_back_short_if_that_may_help():
    vectors = np.random.default_rng(2).standard_normal((4_000, D), np.float32)
    engine, queries, exact = Forgetful(vectors), vectors[:3], ExactIndex(vectors)
    index = RemoteIndex(engine, Collection("items", D, {}, spec_of("qdrant", {})), vectors, few=0)
    index.search(queries, 10)
    index.search(queries, 10, all_but(np.array([1]), 4_000))
    assert [calls for calls, _ in engine.asked] == [3, 3]
    engine.asked.clear()
    best = np.flatnonzero(np.argsort(np.argsort(-(queries[0] @ vectors.T))) < 400)
    rows, _ = index.search(queries, 10, all_but(best, 4_000))
    assert engine.asked[0][0] == 3
    assert engine.asked[1:] == [(1, 410)]
    assert not np.isin(rows, best).any()
    engine.asked.clear()
    everything = np.arange(4_000)[5:]
    rows, _ = index.search(queries, 10, all_but(everything, 4_000))
    np.testing.assert_array_equal(rows, exact.search(queries, 10, all_but(everything, 4_000))[0])


def test_while_a_server_is_down_one_call_in_a_while_tries():
    breaker, asked, waiting, go_on = Breaker(), [], threading.Event(), threading.Event()

    def fails():
        asked.append(1)
        raise IndexUnavailable("down")

    def hangs():
        waiting.set()
        go_on.wait()
        return "back"

    for _ in range(5):
        with pytest.raises(IndexUnavailable, match="down"):
            breaker.call(fails)
    assert len(asked) == 1
    breaker._again = 0.0  # the pause is over
    found = []
    trial = threading.Thread(target=lambda: found.append(breaker.call(hangs)))
    trial.start()
    waiting.wait()
    with pytest.raises(IndexUnavailable, match="down"):
        breaker.call(fails)
    go_on.set()
    trial.join()
    assert found == ["back"]
    assert breaker.call(lambda: "as ever") == "as ever"
    assert len(asked) == 1
