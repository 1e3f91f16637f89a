"""BatchRetrieve over a channel: for each user what Retrieve answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving import failure, serving
from support.serving_bundle import publish_bundle
from support.serving_sources import build_sources_world

from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.server.retrieval import search_each
from feast_recsys.v1 import recommender_service_pb2 as pb

NAMES = ("mixed", "narrow", "plain")
USERS = ["1", "2", "3", "99", "4", "5", "1"]
ODD = pb.Filter(
    comparison=pb.ComparisonFilter(
        type=pb.COMPARISON_TYPE_IN, key="catalogue:year", value=pb.Value(int64_list=pb.Int64List(values=[1, 3]))
    )
)
CONTEXT = {"hour": pb.Value(int64_value=3), "profile:age": pb.Value(int64_value=4)}
EXTRAS = [
    {},
    {"top_k": 40},
    {"top_k": 9, "exclude_seen": False, "exclude_item_ids": ["3", "7", "nowhere"]},
    {"top_k": 30, "filter": ODD},
    {"context": CONTEXT},
]


@pytest.fixture(scope="module")
def stub(redis_server, tmp_path_factory):
    world = build_sources_world(tmp_path_factory.mktemp("batch") / "repo", redis=redis_server)
    publish_bundle(world, names=NAMES)
    with serving(world) as (_, client):
        yield client


def assert_alike(batch, alone):
    """The same answers; a product of matrices may round a score otherwise than one of a matrix and a vector."""
    assert len(batch) == len(alone)
    for one, other in zip(batch, alone, strict=True):
        assert list(one.item_ids) == list(other.item_ids)
        assert list(one.sources) == list(other.sources)
        assert list(one.scores) == pytest.approx(list(other.scores), rel=1e-5)
        assert one.info == other.info


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: ", ".join(extra) or "nothing")
@pytest.mark.parametrize("recommender", ["mixed", "narrow", "plain"])
def test_each_user_gets_what_a_call_of_their_own_would_give(stub, recommender, extra):
    if recommender == "plain":
        extra = {name: value for name, value in extra.items() if name != "exclude_seen"}
    reply = stub.BatchRetrieve(pb.BatchRetrieveRequest(recommender=recommender, user_ids=USERS, **extra))
    alone = [stub.Retrieve(pb.RetrieveRequest(recommender=recommender, user_id=user, **extra)) for user in USERS]
    assert_alike(reply.responses, alone)


def test_the_service_of_both_kinds_of_ids_answers_batches_too(service):
    users = [service.world.id(n) for n in (1, 2, 3, 4, 5, 99)]
    reply = service.stub.BatchRetrieve(pb.BatchRetrieveRequest(recommender="both", user_ids=users, top_k=40))
    alone = [service.stub.Retrieve(pb.RetrieveRequest(recommender="both", user_id=user, top_k=40)) for user in users]
    assert_alike(reply.responses, alone)


def test_one_user_and_nobody_are_batches_too(stub):
    assert not stub.BatchRetrieve(pb.BatchRetrieveRequest(recommender="mixed")).responses
    [one] = stub.BatchRetrieve(pb.BatchRetrieveRequest(recommender="mixed", user_ids=["2"])).responses
    assert one == stub.Retrieve(pb.RetrieveRequest(recommender="mixed", user_id="2"))


def test_too_many_users_and_wrong_ids_are_refused(stub):
    refused = failure(stub.BatchRetrieve, pb.BatchRetrieveRequest(recommender="plain", user_ids=["1"] * 17))
    assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("user_ids",))
    assert "16 (serving.max_batch in its settings)" in refused.message
    for wrong in ("", "x"):
        refused = failure(stub.BatchRetrieve, pb.BatchRetrieveRequest(recommender="plain", user_ids=["1", wrong]))
        assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("user_ids[1]",))
        assert refused.message.startswith("user_ids[1] ")
    assert failure(stub.BatchRetrieve, pb.BatchRetrieveRequest(recommender="x")).code == "NOT_FOUND"


def test_without_the_store_all_of_them_are_strangers(own_redis, tmp_path):
    world = build_sources_world(tmp_path / "repo", redis=own_redis.address)
    publish_bundle(world, names=NAMES)
    with serving(world) as (_, client):
        own_redis.kill()
        reply = client.BatchRetrieve(pb.BatchRetrieveRequest(recommender="mixed", user_ids=["1", "2"]))
    for one in reply.responses:
        assert list(one.info.degraded_reasons) == ["ONLINE_STORE_UNAVAILABLE", "SEEN_ITEMS_UNKNOWN"]
        assert len(one.item_ids) == 12
        assert one.sources[0] == "trending"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 12), st.sampled_from([0.0, 0.02, 0.5, 1.0]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_a_search_of_many_leaves_out_what_each_of_them_does(queries, k, share, seed):
    """Against one search each; some leave out more than a common search would be widened by."""
    random = np.random.default_rng(seed)
    n = 1500
    index = ExactIndex(random.integers(-3, 4, (n, 3)).astype(np.float32))
    asked = random.integers(-3, 4, (queries, 3)).astype(np.float32)
    allow = None if share == 1.0 else Allowed(random.random(n) < share)
    out = [random.integers(-1, n, random.choice([0, 3, 50, 1400])) for _ in range(queries)]
    for query, rows, found in zip(asked, out, search_each(index, asked, k, allow, out), strict=True):
        known = rows[rows >= 0]
        passing = all_but(known, n) if allow is None else allow.without(known)
        alone, scores = index.search(query[None], k, passing)
        np.testing.assert_array_equal(found.rows, alone[0])
        np.testing.assert_array_equal(found.scores, scores[0])
