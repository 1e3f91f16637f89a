"""Bundles come and go under a running server."""

from __future__ import annotations

import logging
import shutil
import threading
from datetime import timedelta

import numpy as np
import pytest
from support.serving import connected, counted, failure, not_yet_ready, serving, wait_for
from support.serving_bundle import Oracle, best, publish_bundle
from support.serving_world import build_world

from feast_recsys.bundle.store import point
from feast_recsys.features.repo import open_repo
from feast_recsys.v1 import recommender_service_pb2 as pb

RETRIEVE = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=40)


@pytest.fixture
def world(redis_or_none, tmp_path):
    return build_world(tmp_path, redis=redis_or_none)


@pytest.fixture
def sqlite_world(tmp_path):
    return build_world(tmp_path)


def current(stub) -> str:
    return stub.Retrieve(RETRIEVE).info.bundle_id


def test_without_a_bundle_calls_are_unavailable_until_one_is_published(sqlite_world):
    with not_yet_ready(sqlite_world) as server, connected(server) as stub:
        for call, request in (
            (stub.Retrieve, RETRIEVE),
            (stub.Rank, pb.RankRequest(recommender="both", user_id="1")),
            (stub.Recommend, pb.RecommendRequest(recommender="both", user_id="1")),
        ):
            error = failure(call, request)
            assert (error.code, error.reason, error.retry) == ("UNAVAILABLE", "BUNDLE_NOT_LOADED", True)
        bundle_id = publish_bundle(sqlite_world)
        assert server.wait_until_ready(30)
        assert current(stub) == bundle_id


def test_a_new_bundle_is_served_without_restart_and_the_one_before_stays_at_hand(world):
    oracles = [Oracle(world, publish_bundle(world, seed=1))]
    with serving(world) as (server, stub):
        for seed in (2, 3):
            oracles.append(Oracle(world, publish_bundle(world, seed=seed)))
            wait_for(lambda: current(stub) == oracles[-1].folder.name, "the new bundle")
        for oracle in oracles[1:]:
            request = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=40, bundle_id=oracle.folder.name)
            reply = stub.Retrieve(request)
            assert reply.info.bundle_id == oracle.folder.name
            assert list(reply.item_ids) == best(oracle.retrieval_scores(oracle.user("1")), 40)
        request.bundle_id = oracles[0].folder.name
        error = failure(stub.Retrieve, request)
        assert (error.code, error.metadata["current_bundle_id"]) == ("FAILED_PRECONDITION", oracles[2].folder.name)
        assert counted(server, "bundle_info", bundle_id=oracles[2].folder.name) == 1
        assert counted(server, "bundle_swaps_total") == 3


def test_hot_swaps_under_load_fail_no_call_and_mix_no_bundles(world):
    """Every answer is wholly of the bundle that it names."""
    oracles = {}
    bundle_id = publish_bundle(world, seed=1)
    oracles[bundle_id] = Oracle(world, bundle_id)
    candidates = world.item_ids[:7]
    answers: list[pb.RankResponse] = []
    errors: list[Exception] = []
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            try:
                answers.append(stub.Rank(pb.RankRequest(recommender="both", user_id="2", item_ids=candidates)))
                stub.Recommend(pb.RecommendRequest(recommender="both", user_id="2"))
            except Exception as error:
                errors.append(error)

    with serving(world) as (server, stub):
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for seed in range(2, 7):
            bundle_id = publish_bundle(world, seed=seed)
            oracles[bundle_id] = Oracle(world, bundle_id)
            wait_for(lambda: answers[-1].info.bundle_id == bundle_id, "the new bundle")  # noqa: B023
        done.set()
        for thread in threads:
            thread.join()
        assert counted(server, "bundle_swaps_total") == 6
    assert not errors
    assert {a.info.bundle_id for a in answers} == set(oracles)
    wanted = {
        name: {i: oracle.probability(oracle.user("2"), i) for i in candidates} for name, oracle in oracles.items()
    }
    for answer in answers:
        expected = wanted[answer.info.bundle_id]
        assert list(answer.item_ids) == best(expected, 7)
        np.testing.assert_allclose(answer.scores, [expected[i] for i in answer.item_ids], atol=1e-6)


def test_rolling_back_takes_the_bundle_at_hand(sqlite_world):
    old = publish_bundle(sqlite_world, seed=1)
    with serving(sqlite_world) as (_, stub):
        new = publish_bundle(sqlite_world, seed=2)
        wait_for(lambda: current(stub) == new, "the new bundle")
        point(sqlite_world.bundles, old)
        wait_for(lambda: current(stub) == old, "the roll-back")
        request = pb.RetrieveRequest(recommender="plain", user_id="1", bundle_id=new)
        assert stub.Retrieve(request).info.bundle_id == new


