"""Several sources in one call, over a channel: quotas, what fills up, strangers, and what each candidate carries."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from support.serving import failure, serving
from support.serving_bundle import Oracle, best, publish_bundle
from support.serving_sources import ADULT, LIKES, QUOTAS, Sources, build_sources_world, merged, seen_by
from support.serving_world import ITEMS

from feast_recsys.bundle.store import open_bundle
from feast_recsys.features.repo import open_repo
from feast_recsys.server.prepare import prepare
from feast_recsys.v1 import recommender_service_pb2 as pb

NAMES = ("mixed", "narrow", "grownup", "plain")
STRANGER = {"personal": 0, "fresh": 0, "trending": 10, "newest": 2, "alike": 0}
STRANGER_FILL = ("trending", "newest", "personal", "fresh", "alike")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A stub, the oracle of its bundle, and what every source should have."""
    world = build_sources_world(tmp_path_factory.mktemp("sources") / "repo")
    oracle = Oracle(world, publish_bundle(world, names=NAMES))
    with serving(world) as (_, stub):
        yield stub, oracle, Sources(oracle)


def answer(reply) -> list[tuple[str, float, str]]:
    return list(zip(reply.item_ids, [pytest.approx(s, rel=1e-5) for s in reply.scores], reply.sources, strict=True))


def year_above(value: int) -> pb.Filter:
    leaf = pb.ComparisonFilter(type=pb.COMPARISON_TYPE_GT, key="catalogue:year", value=pb.Value(int64_value=value))
    return pb.Filter(comparison=leaf)


@pytest.mark.parametrize("user", [1, 2])
@pytest.mark.parametrize("k", [1, 2, 5, 12, 30, 40])
def test_sources_share_the_list_by_their_quotas(mixed, user, k):
    stub, _, sources = mixed
    reply = stub.Retrieve(pb.RetrieveRequest(recommender="mixed", user_id=str(user), top_k=k))
    assert answer(reply) == merged(sources.of(str(user), seen_by(user)), QUOTAS, k)


def test_zero_means_the_recommenders_number(mixed):
    stub, _, _ = mixed
    reply = stub.Retrieve(pb.RetrieveRequest(recommender="mixed", user_id="1"))
    assert len(reply.item_ids) == 12
    counts = {name: list(reply.sources).count(name) for name in QUOTAS}
    assert counts == QUOTAS


@pytest.mark.parametrize("user", [3, 4, 5, 99])
def test_where_nothing_is_known_of_what_a_user_likes_the_fallback_comes_first(mixed, user):
    """User 3 has an empty history, 4 and 5 have none, 99 is nobody."""
    stub, _, sources = mixed
    reply = stub.Retrieve(pb.RetrieveRequest(recommender="mixed", user_id=str(user), top_k=12))
    wanted = merged(sources.of(str(user), seen_by(user)), STRANGER, 12, STRANGER_FILL)
    assert answer(reply) == wanted
    assert reply.sources[0] == "trending"


def test_a_history_in_the_request_makes_a_stranger_known(mixed):
    stub, _, _ = mixed
    context = {"history:items": pb.Value(int64_list=pb.Int64List(values=[8, 9]))}
    request = pb.RetrieveRequest(recommender="mixed", user_id="99", top_k=12, context=context)
    reply = stub.Retrieve(request)
    assert {name: list(reply.sources).count(name) for name in QUOTAS} == QUOTAS
    assert reply.info.user_status == pb.USER_STATUS_UNKNOWN


def test_a_history_of_items_that_the_catalogue_lacks_is_something_known(mixed):
    """A model may have learnt from items that are gone; likeness has nothing to look at, so the others fill up."""
    stub, _, _ = mixed
    context = {"history:items": pb.Value(int64_list=pb.Int64List(values=[998, 999]))}
    request = pb.RetrieveRequest(recommender="mixed", user_id="99", top_k=12, context=context)
    reply = stub.Retrieve(request)
    assert {name: list(reply.sources).count(name) for name in QUOTAS} == {**QUOTAS, "personal": 6, "alike": 0}


@pytest.mark.parametrize("user", ["1", "4", "99"])
def test_every_eligible_item_comes_back_where_as_many_are_wanted(mixed, user):
    stub, oracle, _ = mixed
    request = pb.RetrieveRequest(
        recommender="mixed", user_id=user, top_k=1000, exclude_seen=False, exclude_item_ids=["3", "11", "nowhere"],
        filter=year_above(1),
    )  # fmt: skip
    eligible = {i for i in oracle.ids if int(i) % 4 > 1 and i not in ("3", "11", "5")}
    reply = stub.Retrieve(request)
    assert len(reply.item_ids) == len(eligible)
    assert set(reply.item_ids) == eligible
    for k in (1, len(eligible) - 1):
        request.top_k = k
        assert len(set(stub.Retrieve(request).item_ids) & eligible) == k


