"""What happens when the online store is old, slow, hanging or gone, and when the caller does not wait."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import grpc
import pytest
from support.serving import counted, failure, serving, wait_for
from support.serving_bundle import Oracle, alter_signature, best, publish_bundle
from support.serving_stores import locked
from support.serving_world import build_world, rows

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import DeadlineExceeded, InvalidArgument
from feast_recsys.bundle.signature import Role, Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.user_reader import user_reader
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.users import Reading, Users
from feast_recsys.v1 import recommender_service_pb2 as pb

RETRIEVE = pb.RetrieveRequest(recommender="both", user_id="1", top_k=40)
RANK = pb.RankRequest(recommender="both", user_id="1", item_ids=["1", "2", "3"])
RECOMMEND = pb.RecommendRequest(recommender="both", user_id="1")
UNAVAILABLE, SEEN_UNKNOWN = "ONLINE_STORE_UNAVAILABLE", "SEEN_ITEMS_UNKNOWN"


@pytest.fixture(params=["killed", "hanging", "locked sqlite"])
def outage(request, tmp_path):
    """A way to build a world, and to take its store away and (except for the killed one) give it back."""
    if request.param == "locked sqlite":
        yield lambda **serving: build_world(tmp_path / "world", serving=serving), locked
        return
    own_redis = request.getfixturevalue("own_redis")

    class Killed:
        def __init__(self, _):
            own_redis.kill()

        def __enter__(self):
            return None

        def __exit__(self, *_):
            return None

    away = Killed if request.param == "killed" else lambda _: own_redis.frozen()
    yield lambda **serving: build_world(tmp_path / "world", redis=own_redis.address, serving=serving), away


def test_degrade_answers_with_defaults_and_says_so(outage):
    build, away = outage
    world = build(store_policy="degrade", store_timeout_ms=300)
    oracle = Oracle(world, publish_bundle(world))
    scores = oracle.retrieval_scores({})
    ranked = best({i: oracle.probability({"entity:user_id": 1}, i) for i in ("1", "2", "3")}, 3)
    with serving(world) as (server, stub):
        assert not stub.Retrieve(RETRIEVE).info.degraded_reasons
        with away(world):
            retrieved, rank, recommended = stub.Retrieve(RETRIEVE), stub.Rank(RANK), stub.Recommend(RECOMMEND)
        assert list(retrieved.item_ids) == best(scores, 40)
        assert list(retrieved.info.degraded_reasons) == [UNAVAILABLE, SEEN_UNKNOWN]
        assert list(rank.item_ids) == ranked
        assert list(rank.info.degraded_reasons) == [UNAVAILABLE]
        assert list(recommended.info.degraded_reasons) == [UNAVAILABLE, SEEN_UNKNOWN]
        assert len(recommended.item_ids) == 5
        assert {i.user_status for i in (retrieved.info, rank.info, recommended.info)} == {pb.USER_STATUS_UNSPECIFIED}
        assert counted(server, "degraded_replies_total", reason=UNAVAILABLE) == 3
        assert counted(server, "degraded_replies_total", reason=SEEN_UNKNOWN) == 2


def test_degraded_answers_do_not_miss_seen_items_that_nobody_asked_for_or_that_came_along(outage):
    build, away = outage
    world = build(store_policy="degrade", store_timeout_ms=300)
    publish_bundle(world)
    with serving(world) as (_, stub), away(world):
        included = pb.RetrieveRequest(recommender="both", user_id="1", exclude_seen=False)
        assert list(stub.Retrieve(included).info.degraded_reasons) == [UNAVAILABLE]
        given = pb.RetrieveRequest(recommender="both", user_id="1", top_k=40)
        for name in ("seen:items", "history:items"):
            given.context[name].int64_list.values.extend([7, 8])
        reply = stub.Retrieve(given)
        assert list(reply.info.degraded_reasons) == [UNAVAILABLE]
        assert len(reply.item_ids) == 38


def test_fail_answers_unavailable_and_when_to_try_again(outage):
    build, away = outage
    world = build(store_policy="fail", store_timeout_ms=300)
    publish_bundle(world)
    with serving(world) as (_, stub), away(world):
        for call, request in ((stub.Retrieve, RETRIEVE), (stub.Rank, RANK), (stub.Recommend, RECOMMEND)):
            error = failure(call, request)
            assert (error.code, error.reason) == ("UNAVAILABLE", UNAVAILABLE)
            assert error.retry


def test_a_required_input_makes_degraded_answers_impossible(own_redis, tmp_path):
    """Its missing value is the store's fault, so the caller may try again."""
    world = build_world(tmp_path / "world", redis=own_redis.address, serving={"store_timeout_ms": 300})
    publish_bundle(world, change=alter_signature("ranking", Role.RANKER, "spend", required=True))
    with serving(world) as (_, stub):
        assert len(stub.Rank(RANK).item_ids) == 3
        with own_redis.frozen():
            error = failure(stub.Rank, RANK)
            assert (error.code, error.reason, error.retry) == ("UNAVAILABLE", UNAVAILABLE, True)
            assert "profile:spend" in error.message


