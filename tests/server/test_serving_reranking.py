"""Rank and Recommend over a channel: diversity, caps, pinned and blocked items, by request and by settings."""

from __future__ import annotations

import numpy as np
import pytest
from support.serving import failure, serving
from support.serving_bundle import publish_bundle
from support.serving_world import build_world

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.store import open_bundle
from feast_recsys.server.prepare import prepare
from feast_recsys.v1 import recommender_service_pb2 as pb

BY_PROBABILITY = pb.Reranking()
EVERYTHING = 40


def cap(feature, most):
    return pb.Cap(key=f"catalogue:{feature}", max_items=most)


def rank(service, items=None, **fields):
    items = service.world.item_ids if items is None else items
    return service.stub.Rank(
        pb.RankRequest(recommender="both", user_id=service.world.id(1), item_ids=items, **fields)
    )  # fmt: skip


def recommend(service, user=1, **fields):
    return service.stub.Recommend(
        pb.RecommendRequest(recommender="both", user_id=service.world.id(user), **fields)
    )  # fmt: skip


def values_of(service, feature):
    """What Feast says of each item, as a list of values."""
    reference = f"catalogue:{feature}"
    rows = service.world.online("item_id", [reference], service.world.item_ids)
    values = [row[reference] for row in rows]
    read = [[] if value is None else value if isinstance(value, list) else [value] for value in values]
    return dict(zip(service.world.item_ids, read, strict=True))


def arranged(service, base, k, caps=(), weight=1.0, pinned=(), blocked=()):
    """The arrangement of a reply in the order of probability, read plainly."""
    vectors = dict(zip(service.oracle.ids, service.oracle.vectors.astype(np.float64), strict=True))
    probability = dict(zip(base.item_ids, base.scores, strict=True))
    limits = [(values_of(service, c.key.partition(":")[2]), c.max_items) for c in caps]
    placed: list[str] = []

    def fits(item):
        return item not in placed and all(
            sum(value in values[other] for other in placed) < most for values, most in limits for value in values[item]
        )

    def worth(item):
        alike = [
            vectors[item] @ vectors[o] / np.linalg.norm(vectors[item]) / np.linalg.norm(vectors[o]) for o in placed
        ]
        return weight * probability[item] - (1 - weight) * max(alike, default=0.0)

    left = [item for item in base.item_ids if item not in blocked]
    for item in pinned:
        if item in left and fits(item):
            placed.append(item)
    while len(placed) < k and any(map(fits, left)):
        placed.append(max(filter(fits, left), key=worth))
    return placed[:k]


@pytest.mark.parametrize(
    ("caps", "weight"),
    [
        ([], 1.0),
        ([], 0.8),
        ([], 0.3),
        ([cap("genres", 2)], 1.0),
        ([cap("adult", 3)], 1.0),
        ([cap("year", 1)], 1.0),
        ([cap("title", 1)], 1.0),
        ([cap("genres", 3), cap("year", 2)], 0.5),
    ],
)
def test_both_calls_arrange_as_the_rules_say(service, caps, weight):
    rules = pb.Reranking(relevance_weight=weight, caps=caps)
    base = rank(service)
    reply = rank(service, top_k=9, reranking=rules)
    assert list(reply.item_ids) == arranged(service, base, 9, caps, weight)
    probability = dict(zip(base.item_ids, base.scores, strict=True))
    assert list(reply.scores) == [probability[item] for item in reply.item_ids]

    base = recommend(service, top_k=15, candidate_count=15, reranking=BY_PROBABILITY)
    assert list(base.scores) == sorted(base.scores, reverse=True)
    reply = recommend(service, top_k=9, candidate_count=15, reranking=rules)
    assert list(reply.item_ids) == arranged(service, base, 9, caps, weight)
    nearness = dict(zip(base.item_ids, base.retrieval_scores, strict=True))
    assert list(reply.retrieval_scores) == [nearness[item] for item in reply.item_ids]


def test_the_same_request_gets_the_same_arrangement(service):
    rules = pb.Reranking(relevance_weight=0.4, caps=[cap("genres", 4)])
    first = recommend(service, top_k=10, candidate_count=30, reranking=rules)
    for _ in range(3):
        again = recommend(service, top_k=10, candidate_count=30, reranking=rules)
        assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)


def test_an_item_without_a_value_is_not_limited(service):
    """The year of item 5 is null."""
    reply = rank(service, reranking=pb.Reranking(caps=[cap("year", 1)]))
    assert len(reply.item_ids) == 5
    assert service.world.id(5) in reply.item_ids