def test_a_request_may_name_sources_and_gets_items_of_these_alone(mixed):
    stub, _, sources = mixed
    request = pb.RetrieveRequest(recommender="mixed", user_id="1", top_k=20, sources=["newest", "trending"])
    found = sources.of("1", seen_by(1))
    assert answer(stub.Retrieve(request)) == merged(found, {"trending": 2, "newest": 2}, 20)
    del request.sources[:]
    request.sources.append("trending")
    assert answer(stub.Retrieve(request)) == [(i, s, "trending") for i, s in found["trending"]]
    request.user_id = "3"
    request.sources[0] = "alike"
    assert not stub.Retrieve(request).item_ids


def test_unknown_sources_are_refused_by_name(mixed):
    stub, _, _ = mixed
    for call, request in (
        (stub.Retrieve, pb.RetrieveRequest(recommender="mixed", user_id="1", sources=["trending", "nope"])),
        (stub.Recommend, pb.RecommendRequest(recommender="mixed", user_id="1", sources=["trending", "nope"])),
        (stub.BatchRetrieve, pb.BatchRetrieveRequest(recommender="mixed", sources=["trending", "nope"])),
    ):
        refused = failure(call, request)
        assert refused.code == "INVALID_ARGUMENT"
        assert refused.fields == ("sources[1]",)
        assert "personal, fresh, trending, newest, alike" in refused.message
    request = pb.RetrieveRequest(recommender="plain", user_id="1", sources=["x"])
    assert failure(stub.Retrieve, request).message.endswith("'plain' has: retrieval")


def test_a_recommender_without_sources_has_its_own_model(mixed):
    stub, _, _ = mixed
    for sources in ([], ["retrieval"]):
        reply = stub.Retrieve(pb.RetrieveRequest(recommender="plain", user_id="1", sources=sources))
        assert list(reply.sources) == ["retrieval"] * 7


def test_where_all_sources_are_short_the_own_model_fills_up(mixed):
    """`old` has one like in its six hours (item 28's at the very moment), `none` has nothing, `adult` the fifths."""
    stub, oracle, _ = mixed
    adult = [str(n) for n in range(40, 0, -5)]
    request = pb.RetrieveRequest(recommender="narrow", user_id="1", top_k=40)
    reply = stub.Retrieve(request)
    scores = oracle.retrieval_scores(oracle.user("1"))
    assert reply.item_ids[0] == "28"
    assert list(reply.sources).count("old") == 1
    assert [i for i, name in zip(reply.item_ids, reply.sources, strict=True) if name == "adult"] == adult
    own = [i for i, name in zip(reply.item_ids, reply.sources, strict=True) if name == "retrieval"]
    assert own == best(scores, 40, ["28", *adult])
    assert list(reply.item_ids[-len(own) :]) == own
    request.exclude_item_ids.extend(["28", *adult])
    reply = stub.Retrieve(request)
    assert list(reply.item_ids) == own
    assert set(reply.sources) == {"retrieval"}


@pytest.mark.parametrize("seeds", [["7"], ["12", "30"]])
def test_seed_items_ask_the_sources_of_likeness(mixed, seeds):
    stub, _, sources = mixed
    request = pb.RetrieveRequest(recommender="mixed", seed_item_ids=seeds, top_k=10)
    scores = sources.alike(seeds)
    for names in ([], ["alike"]):
        request.sources[:] = names
        reply = stub.Retrieve(request)
        assert list(reply.item_ids) == best(scores, 10)
        assert set(reply.sources) == {"alike"}
    request.sources[:] = ["alike", "trending"]
    assert failure(stub.Retrieve, request).fields == ("sources[1]",)
    plain = stub.Retrieve(pb.RetrieveRequest(recommender="plain", seed_item_ids=seeds, top_k=3))
    assert list(plain.sources) == ["similar"] * 3