def test_a_store_that_comes_back_is_used_again(own_redis, tmp_path):
    world = build_world(tmp_path / "world", redis=own_redis.address, serving={"store_timeout_ms": 300})
    publish_bundle(world)
    with serving(world) as (_, stub):
        before = stub.Recommend(RECOMMEND)
        with own_redis.frozen():
            assert stub.Recommend(RECOMMEND).info.degraded_reasons
        wait_for(lambda: not stub.Recommend(RECOMMEND).info.degraded_reasons, "the store")
        assert stub.Recommend(RECOMMEND) == before


@pytest.mark.parametrize("bounded", [False, True], ids=["in threads", "bounded by the store"])
def test_when_no_read_is_answered_further_ones_are_refused_at_once(own_redis, tmp_path, bounded):
    world = build_world(tmp_path / "world", redis=own_redis.address)
    plan = compile_plan(world.repo, ["profile:age"], Side.USER)
    fast = user_reader(world.repo, plan) if bounded else None
    absent = {"profile:age": Column.absent(DType.INT64, 1)}
    reading = Reading(OnlineReader(world.repo, plan), fast, absent, (), ("profile:age",))
    metrics = Metrics()

    def failed(kind: str) -> float:
        return metrics.registry.get_sample_value("feast_recsys_store_failures_total", {"kind": kind}) or 0.0

    def read() -> Users:
        return reads.users(reading, reads.begin_users(reading, [{"user_id": 1}], {}), Deadline())

    reads = StoreReads(threads=2, timeout=0.2, policy="degrade", metrics=metrics)
    reads.start()
    with own_redis.frozen():
        for _ in range(3 if bounded else 0):  # callers in a hurry say nothing of the store
            hurried = reads.begin_users(reading, [{"user_id": 1}], {})
            with pytest.raises(DeadlineExceeded):
                reads.users(reading, hurried, Deadline.within(0.02))
        for n in (1, 2):
            assert read().degraded == (UNAVAILABLE,)
            assert failed("timeout") == n
        # One bounded read at a time goes and looks; in threads, the two that hang are enough.
        probe = reads.begin_users(reading, [{"user_id": 1}], {})
        for n in (1, 2):
            assert read().degraded == (UNAVAILABLE,)
            assert failed("refused") == n
        assert reads.users(reading, probe, Deadline()).degraded == (UNAVAILABLE,)
        if bounded:  # a wrong request must not keep the place of the one that goes and looks
            with pytest.raises(InvalidArgument):
                reads.begin_users(reading, [{}], {})
    wait_for(lambda: not read().degraded, "the store to be asked again")
    assert read().columns["profile:age"].to_list() == [1]
    reads.stop()


@pytest.mark.parametrize("policy", ["degrade", "fail"])
def test_a_call_whose_deadline_passes_stops_and_hurts_no_other(own_redis, tmp_path, policy):
    serving_section = {"store_timeout_ms": 20_000, "store_policy": policy}
    world = build_world(tmp_path / "world", redis=own_redis.address, serving=serving_section)
    publish_bundle(world)
    with serving(world) as (server, stub):
        with own_redis.frozen():
            patient = stub.Rank.future(RANK)
            with pytest.raises(grpc.RpcError) as raised:
                stub.Rank(RANK, timeout=0.1)
            assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            late = {"rpc": "Rank", "recommender": "both", "code": "DEADLINE_EXCEEDED"}
            wait_for(lambda: counted(server, "requests_total", **late) == 1, "the server to stop working")
            assert counted(server, "store_failures_total", kind="timeout") == 0, "it had 20 s"
        assert len(patient.result().item_ids) == 3
        assert not patient.result().info.degraded_reasons


