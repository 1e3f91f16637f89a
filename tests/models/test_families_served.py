"""Every family that knows items by their ids, from the settings to a server: its answers are PyTorch's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pytest
import torch
from support.families import EMBEDDING, QUICK, Families, asked_at, midnight_after
from support.serving import connected
from support.shop import HISTORY, PRODUCTS

from feast_recsys.bundle.signature import Role
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.families.registry import HISTORY_FAMILIES
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.retrieval.scoring import retrieve
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

CUSTOMERS = (0, 1, 2, 3, 57, 118)
FAMILIES = sorted(HISTORY_FAMILIES)


@dataclass(frozen=True)
class Served:
    """One server of all families, and what their models know of the moment that it serves."""

    families: Families
    stub: RecommenderServiceStub
    now: Mapping[bool, tuple[TrainingData, Queries]]

    def ask(self, family: str, **request: object) -> pb.RetrieveResponse:
        return self.stub.Retrieve(pb.RetrieveRequest(recommender=family, top_k=PRODUCTS, **request), timeout=30)

    def of_now(self, family: str) -> tuple[Checkpoint, TrainingData, Queries]:
        return self.families.checkpoint(family), *self.now[family == "deep_autoencoder"]


@pytest.fixture(scope="module")
def served(families: Families) -> Iterator[Served]:
    for family in QUICK:
        families.exported(family)
    midnight = midnight_after(families.data_of("popularity"))
    now = {
        rated: asked_at(families.repo, data, midnight, user_key="customer_id", item_key="sku")
        for rated, data in families.data.items()
    }
    materialize(families.repo, as_of=datetime.fromtimestamp(midnight, timezone.utc))
    server = Server(families.repo)
    server.start()
    try:
        assert server.wait_until_ready(60)
        with connected(server) as stub:
            yield Served(families, stub, now)
    finally:
        server.stop(0)


def scores_of(checkpoint: Checkpoint, history: Sequence[int], ratings: Sequence[float]) -> dict[str, float]:
    """PyTorch's score of every product for a history of product numbers, of which the model takes the latest."""
    [vocabulary] = checkpoint.vocabularies.values()
    query, item = checkpoint.modules[Role.QUERY_ENCODER], checkpoint.modules[Role.ITEM_ENCODER]
    taken = slice(checkpoint.signature.graphs[Role.QUERY_ENCODER].input(query.history).max_length)
    inputs = {query.history: torch.from_numpy(vocabulary.encode(np.array(history[taken], np.int64))).reshape(1, -1)}
    if query.ratings is not None:
        inputs[query.ratings] = torch.tensor([list(ratings[taken])], dtype=torch.float32)
    with torch.no_grad():
        vectors = item(**{item.item_id: torch.arange(1, len(vocabulary.keys) + 1)})
        scores = (query(**inputs) @ vectors.T)[0]
    return dict(zip(map(str, vocabulary.keys), scores.tolist(), strict=True))