@pytest.mark.parametrize("k", [1, 3, 8, 9, 25, 39, 40])
@pytest.mark.parametrize("seeds", [["7"], ["10", "30"]])
def test_where_sources_of_likeness_are_short_likeness_by_the_own_model_fills_up(mixed, seeds, k):
    """`adult` has fifths only."""
    stub, _, sources = mixed
    scores = sources.similar(seeds)
    adult = [i for i in best(scores, 40) if int(i) % 5 == 0]
    rest = [i for i in best(scores, 40) if int(i) % 5]
    request = pb.RetrieveRequest(recommender="grownup", seed_item_ids=seeds, top_k=k)
    for names in ([], ["similar", "adult"]):
        request.sources[:] = names
        reply = stub.Retrieve(request)
        wanted = [(i, scores[i], "adult") for i in adult] + [(i, scores[i], "similar") for i in rest]
        assert answer(reply) == wanted[:k]
        assert not reply.info.degraded_reasons
    request.sources[:] = ["adult"]
    assert list(stub.Retrieve(request).item_ids) == adult[:k]


@pytest.mark.parametrize("k", [1, 5, 18, 40])
def test_what_fills_up_for_seeds_is_eligible_too(mixed, k):
    stub, oracle, _ = mixed
    request = pb.RetrieveRequest(
        recommender="grownup", seed_item_ids=["7"], top_k=k, filter=year_above(1), exclude_item_ids=["3", "10"]
    )
    eligible = {i for i in oracle.ids if int(i) % 4 > 1 and i not in ("3", "5", "7", "10")}
    reply = stub.Retrieve(request)
    assert len(set(reply.item_ids)) == len(reply.item_ids) == min(k, len(eligible))
    assert set(reply.item_ids) <= eligible


def test_whatever_an_answer_names_a_request_may_name(mixed):
    stub, _, _ = mixed
    for recommender in NAMES:
        for whose in ({"user_id": "1"}, {"seed_item_ids": ["7"]}):
            request = pb.RetrieveRequest(recommender=recommender, top_k=40, **whose)
            for name in set(stub.Retrieve(request).sources):
                request.sources[:] = [name]
                reply = stub.Retrieve(request)
                assert set(reply.sources) == {name}
    request = pb.RetrieveRequest(recommender="narrow", user_id="1", top_k=40, sources=["retrieval", "old"])
    reply = stub.Retrieve(request)
    assert (reply.item_ids[0], reply.sources[0]) == ("28", "old")
    assert list(reply.sources[1:]) == ["retrieval"] * (len(reply.item_ids) - 1)


@pytest.mark.parametrize(
    ("recommender", "whose", "sources", "message"),
    [
        (
            "plain",
            "seeds",
            ["retrieval"],
            "to do with seed items; for seed items 'plain' has: similar",
        ),
        (
            "mixed",
            "seeds",
            ["alike", "trending"],
            "'trending' has nothing to do with seed items; for seed items 'mixed' has",
        ),
        ("grownup", "seeds", ["x"], "there is no source 'x'; for seed items 'grownup' has: adult, similar"),
        ("plain", "user", ["similar"], "is likeness to seed_item_ids, and there are none; 'plain' has: retrieval"),
        (
            "mixed",
            "user",
            ["retrieval"],
            "there is no source 'retrieval'; 'mixed' has: personal, fresh, trending, newest",
        ),
        ("narrow", "user", ["adlut"], "no source 'adlut'; did you mean 'adult'? 'narrow' has: old, none, adult"),
        ("narrow", "user", ["x"], "there is no source 'x'; 'narrow' has: old, none, adult, retrieval"),
    ],
)
def test_a_source_that_says_nothing_is_refused_with_those_that_do(mixed, recommender, whose, sources, message):
    stub, _, _ = mixed
    asked = {"user_id": "1"} if whose == "user" else {"seed_item_ids": ["7"]}
    refused = failure(stub.Retrieve, pb.RetrieveRequest(recommender=recommender, sources=sources, **asked))
    assert refused.code == "INVALID_ARGUMENT"
    assert refused.fields == (f"sources[{len(sources) - 1}]",)
    assert message in refused.message