def test_pinned_candidates_of_rank_come_first_and_others_are_ignored(service):
    base = rank(service, items=service.world.item_ids[:20])
    pinned = [service.world.id(n) for n in (7, 30, 3, 7)]
    rules = pb.Reranking(pinned_item_ids=[*pinned, "no-such-item", ""])
    reply = rank(service, items=service.world.item_ids[:20], reranking=rules)
    rest = [item for item in base.item_ids if item not in pinned]
    assert list(reply.item_ids) == [service.world.id(7), service.world.id(3), *rest]
    assert not reply.unknown_item_ids


def test_blocked_candidates_of_rank_stay_out(service):
    base = rank(service)
    blocked = [base.item_ids[0], base.item_ids[3], "no-such-item"]
    reply = rank(service, top_k=5, reranking=pb.Reranking(blocked_item_ids=blocked))
    assert list(reply.item_ids) == arranged(service, base, 5, blocked=blocked)
    everything = pb.Reranking(blocked_item_ids=service.world.item_ids)
    assert not rank(service, reranking=everything).item_ids


def test_given_values_stay_with_their_items_where_others_are_blocked(service):
    ids = service.world.item_ids[:10]
    column = pb.FeatureColumn(int64_values=pb.Int64List(values=range(10)))
    base = rank(service, items=ids, candidate_features={"discount": column})
    rules = pb.Reranking(blocked_item_ids=[ids[0], ids[4]])
    reply = rank(service, items=ids, candidate_features={"discount": column}, reranking=rules)
    probability = dict(zip(base.item_ids, base.scores, strict=True))
    assert list(reply.scores) == pytest.approx([probability[item] for item in reply.item_ids])


def not_retrieved(service, count, user=1):
    """Eligible items beyond the nearest `count`, best first."""
    reply = service.stub.Retrieve(
        pb.RetrieveRequest(recommender="both", user_id=service.world.id(user), top_k=EVERYTHING)
    )
    return list(reply.item_ids)[count:]


def test_a_pinned_item_is_recommended_whether_it_was_retrieved_or_not(service):
    base = recommend(service, top_k=6, candidate_count=6)
    far, near = not_retrieved(service, 6)[-1], base.item_ids[4]
    reply = recommend(service, top_k=6, candidate_count=6, reranking=pb.Reranking(pinned_item_ids=[far, near]))
    rest = [item for item in base.item_ids if item != near]
    assert list(reply.item_ids) == [far, near, *rest[:4]]
    assert reply.retrieval_scores[0] == 0.0
    assert (reply.sources[0], reply.sources[1]) == ("", base.sources[0])
    assert reply.retrieval_scores[1] == dict(zip(base.item_ids, base.retrieval_scores, strict=True))[near]
    [alone] = rank(service, items=[far]).scores
    assert reply.scores[0] == pytest.approx(alone)


def test_no_more_than_the_candidates_come_back(service):
    pinned = not_retrieved(service, 4)[-3:]
    reply = recommend(service, top_k=9, candidate_count=4, reranking=pb.Reranking(pinned_item_ids=pinned))
    assert list(reply.item_ids[:3]) == pinned
    assert len(reply.item_ids) == 4


def test_a_pinned_item_must_be_eligible(service):
    """User 1 has seen 1, 2 and 3; item 6 has year 2, item 7 year 3."""
    seen, other, wanted = (service.world.id(n) for n in (2, 7, 6))
    rules = pb.Reranking(pinned_item_ids=[seen, other, wanted])
    year = pb.ComparisonFilter(
        type=pb.COMPARISON_TYPE_EQ, key="catalogue:year", value=pb.Value(int64_value=2)
    )  # fmt: skip
    condition = pb.Filter(comparison=year)
    assert list(recommend(service, reranking=rules).item_ids)[:2] == [other, wanted]
    assert seen not in recommend(service, reranking=rules).item_ids
    assert list(recommend(service, reranking=rules, exclude_seen=False).item_ids)[:3] == [seen, other, wanted]
    reply = recommend(service, reranking=rules, filter=condition)
    assert reply.item_ids[0] == wanted
    assert not {seen, other} & set(reply.item_ids)
    reply = recommend(service, reranking=rules, exclude_item_ids=[other])
    assert reply.item_ids[0] == wanted
    assert other not in reply.item_ids


