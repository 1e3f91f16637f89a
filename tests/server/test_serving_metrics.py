"""Models whose vectors are compared by cosine or distance, from the job to the answer, by the metric's definition."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
from support.serving import serving
from support.serving_bundle import best, export_models
from support.serving_world import ITEMS, build_world

from feast_recsys.bundle.signature import Signature, Stage
from feast_recsys.jobs.encode_users import encode_users
from feast_recsys.jobs.exported import open_model
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.v1 import recommender_service_pb2 as pb

AS_OF = datetime(2024, 1, 2, tzinfo=timezone.utc)
INDEXES = {
    "exact": {"kind": "exact"},
    "ivf": {"kind": "ivf_flat", "lists": 3, "probes": 3},
    "qdrant": {"kind": "qdrant"},
}
NAMES = [f"{metric}_{index}" for metric in ("cosine", "l2") for index in INDEXES]
ADULT = pb.Filter(
    comparison=pb.ComparisonFilter(type=pb.COMPARISON_TYPE_EQ, key="catalogue:adult", value=pb.Value(bool_value=False))
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server with a recommender for each metric and index, and the models' own vectors."""
    recommenders = {
        f"{metric}_{name}": {
            "retrieval": {"model": metric, "index": index, "history": "history:items"},
            "ranking": None,
            "seen": ["seen:items"],
            "sources": [{"name": "all", "quota": 1}, {"name": "alike", "kind": "similar", "seeds": 2}],
        }
        for metric in ("cosine", "l2")
        for name, index in INDEXES.items()
    }
    world = build_world(tmp_path_factory.mktemp("world"), recommenders=recommenders)
    models = world.repo.resolve(world.repo.settings.models)
    export_models(world, models)
    for metric in ("cosine", "l2"):
        shutil.copytree(models / "retrieval", models / metric)
        replace(Signature.load(models / "retrieval"), name=metric, metric=metric).save(models / metric)
    folder = world.bundles / materialize(world.repo, as_of=AS_OF).bundle_id
    ids = np.load(folder / "snapshot/ids.npy").astype(str).tolist()
    model = open_model(world.repo, NAMES[0], Stage.RETRIEVAL, "cosine")
    users = np.array([1, 2, 3])
    queries, known = encode_users(world.repo, model, users)
    assert known.all()
    with serving(world) as (_, stub):
        yield world, stub, ids, np.load(folder / f"vectors/{NAMES[0]}.npy"), dict(zip(users, queries, strict=True))


def scores_of(name, query, vectors):
    query, vectors = query.astype(np.float64), vectors.astype(np.float64)
    if name.startswith("l2"):
        return -np.square(vectors - query).sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return vectors @ query / np.where(lengths > 0, lengths, 1.0)


def expect(reply, ids, scores, k, without=()):
    """The best by their scores; equal ones in any order, since a cosine's last digit is rounding."""
    known = dict(zip(ids, scores.tolist(), strict=True))
    assert list(reply.scores) == pytest.approx([known[i] for i in reply.item_ids], rel=1e-5, abs=1e-6)
    due = [known[i] for i in best(known, k, without)]
    assert list(reply.scores) == pytest.approx(due, rel=1e-5, abs=1e-6)
    assert not set(without) & set(reply.item_ids)
    assert len(set(reply.item_ids)) == len(reply.item_ids) == len(due)


@pytest.mark.parametrize("name", NAMES)
def test_retrieve_orders_and_scores_by_the_metric(served, name):
    world, stub, ids, vectors, queries = served
    for user, query in queries.items():
        scores = scores_of(name, query, vectors)
        asked = pb.RetrieveRequest(recommender=name, user_id=str(user), top_k=9, sources=["all"], exclude_seen=False)
        expect(stub.Retrieve(asked), ids, scores, 9)
        asked.filter.CopyFrom(ADULT)
        asked.exclude_item_ids.append(world.id(1))
        without = [world.id(1), *(world.id(n) for n in range(5, ITEMS + 1, 5))]
        expect(stub.Retrieve(asked), ids, scores, 9, without)
        asked.top_k = ITEMS
        expect(stub.Retrieve(asked), ids, scores, ITEMS, without)


@pytest.mark.parametrize("name", NAMES)
def test_items_like_seeds_are_near_their_mean_direction_or_place(served, name):
    world, stub, ids, vectors, _ = served
    seeds = [world.id(3), world.id(17)]
    chosen = vectors[[ids.index(seed) for seed in seeds]].astype(np.float64)
    lengths = np.linalg.norm(chosen, axis=1, keepdims=True)
    query = np.mean(chosen if name.startswith("l2") else chosen / lengths, axis=0)
    reply = stub.Retrieve(pb.RetrieveRequest(recommender=name, seed_item_ids=seeds, top_k=20))
    expect(reply, ids, scores_of(name, query, vectors), 20, seeds)


def test_cosines_do_not_care_for_lengths_and_the_vectors_here_have_different_ones(served):
    _, _, _, vectors, queries = served
    orders = {
        tuple(np.argsort(-scores, kind="stable"))
        for scores in (
            vectors @ queries[1],
            scores_of("cosine", queries[1], vectors),
            scores_of("l2", queries[1], vectors),
        )
    }
    assert len(orders) == 3