def test_seeds_of_which_nothing_is_known_are_told(tmp_path):
    """Item 12 has no direction by the own model, but by `content`; the fifths are adult."""
    adult = {"name": "adult", "kind": "similar", "history": "history:items", "model": "content", "filter": ADULT}
    recommenders = {
        "plain": {"ranking": None},
        "part": {"ranking": None, "sources": [adult]},
        "whole": {"ranking": None, "sources": [{**adult, "filter": None}]},
    }
    world = build_sources_world(tmp_path / "repo", recommenders=recommenders)

    def without_direction(staged):
        vectors = np.load(staged / "vectors.npy")
        vectors[11] = 0.0
        np.save(staged / "vectors.npy", vectors)

    publish_bundle(world, names=list(recommenders), change=without_direction)
    with serving(world) as (_, stub):

        def ask(recommender, seeds, **fields):
            request = pb.RetrieveRequest(recommender=recommender, seed_item_ids=seeds, **{"top_k": 40, **fields})
            reply = stub.Retrieve(request)
            return len(reply.item_ids), list(reply.info.degraded_reasons)

        told = ["SEED_ITEMS_WITHOUT_DIRECTION"]
        assert ask("plain", ["12"]) == (0, told)
        assert ask("plain", ["12"], filter=year_above(100)) == (0, []), "nothing was to be had"
        assert ask("plain", ["12", "13"]) == (38, [])
        assert ask("plain", ["nowhere"]) == (0, [])
        assert ask("part", ["12"]) == (8, told)
        assert ask("part", ["12"], top_k=8) == (8, [])
        assert ask("part", ["12"], sources=["adult"]) == (8, [])
        assert ask("whole", ["12"]) == (39, [])


def test_recommend_hands_source_and_score_over_to_the_ranker(mixed):
    stub, oracle, sources = mixed
    found = merged(sources.of("1", seen_by(1)), QUOTAS, 12)
    row = oracle.user("1")
    wanted = {
        item: oracle.probability(row, item, retrieval_score=score, retrieval_source=name) for item, score, name in found
    }
    reply = stub.Recommend(pb.RecommendRequest(recommender="mixed", user_id="1", top_k=12))
    assert dict(zip(reply.item_ids, reply.scores, strict=True)) == pytest.approx(wanted, abs=1e-6)
    assert list(reply.scores) == sorted(reply.scores, reverse=True)
    carried = {item: (pytest.approx(score, rel=1e-5), name) for item, score, name in found}
    assert dict(zip(reply.item_ids, zip(reply.retrieval_scores, reply.sources, strict=True), strict=True)) == carried


def test_a_pinned_item_that_was_not_retrieved_has_no_source(mixed):
    stub, oracle, _ = mixed
    rules = pb.Reranking(pinned_item_ids=["6"])
    request = pb.RecommendRequest(
        recommender="mixed", user_id="1", top_k=3, candidate_count=3, sources=["trending"], reranking=rules
    )
    reply = stub.Recommend(request)
    assert reply.item_ids[0] == "6"
    assert list(reply.sources) == ["", "trending", "trending"]
    assert reply.scores[0] == pytest.approx(oracle.probability(oracle.user("1"), "6"), abs=1e-6)


def test_rank_takes_sources_from_the_caller(mixed):
    stub, oracle, _ = mixed
    row, names = oracle.user("2"), ["trending", "newest", "elsewhere"]
    request = pb.RankRequest(recommender="mixed", user_id="2", item_ids=["1", "2", "3"])
    request.candidate_features["retrieval_source"].string_values.values.extend(names)
    reply = stub.Rank(request)
    wanted = {i: oracle.probability(row, i, retrieval_source=n) for i, n in zip("123", names, strict=True)}
    assert dict(zip(reply.item_ids, reply.scores, strict=True)) == pytest.approx(wanted, abs=1e-6)


def test_only_likes_up_to_the_bundles_time_and_within_the_window_count(mixed):
    stub, _, _ = mixed
    request = pb.RetrieveRequest(
        recommender="mixed", user_id="99", top_k=40, sources=["trending"], exclude_seen=False
    )  # fmt: skip
    reply = stub.Retrieve(request)
    assert dict(zip(reply.item_ids, reply.scores, strict=True)) == {"3": 3, "11": 3, "12": 2, "25": 1, "28": 1}
    assert len(LIKES) > len(reply.item_ids)


def test_a_source_that_the_bundle_does_not_hold_as_the_settings_have_it_is_left_out(tmp_path, caplog):
    world = build_sources_world(tmp_path / "repo")
    bundle = open_bundle(world.bundles / publish_bundle(world, names=NAMES))
    path = world.repo.path / "feature_store.yaml"
    text = path.read_text("utf-8").replace("days: 7", "days: 8").replace("name: alike", "name: likewise")
    path.write_text(text, "utf-8")
    repo = open_repo(world.repo.path)
    with caplog.at_level(logging.WARNING):
        state = prepare(repo, bundle)
    assert [s.name for s in state.recommenders["mixed"].sources] == ["personal", "fresh", "newest"]
    assert [record.args[0] for record in caplog.records] == ["trending", "likewise"]
    assert all("materialize again" in record.message for record in caplog.records)
    assert len(bundle.snapshot) == ITEMS