def test_blocked_items_make_room_for_other_candidates(service):
    blocked = list(recommend(service, top_k=6, candidate_count=6).item_ids[:3])
    reply = recommend(service, top_k=6, candidate_count=6, reranking=pb.Reranking(blocked_item_ids=blocked))
    excluded = recommend(service, top_k=6, candidate_count=6, exclude_item_ids=blocked)
    assert len(reply.item_ids) == 6
    assert list(reply.item_ids) == list(excluded.item_ids)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (pb.Reranking(relevance_weight=1.01), "reranking.relevance_weight"),
        (pb.Reranking(relevance_weight=float("nan")), "reranking.relevance_weight"),
        (pb.Reranking(caps=[cap("year", 1), cap("nothing", 1)]), "reranking.caps[1].key"),
        (pb.Reranking(caps=[cap("price", 1)]), "reranking.caps[0].key"),
        (pb.Reranking(caps=[cap("year", 0)]), "reranking.caps[0].max_items"),
        (pb.Reranking(caps=[cap("year", 1)] * 33), "reranking.caps"),
        (pb.Reranking(pinned_item_ids=["1"], blocked_item_ids=["1"]), "reranking.pinned_item_ids[0]"),
        (pb.Reranking(pinned_item_ids=["1"] * 1001), "reranking.pinned_item_ids"),
        (pb.Reranking(blocked_item_ids=["1"] * 10_001), "reranking.blocked_item_ids"),
    ],
)
def test_a_rule_without_a_meaning_is_refused_by_its_path(service, rules, field):
    user_id = service.world.id(1)
    for call, request in (
        (service.stub.Rank, pb.RankRequest(recommender="both", user_id=user_id, item_ids=["1"], reranking=rules)),
        (service.stub.Rank, pb.RankRequest(recommender="both", user_id=user_id, reranking=rules)),
        (service.stub.Recommend, pb.RecommendRequest(recommender="both", user_id=user_id, reranking=rules)),
    ):
        refused = failure(call, request)
        assert refused.code == "INVALID_ARGUMENT"
        assert refused.fields == (field,)


def world_with(folder, reranking):
    world = build_world(folder, recommenders={"both": {"candidates": 12, "reranking": reranking}})
    return world, publish_bundle(world, names=["both"])


def test_the_recommenders_rules_hold_until_a_request_brings_its_own(tmp_path):
    rules = {"caps": [{"key": "catalogue:genres", "max_items": 2}], "pinned_item_ids": [9], "blocked_item_ids": [11]}
    world, _ = world_with(tmp_path, rules)
    with serving(world) as (_, stub):

        def ask(**fields):
            request = pb.RecommendRequest(user_id="1", top_k=12, candidate_count=40, **fields)
            return list(stub.Recommend(request).item_ids)

        same = pb.Reranking(caps=[cap("genres", 2)], pinned_item_ids=["9"], blocked_item_ids=["11"])
        assert ask() == ask(reranking=same)
        assert ask()[0] == "9"
        plain = ask(reranking=BY_PROBABILITY)
        assert plain != ask()
        assert len(plain) == 12


def test_what_the_settings_block_no_request_brings_back(tmp_path):
    world, _ = world_with(tmp_path, {"blocked_item_ids": [11, 12]})
    with serving(world) as (_, stub):

        def asked(**rules):
            """The ids of everything that Rank and Recommend have, which must be the same."""
            given = {"reranking": pb.Reranking(**rules)} if rules else {}
            ranked = stub.Rank(pb.RankRequest(user_id="1", item_ids=world.item_ids, **given))
            recommended = stub.Recommend(pb.RecommendRequest(user_id="1", top_k=EVERYTHING, **given))
            assert set(ranked.item_ids) == set(recommended.item_ids)
            return list(ranked.item_ids)

        others = {i for i in world.item_ids if i not in ("11", "12")}
        assert set(asked()) == others
        assert set(asked(relevance_weight=1.0)) == others
        assert set(asked(caps=[cap("title", 1)])) == others
        assert set(asked(blocked_item_ids=["13"])) == others - {"13"}
        pinned = asked(pinned_item_ids=["11", "3"])
        assert pinned[0] == "3", "a pinned item that is blocked stays out, as any that is not eligible"
        assert set(pinned) == others


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"caps": [{"key": "catalogue:nothing", "max_items": 1}]}, "recommenders.both.reranking.caps[0].key"),
        ({"caps": [{"key": "catalogue:price", "max_items": 1}]}, "recommenders.both.reranking.caps[0].key"),
    ],
)
def test_settings_that_do_not_fit_the_items_are_refused_with_the_bundle(tmp_path, rules, field):
    world, bundle_id = world_with(tmp_path, rules)
    with pytest.raises(InvalidSettings, match="recommender 'both'") as caught:
        prepare(world.repo, open_bundle(world.bundles / bundle_id))
    assert caught.value.field == field