def agrees(reply: pb.RetrieveResponse, expected: Mapping[str, float]) -> None:
    """All expected items with their scores, best first; equal scores may stand in any order."""
    assert sorted(reply.item_ids) == sorted(expected)
    assert list(reply.scores) == pytest.approx([expected[item] for item in reply.item_ids], rel=1e-4, abs=1e-5)
    assert list(reply.scores) == sorted(reply.scores, reverse=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_customers_get_the_items_and_scores_of_pytorch(served: Served, family: str) -> None:
    checkpoint, data, everyone = served.of_now(family)
    specs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    tensors = model_tensors(data, specs, checkpoint.vocabularies)
    queries = everyone.take(np.array(CUSTOMERS))
    found, ids = retrieve(checkpoint.modules, tensors, data, queries, PRODUCTS), data.events.item_ids
    for customer, items, scores in zip(CUSTOMERS, found.items, found.scores, strict=True):
        seen = data.events.seen(customer, int(everyone.times[customer]))
        # The history that the server leaves out by itself holds the latest purchases only.
        reply = served.ask(
            family, user_id=str(data.events.user_ids[customer]), exclude_item_ids=[str(ids[item]) for item in seen]
        )
        real = items >= 0
        assert real.sum() == PRODUCTS - len(seen)
        agrees(reply, dict(zip([str(ids[item]) for item in items[real]], scores[real].tolist(), strict=True)))
        assert reply.info.user_status == pb.USER_STATUS_KNOWN


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_in_the_history_stays_out_unless_it_is_wanted(served: Served, family: str) -> None:
    checkpoint, data, _ = served.of_now(family)
    for customer in CUSTOMERS[:2]:
        history = data.user_columns["customer_history:product_ids"].take(np.array([customer])).to_list()[0]
        rated = data.user_columns.get("customer_history:stars")
        ratings = rated.take(np.array([customer])).to_list()[0] if rated is not None else []
        scores = scores_of(checkpoint, history, ratings)
        assert len(history) == HISTORY
        user = str(data.events.user_ids[customer])
        unseen = {item: score for item, score in scores.items() if int(item) not in history}
        agrees(served.ask(family, user_id=user), unseen)
        agrees(served.ask(family, user_id=user, exclude_seen=False), scores)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_customer_gets_what_an_empty_history_gives(served: Served, family: str) -> None:
    checkpoint, data, _ = served.of_now(family)
    reply = served.ask(family, user_id="77")
    agrees(reply, scores_of(checkpoint, [0], [0.0]))
    assert reply.info.user_status == pb.USER_STATUS_UNKNOWN
    if family not in ("mult_dae", "mult_vae", "deep_autoencoder"):
        # With nothing to go by, these recommend what is popular.
        events = data.events
        liked = np.bincount(events.items[(events.parts == 0) & events.positive], minlength=data.items)
        counts = dict(zip(map(str, events.item_ids.tolist()), liked.tolist(), strict=True))
        assert [counts[item] for item in reply.item_ids] == sorted(counts.values(), reverse=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_more_like_some_items_is_what_their_vectors_point_to(served: Served, family: str) -> None:
    checkpoint = served.families.checkpoint(family)
    [vocabulary] = checkpoint.vocabularies.values()
    encoder = checkpoint.modules[Role.ITEM_ENCODER]
    with torch.no_grad():
        vectors = encoder(**{encoder.item_id: torch.arange(1, len(vocabulary.keys) + 1)}).double()
    directions = vectors[:, : vectors.shape[1] - checkpoint.signature.bias]
    keys = [str(key) for key in vocabulary.keys]
    for rows in ([5], [8, 31], [17, 2, 44]):
        seeds = [keys[row] for row in rows]
        reply = served.ask(family, seed_item_ids=seeds)
        if not directions.any():
            assert family == "popularity", "nothing is like anything: it knows no more than how often"
            assert not reply.item_ids
            continue
        mean = torch.nn.functional.normalize(directions[rows], dim=1).mean(0)
        likeness = dict(zip(keys, (directions @ mean).tolist(), strict=True))
        agrees(reply, {item: score for item, score in likeness.items() if item not in seeds})


def test_the_nonlinear_embeddings_of_an_autoencoder_are_features_in_feast(served: Served) -> None:
    """Customers have the autoencoder's code, products their vectors; any other model may read both."""
    checkpoint, data, _ = served.of_now(EMBEDDING)
    [vocabulary] = checkpoint.vocabularies.values()
    store, width = served.families.repo.store, QUICK[EMBEDDING]["latent"]
    query, item = (checkpoint.modules[role] for role in (Role.QUERY_ENCODER, Role.ITEM_ENCODER))
    length = checkpoint.signature.graphs[Role.QUERY_ENCODER].input(query.history).max_length
    users = [int(data.events.user_ids[customer]) for customer in CUSTOMERS]
    found = store.get_online_features(["customer_code:code"], [{"customer_id": user} for user in users]).to_dict()
    for customer, code in zip(CUSTOMERS, found["code"], strict=True):
        history = data.user_columns["customer_history:product_ids"].take(np.array([customer])).to_list()[0]
        rows = torch.from_numpy(vocabulary.encode(np.array(history[:length], np.int64))).reshape(1, -1)
        assert code[:width] == pytest.approx(query.encoder.code(rows)[0].tolist(), rel=1e-4, abs=1e-5)
    keys = list(vocabulary.keys)[:5]
    stored = store.get_online_features(["product_code:code"], [{"sku": int(key)} for key in keys]).to_dict()
    with torch.no_grad():
        vectors = item(**{item.item_id: torch.arange(1, len(keys) + 1)})
    np.testing.assert_allclose(np.array(stored["code"], np.float32), vectors.numpy(), rtol=1e-5, atol=1e-6)