def test_a_cancelled_call_stops_and_hurts_no_other(own_redis, tmp_path):
    world = build_world(tmp_path / "world", redis=own_redis.address, serving={"store_timeout_ms": 20_000})
    publish_bundle(world)
    with serving(world) as (server, stub):
        with own_redis.frozen():
            cancelled, patient = stub.Recommend.future(RECOMMEND), stub.Recommend.future(RECOMMEND)
            wait_for(lambda: counted(server, "stage_seconds_count", rpc="Recommend", stage="filter") == 2, "both")
            cancelled.cancel()
            # What is answered after it on the same connection shows that the server has heard of it.
            assert failure(stub.Rank, pb.RankRequest(recommender="nobody")).code == "NOT_FOUND"
        assert len(patient.result().item_ids) == 5
        stopped = {"rpc": "Recommend", "recommender": "both", "code": "DEADLINE_EXCEEDED"}
        wait_for(lambda: counted(server, "requests_total", **stopped) == 1, "the server to stop working")
        assert counted(server, "stage_seconds_count", rpc="Recommend", stage="rank") == 1


def test_a_call_that_is_late_when_its_turn_comes_is_not_begun(own_redis, tmp_path):
    """One thread: the second call waits in the queue behind the first."""
    world = build_world(tmp_path / "world", redis=own_redis.address, serving={"threads": 1, "store_timeout_ms": 20_000})
    publish_bundle(world)
    with serving(world) as (server, stub):
        with own_redis.frozen():
            first = stub.Rank.future(RANK)
            wait_for(lambda: counted(server, "stage_seconds_count", rpc="Rank", stage="gather") == 1, "the first")
            second = stub.Retrieve.future(RETRIEVE, timeout=0.2)
            assert second.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert len(first.result().item_ids) == 3
        assert len(stub.Rank(RANK).item_ids) == 3
        assert counted(server, "stage_seconds_count", rpc="Retrieve", stage="user") == 0


@pytest.mark.parametrize(("policy", "age"), [("serve", 1), ("default", None), ("fail", None)])
def test_values_older_than_the_ttl_follow_the_policy_of_their_view(redis_or_none, tmp_path, policy, age):
    world = build_world(tmp_path, redis=redis_or_none, ttl=timedelta(hours=1), serving={"stale": {"profile": policy}})
    bundle_id = publish_bundle(world)
    with serving(world) as (server, stub):
        if policy == "fail":
            error = failure(stub.Retrieve, RETRIEVE)
            assert (error.code, error.reason) == ("FAILED_PRECONDITION", "STALE_FEATURE")
            return
        oracle = Oracle(world, bundle_id)
        row = oracle.user("1")
        assert row["profile:age"] == 1, "Feast itself serves it whatever its age"
        if policy == "default":
            row |= {"profile:age": None, "profile:gender": None, "profile:spend": None}
        scores = oracle.retrieval_scores(row)
        assert list(stub.Retrieve(RETRIEVE).item_ids) == best(scores, 40, ["1", "2", "3", "4"])
        expired = counted(server, "defaults_total", feature="profile:age", status="OUTSIDE_MAX_AGE")
        assert expired == (1 if policy == "default" else 0)


def test_what_is_pushed_is_served_with_the_next_call(redis_or_none, tmp_path):
    world = build_world(tmp_path, redis=redis_or_none)
    oracle = Oracle(world, publish_bundle(world))
    with serving(world) as (_, stub):
        before = stub.Retrieve(RETRIEVE)
        row = rows(False, "user_id", [1], items=[[11, 12]])
        row["event_timestamp"] = datetime(2025, 1, 1, tzinfo=timezone.utc)
        world.repo.store.write_to_online_store("seen", row)
        after = stub.Retrieve(RETRIEVE)
    scores = oracle.retrieval_scores(oracle.user("1"))
    assert list(before.item_ids) == best(scores, 40, ["1", "2", "3", "4"])
    assert list(after.item_ids) == best(scores, 40, ["11", "12", "3", "4"])