def test_a_deleted_folder_does_not_hurt_what_is_served(sqlite_world):
    old = publish_bundle(sqlite_world, seed=1)
    oracle = Oracle(sqlite_world, old)
    scores = oracle.retrieval_scores(oracle.user("1"))
    with serving(sqlite_world) as (_, stub):
        new = publish_bundle(sqlite_world, seed=2)
        wait_for(lambda: current(stub) == new, "the new bundle")
        for bundle_id in (old, new):
            shutil.rmtree(sqlite_world.bundles / bundle_id)
        request = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=40, bundle_id=old)
        assert list(stub.Retrieve(request).item_ids) == best(scores, 40)
        assert current(stub) == new


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("vectors.npy", "alter"),
        ("snapshot/features.arrow", "truncate"),
        ("models/ranking/ranker.onnx", "remove"),
        ("manifest.json", "truncate"),
    ],
)
def test_a_corrupt_bundle_is_refused_by_the_name_of_the_broken_file(sqlite_world, caplog, file, harm):
    good = publish_bundle(sqlite_world, seed=1)
    bad = publish_bundle(sqlite_world, seed=2)
    point(sqlite_world.bundles, good)
    path = sqlite_world.bundles / bad / file
    content = path.read_bytes()
    if harm == "remove":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if harm == "truncate" else content[:-1] + b"\x7f")
    with serving(sqlite_world) as (server, stub), caplog.at_level(logging.ERROR):
        point(sqlite_world.bundles, bad) if file != "manifest.json" else force(sqlite_world, bad)
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
        assert current(stub) == good
        [message] = {r.getMessage().partition(" is refused")[0] for r in caplog.records}
        assert message == f"bundle {bad}"
        assert file in caplog.records[0].getMessage()
        assert f"bundle {good} stays in service" in caplog.records[0].getMessage()
        newer = publish_bundle(sqlite_world, seed=3)
        wait_for(lambda: current(stub) == newer, "the next good bundle")


def test_a_folder_under_another_bundles_name_is_refused(sqlite_world, caplog):
    good = publish_bundle(sqlite_world)
    shutil.copytree(sqlite_world.bundles / good, sqlite_world.bundles / "renamed")
    with serving(sqlite_world) as (server, stub), caplog.at_level(logging.ERROR):
        point(sqlite_world.bundles, "renamed")
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
        assert current(stub) == good
    assert "manifest.json" in caplog.records[0].getMessage()


def test_a_pointer_that_can_not_be_read_changes_nothing(sqlite_world, caplog):
    good = publish_bundle(sqlite_world)
    with serving(sqlite_world) as (server, stub), caplog.at_level(logging.ERROR):
        pointer = sqlite_world.bundles / "CURRENT"
        pointer.unlink()
        pointer.mkdir()
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
        assert current(stub) == good
        assert "CURRENT" in caplog.records[0].getMessage()
        pointer.rmdir()
        newer = publish_bundle(sqlite_world, seed=2)
        wait_for(lambda: current(stub) == newer, "the next bundle")


@pytest.mark.parametrize("text", [False, True])
def test_seen_items_that_have_left_the_catalogue_keep_nobody_else_out(tmp_path, text):
    """Users have seen items 1 to 4, 7 to 10, 20, 21 and 30 to 32; the catalogue has a few of them, and others."""
    world = build_world(tmp_path, text=text)
    numbers = [2, 5, 6, 9, 19, 22, 29, 31]
    publish_bundle(world, numbers=numbers)
    with serving(world) as (_, stub):
        for user, seen in ((1, {2}), (2, {9}), (5, {31})):
            reply = stub.Retrieve(pb.RetrieveRequest(recommender="both", user_id=world.id(user), top_k=40))
            assert set(reply.item_ids) == {world.id(n) for n in numbers if n not in seen}


def force(world, bundle_id: str) -> None:
    (world.bundles / "CURRENT").write_text(bundle_id)


def test_a_refused_bundle_is_not_tried_again_in_a_hot_loop(sqlite_world):
    bad = publish_bundle(sqlite_world, seed=1)
    (sqlite_world.bundles / bad / "vectors.npy").unlink()
    with not_yet_ready(sqlite_world) as server, connected(server) as stub:
        wait_for(lambda: counted(server, "bundle_failures_total") >= 4, "several attempts")
        # The pauses double: 40, 80, 160, 320 ms and so on; a poll every 20 ms would make 50 attempts a second.
        attempts = counted(server, "bundle_failures_total")
        assert not server.wait_until_ready(1)
        assert counted(server, "bundle_failures_total") <= attempts + 6
        good = publish_bundle(sqlite_world, seed=2)
        assert server.wait_until_ready(30)
        assert current(stub) == good


def test_read_plans_follow_the_registry(tmp_path):
    """A ttl that is declared while the server runs takes effect with the next refresh."""
    world = build_world(tmp_path, serving={"refresh_seconds": 0.05, "stale": {"profile": "default"}})
    oracle = Oracle(world, publish_bundle(world))
    row = oracle.user("1")
    defaults = best(oracle.retrieval_scores(row | {"profile:age": None, "profile:gender": None}), 40)
    with serving(world) as (_, stub):
        assert list(stub.Retrieve(RETRIEVE).item_ids) == best(oracle.retrieval_scores(row), 40) != defaults
        elsewhere = open_repo(world.repo.path).store  # as `feast apply` is a process of its own
        view = elsewhere.get_feature_view("profile")
        view.ttl = timedelta(hours=1)
        elsewhere.apply(view)
        wait_for(lambda: list(stub.Retrieve(RETRIEVE).item_ids) == defaults, "the refresh")


def test_a_refresh_that_fails_keeps_the_old_plans_and_is_counted(tmp_path):
    world = build_world(tmp_path, serving={"refresh_seconds": 0.05})
    publish_bundle(world)
    with serving(world) as (server, stub):
        before = stub.Retrieve(RETRIEVE)
        open_repo(world.repo.path).store.delete_feature_view("profile")
        wait_for(lambda: counted(server, "plan_refresh_failures_total") >= 2, "failed refreshes")
        assert stub.Retrieve(RETRIEVE) == before
