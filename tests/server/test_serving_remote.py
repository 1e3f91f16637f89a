"""A server over a real channel answers from Qdrant and Milvus what it answers from exact search, and lives through an
outage of theirs."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.milvus_server import MilvusServer
from support.serving import failure, serving, wait_for
from support.serving_bundle import export_models
from support.serving_world import ITEMS, build_world

from feast_recsys.bundle import store
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.filter_plan import plan_of
from feast_recsys.bundle.filters import parse_filter
from feast_recsys.bundle.index.remote import connect, open_embedded
from feast_recsys.bundle.index.remote_index import FEW_ROWS
from feast_recsys.bundle.store import current, open_bundle, point
from feast_recsys.cli.wire import wire_filter
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.v1.recommender_service_pb2 import RetrieveRequest

AS_OF = datetime(2024, 1, 2, tzinfo=timezone.utc)
FILTERS = (
    None,
    {"type": "gte", "key": "catalogue:year", "value": 2},
    {"type": "and", "filters": [
        {"type": "in", "key": "catalogue:genres", "value": ["x", "y"]},
        {"type": "not", "filters": [{"type": "eq", "key": "catalogue:adult", "value": True}]},
    ]},
    {"type": "ne", "key": "catalogue:year", "value": 1},
)  # fmt: skip


def build(folder, sources=(), **indexes):
    """A repository with a recommender for each index, all of the same model, materialized by the job."""
    recommenders = {
        name: {
            "retrieval": {"model": "retrieval", "index": index},
            "ranking": None,
            "seen": ["seen:items"],
            "sources": list(sources),
        }
        for name, index in indexes.items()
    }
    world = build_world(folder, recommenders=recommenders, settings={"keep_bundles": 2})
    export_models(world, world.repo.resolve(world.repo.settings.models))
    materialize(world.repo, as_of=AS_OF)
    return world


def retrieve(stub, recommender, **asked):
    return stub.Retrieve(RetrieveRequest(recommender=recommender, **asked), timeout=10)


def expect_same(stub, world, recommender, **asked):
    found, exact = retrieve(stub, recommender, **asked), retrieve(stub, "exact", **asked)
    assert list(found.item_ids) == list(exact.item_ids)
    assert list(found.scores) == pytest.approx(list(exact.scores), rel=1e-5, abs=1e-6)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedded")
    return build(folder, exact={"kind": "exact"}, qdrant={"kind": "qdrant"}, milvus={"kind": "milvus"})


@pytest.mark.parametrize("few", [FEW_ROWS, 0])
def test_retrieve_from_embedded_engines_equals_exact_search(embedded, monkeypatch, few):
    """So small a catalogue would never ask an engine with a filter; with 0 it does."""
    monkeypatch.setattr(store, "open_embedded", partial(open_embedded, few=few))
    world = embedded
    with serving(world) as (_, stub):
        for name in ("qdrant", "milvus"):
            for user in (1, 2, 99):
                for tree in FILTERS:
                    asked = {"user_id": world.id(user), "top_k": 9}
                    if tree is not None:
                        asked["filter"] = wire_filter(json.dumps(tree))
                    expect_same(stub, world, name, exclude_seen=False, **asked)
                    expect_same(stub, world, name, exclude_seen=True, exclude_item_ids=world.item_ids[5:25], **asked)
            expect_same(stub, world, name, user_id=world.id(1), top_k=ITEMS + 5)
            expect_same(stub, world, name, seed_item_ids=world.item_ids[:2], top_k=7)


class Heard:
    """An engine, and what it is asked for."""

    def __init__(self, engine):
        self.engine, self.conditions = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def search(self, collection, queries, m, where, excluded):
        self.conditions.append(where)
        return self.engine.search(collection, queries, m, where, excluded)


def test_an_engine_is_asked_for_what_request_and_source_want_together(tmp_path, monkeypatch):
    new, adult = FILTERS[1], {"type": "eq", "key": "catalogue:adult", "value": True}
    heard, kept = [], []

    def opened(*args):
        index = open_embedded(*args, few=0)
        kept.append(index)  # its engine is closed with it
        heard.append(Heard(index.engine))
        return replace(index, engine=heard[-1])

    sources = [{"name": "new", "filter": new, "quota": 1}, {"name": "all"}]
    world = build(tmp_path, sources, exact={"kind": "exact"}, qdrant={"kind": "qdrant"})
    monkeypatch.setattr(store, "open_embedded", opened)
    with serving(world) as (_, stub):
        served = heard[-1]
        served.conditions.clear()
        asked = {"user_id": world.id(1), "top_k": 4, "sources": ["new"]}
        expect_same(stub, world, "qdrant", **asked)
        expect_same(stub, world, "qdrant", filter=wire_filter(json.dumps(adult)), **asked)
        expect_same(stub, world, "qdrant", exclude_item_ids=world.item_ids[:9], **asked)
        snapshot = open_bundle(world.bundles / current(world.bundles)).snapshot
        both = {"type": "and", "filters": [new, adult]}
        due = [plan_of(parse_filter(tree), snapshot) for tree in (new, both, new)]
        assert served.conditions == due


def expect_outage(stub, address):
    asked = RetrieveRequest(recommender="milvus", user_id="1", top_k=5, exclude_seen=False)
    failed = failure(stub.Retrieve, asked, timeout=10)
    assert (failed.code, failed.reason, failed.retry) == ("UNAVAILABLE", "INDEX_UNAVAILABLE", True)
    assert address in failed.message


def answers(stub, recommender):
    try:
        return retrieve(stub, recommender, user_id="1", top_k=5, exclude_seen=False)
    except grpc.RpcError:
        return None


def test_an_outage_is_told_and_neither_readiness_nor_swaps_suffer(tmp_path):
    with MilvusServer(tmp_path / "milvus.db") as milvus:
        world = build(tmp_path / "world", exact={"kind": "exact"}, milvus={"kind": "milvus", "address": milvus.address})
        first = current(world.bundles)
        export_models(world, world.repo.resolve(world.repo.settings.models), seed=1)
        second = materialize(open_repo(world.repo.path), as_of=AS_OF).bundle_id
        with serving(world) as (_, stub):
            expect_same(stub, world, "milvus", user_id="1", top_k=9, exclude_seen=False)
            milvus.stop()
            expect_outage(stub, milvus.address)
            assert retrieve(stub, "exact", user_id="1", top_k=5).info.bundle_id == second
            milvus.start()
            wait_for(lambda: answers(stub, "milvus"), "answers after an outage")
            expect_same(stub, world, "milvus", user_id="1", top_k=9, exclude_seen=False)
            milvus.stop()
        # Begun and swapped while nobody is there.
        with serving(world) as (server, stub), grpc.insecure_channel(server.address) as channel:
            assert retrieve(stub, "exact", user_id="1", top_k=5).info.bundle_id == second
            point(world.bundles, first)
            wait_for(lambda: retrieve(stub, "exact", user_id="1", top_k=5).info.bundle_id == first, "the swap")
            expect_outage(stub, milvus.address)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            milvus.start()
            wait_for(lambda: answers(stub, "milvus"), "answers after an outage")
            expect_same(stub, world, "milvus", user_id="1", top_k=9, exclude_seen=False)


def test_a_collection_that_is_gone_is_refused_and_named(tmp_path):
    with MilvusServer(tmp_path / "milvus.db") as milvus:
        world = build(tmp_path / "world", milvus={"kind": "milvus", "address": milvus.address})
        bundle = open_bundle(world.bundles / current(world.bundles))
        collection = bundle.manifest.recommenders["milvus"].index.remote.collection
        with closing(connect("milvus", milvus.address)) as engine:
            engine.drop(collection)
        with pytest.raises(CorruptArtifact, match=f"collection {collection} is not there"):
            open_bundle(world.bundles / bundle.id)
        summary = materialize(open_repo(world.repo.path), as_of=AS_OF)
        assert any(f"collection {collection} is not there" in note for note in summary.notes)
        index = open_bundle(world.bundles / summary.bundle_id).recommenders["milvus"].index
        assert len(index.search(np.ones((1, index.dimension), np.float32), 5)[0][0]) == 5
