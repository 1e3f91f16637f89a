"""Retrieve by seed items: more like this, whatever the user likes, by brute force."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from support.serving_bundle import best
from support.serving_world import ITEMS

from feast_recsys.bundle.index.vectors import mean_direction
from feast_recsys.v1 import recommender_service_pb2 as pb


def likeness(service, seeds: list[str]) -> dict[str, float]:
    """The inner product of every item with the mean of the seeds' unit vectors."""
    ids, vectors = service.oracle.ids, service.oracle.vectors
    chosen = vectors[[ids.index(seed) for seed in seeds]]
    query = np.mean([v / np.linalg.norm(v) for v in chosen], axis=0)
    return dict(zip(ids, (vectors @ query).tolist(), strict=True))


@pytest.mark.parametrize("numbers", [[3], [3, 17], [8, 1, 30]])
def test_the_items_most_like_the_seeds_come_back_without_these(service, numbers):
    seeds = [service.world.id(n) for n in numbers]
    scores = likeness(service, seeds)
    reply = service.stub.Retrieve(pb.RetrieveRequest(recommender="plain", seed_item_ids=seeds, top_k=20))
    assert list(reply.item_ids) == best(scores, 20, seeds)
    assert list(reply.scores) == pytest.approx([scores[i] for i in reply.item_ids], rel=1e-5)
    assert reply.info.user_status == pb.USER_STATUS_UNSPECIFIED
    assert reply.info.bundle_id == service.bundle_id
    assert not reply.unknown_item_ids


def test_all_others_come_back_where_more_are_wanted_than_there_are(service):
    reply = service.stub.Retrieve(
        pb.RetrieveRequest(recommender="plain", seed_item_ids=[service.world.id(1)], top_k=99)
    )
    assert len(reply.item_ids) == len(set(reply.item_ids)) == ITEMS - 1


def test_a_repeated_seed_counts_once_and_unknown_ones_are_named(service):
    one, other = service.world.id(4), service.world.id(9)
    request = pb.RetrieveRequest(recommender="plain", seed_item_ids=[one, "nowhere", other, one, "nowhere"], top_k=5)
    reply = service.stub.Retrieve(request)
    assert list(reply.item_ids) == best(likeness(service, [one, other]), 5, [one, other])
    assert list(reply.unknown_item_ids) == ["nowhere"]


def test_nothing_is_like_what_nobody_knows(service):
    reply = service.stub.Retrieve(pb.RetrieveRequest(recommender="plain", seed_item_ids=["nowhere"]))
    assert not reply.item_ids
    assert list(reply.unknown_item_ids) == ["nowhere"]


def test_with_a_user_what_they_have_seen_stays_out(service):
    user, seed = service.world.id(1), service.world.id(12)
    without = [seed, *(service.world.id(n) for n in (1, 2, 3, 4))]
    request = pb.RetrieveRequest(recommender="both", user_id=user, seed_item_ids=[seed], top_k=ITEMS)
    reply = service.stub.Retrieve(request)
    assert list(reply.item_ids) == best(likeness(service, [seed]), ITEMS, without)
    assert reply.info.user_status == pb.USER_STATUS_KNOWN
    request.exclude_seen = False
    assert len(service.stub.Retrieve(request).item_ids) == ITEMS - 1


def test_filters_and_exclusions_hold_as_ever(service):
    seed, other = service.world.id(12), service.world.id(13)
    condition = pb.Filter(
        comparison=pb.ComparisonFilter(
            type=pb.COMPARISON_TYPE_EQ, key="catalogue:adult", value=pb.Value(bool_value=False)
        )
    )
    request = pb.RetrieveRequest(
        recommender="plain", seed_item_ids=[seed], filter=condition, exclude_item_ids=[other], top_k=ITEMS
    )
    without = [seed, other, *(service.world.id(n) for n in range(5, ITEMS + 1, 5))]
    assert list(service.stub.Retrieve(request).item_ids) == best(likeness(service, [seed]), ITEMS, without)


def test_seen_items_of_nobody_are_refused(service):
    request = pb.RetrieveRequest(recommender="both", seed_item_ids=[service.world.id(1)], exclude_seen=True)
    with pytest.raises(grpc.RpcError) as refused:
        service.stub.Retrieve(request)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith("exclude_seen:")


def test_neither_user_nor_seeds_is_refused(service):
    with pytest.raises(grpc.RpcError) as refused:
        service.stub.Retrieve(pb.RetrieveRequest(recommender="plain"))
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith("user_id is empty")


def test_a_bias_says_nothing_of_likeness():
    vectors = np.array([[3.0, 4.0, 100.0], [0.0, -2.0, 7.0], [0.0, 0.0, 5.0]], np.float32)
    query = mean_direction(vectors, bias=1)
    np.testing.assert_allclose(query, [[0.6 / 3, (0.8 - 1.0) / 3, 0.0]], atol=1e-7)
    np.testing.assert_array_equal(mean_direction(vectors, bias=3), np.zeros((1, 3), np.float32))
