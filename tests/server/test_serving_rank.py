"""Rank and Recommend over a channel, against one ONNX run per candidate on what Feast itself says."""

from __future__ import annotations

import numpy as np
import pytest
from support.serving import failure, serving
from support.serving_bundle import best, publish_bundle
from support.serving_world import build_world

from feast_recsys.v1 import recommender_service_pb2 as pb

TOLERANCE = 1e-6


def ids(service, *numbers: int) -> list[str]:
    return [service.world.id(n) for n in numbers]


def floats(*values: float) -> pb.FeatureColumn:
    return pb.FeatureColumn(float_values=pb.FloatList(values=values))


def whole(*values: int) -> pb.FeatureColumn:
    return pb.FeatureColumn(int64_values=pb.Int64List(values=values))


@pytest.mark.parametrize("user", [1, 2, 3, 4, 99])
def test_probabilities_are_those_of_onnx_on_raw_features(service, user):
    user_id = service.world.id(user)
    row = service.oracle.user(user_id)
    wanted = {i: service.oracle.probability(row, i) for i in service.world.item_ids}
    reply = service.stub.Rank(
        pb.RankRequest(recommender="both", user_id=user_id, item_ids=service.world.item_ids)
    )  # fmt: skip
    assert list(reply.item_ids) == best(wanted, 40)
    np.testing.assert_allclose(reply.scores, [wanted[i] for i in reply.item_ids], atol=TOLERANCE)
    assert len({round(s, 6) for s in reply.scores}) > 20, "the model must tell items apart, or this test proves nothing"
    assert reply.info.bundle_id == service.bundle_id
    assert reply.info.user_status == (pb.USER_STATUS_UNKNOWN if user == 99 else pb.USER_STATUS_KNOWN)


def test_top_k_cuts_and_zero_means_all(service):
    request = pb.RankRequest(recommender="both", user_id=service.world.id(1), item_ids=ids(service, *range(1, 11)))
    everything = service.stub.Rank(request)
    assert len(everything.item_ids) == 10
    request.top_k = 3
    assert list(service.stub.Rank(request).item_ids) == list(everything.item_ids[:3])
    request.top_k = 1000
    assert list(service.stub.Rank(request).item_ids) == list(everything.item_ids)


def test_unknown_candidates_are_named_and_repeated_ones_ranked_once(service):
    known = ids(service, 7, 3)
    request = pb.RankRequest(
        recommender="both",
        user_id=service.world.id(1),
        item_ids=["nowhere", known[0], "41x", known[1], known[0], "nowhere", "", known[1]],
    )
    reply = service.stub.Rank(request)
    assert sorted(reply.item_ids) == sorted(known)
    assert list(reply.unknown_item_ids) == ["nowhere", "41x", ""]


def test_the_first_occurrence_of_a_candidate_counts_with_its_features(service):
    user_id, [seven, three] = service.world.id(1), ids(service, 7, 3)
    row = service.oracle.user(user_id)
    reply = service.stub.Rank(
        pb.RankRequest(
            recommender="both", user_id=user_id, item_ids=[seven, "nowhere", three, seven],
            candidate_features={"retrieval_score": floats(1.5, 9.0, -2.0, 4.0)},
        )
    )  # fmt: skip
    scores = dict(zip(reply.item_ids, reply.scores, strict=True))
    assert scores[seven] == pytest.approx(service.oracle.probability(row, seven, retrieval_score=1.5), abs=TOLERANCE)
    assert scores[three] == pytest.approx(service.oracle.probability(row, three, retrieval_score=-2.0), abs=TOLERANCE)
    assert list(reply.unknown_item_ids) == ["nowhere"]


@pytest.mark.parametrize("candidates", [[], ["nowhere", "elsewhere"]])
def test_nothing_to_rank_gives_an_empty_list(service, candidates):
    reply = service.stub.Rank(
        pb.RankRequest(recommender="both", user_id=service.world.id(1), item_ids=candidates, top_k=3)
    )  # fmt: skip
    assert not reply.item_ids
    assert not reply.scores
    assert list(reply.unknown_item_ids) == candidates
    assert reply.info.bundle_id == service.bundle_id


def test_equal_probabilities_keep_the_order_of_the_request(service):
    """A discount of a million drives every probability to 0 or 1."""
    order = [service.world.item_ids[n] for n in np.random.default_rng(0).permutation(40)]
    row = service.oracle.user(service.world.id(1))
    wanted = {i: service.oracle.probability(row, i, discount=10**6) for i in order}
    assert set(wanted.values()) in ({0.0}, {1.0})
    for candidates in (order, order[::-1]):
        request = pb.RankRequest(
            recommender="both", user_id=service.world.id(1), item_ids=candidates,
            candidate_features={"discount": whole(*[10**6] * 40)},
        )  # fmt: skip
        assert list(service.stub.Rank(request).item_ids) == candidates


def test_request_values_and_overrides_of_both_sides_reach_the_ranker(service):
    user_id, candidates = service.world.id(2), ids(service, 1, 6, 12)
    row = service.oracle.user(user_id, hour=2) | {"profile:spend": 3.5, "profile:gender": "m"}
    context = {
        "hour": pb.Value(int64_value=2),
        "profile:spend": pb.Value(double_value=3.5),
        "profile:gender": pb.Value(string_value="m"),
    }
    given = {
        "retrieval_score": ([0.5, -1.0, 2.0], floats(0.5, -1.0, 2.0)),
        "catalogue:price": ([4.0, 5.0, 6.0], whole(4, 5, 6)),
        "catalogue:year": ([9, 8, 7], whole(9, 8, 7)),
        "catalogue:adult": ([True, False, True], whole(1, 0, 1)),
    }
    reply = service.stub.Rank(
        pb.RankRequest(
            recommender="both", user_id=user_id, item_ids=candidates, context=context,
            candidate_features={name: column for name, (_, column) in given.items()},
        )
    )  # fmt: skip
    scores = dict(zip(reply.item_ids, reply.scores, strict=True))
    for n, item in enumerate(candidates):
        values = {name: raw[n] for name, (raw, _) in given.items()}
        assert scores[item] == pytest.approx(service.oracle.probability(row, item, **values), abs=TOLERANCE)


def test_context_of_the_other_stage_is_welcome(service):
    """One context serves Retrieve and Rank: `profile:spend` is an input of the ranker only."""
    request = pb.RetrieveRequest(recommender="both", user_id=service.world.id(1))
    plain = service.stub.Retrieve(request)
    request.context["profile:spend"].double_value = 7.0
    assert service.stub.Retrieve(request).item_ids == plain.item_ids


@pytest.mark.parametrize("user", [1, 2, 99])
def test_recommend_ranks_what_retrieve_finds_and_hands_over_its_scores(service, user):
    user_id = service.world.id(user)
    row = service.oracle.user(user_id)
    reply = service.stub.Recommend(
        pb.RecommendRequest(recommender="both", user_id=user_id, top_k=6, candidate_count=15)
    )  # fmt: skip
    seen = [*(row["seen:items"] or []), *(row["history:items"] or [])]
    nearness = service.oracle.retrieval_scores(row)
    candidates = best(nearness, 15, [str(i) for i in seen])
    wanted = {i: service.oracle.probability(row, i, retrieval_score=nearness[i]) for i in candidates}
    assert list(reply.item_ids) == best(wanted, 6)
    np.testing.assert_allclose(reply.scores, [wanted[i] for i in reply.item_ids], atol=TOLERANCE)
    np.testing.assert_allclose(reply.retrieval_scores, [nearness[i] for i in reply.item_ids], rtol=1e-6)


def test_recommend_agrees_with_retrieve_then_rank(service):
    user_id = service.world.id(2)
    found = service.stub.Retrieve(pb.RetrieveRequest(recommender="both", user_id=user_id, top_k=20))
    ranked = service.stub.Rank(
        pb.RankRequest(
            recommender="both", user_id=user_id, item_ids=found.item_ids, bundle_id=found.info.bundle_id, top_k=5,
            candidate_features={"retrieval_score": floats(*found.scores)},
        )
    )  # fmt: skip
    both = service.stub.Recommend(pb.RecommendRequest(recommender="both", user_id=user_id, candidate_count=20, top_k=5))
    assert both.item_ids == ranked.item_ids
    np.testing.assert_allclose(both.scores, ranked.scores, atol=TOLERANCE)


def test_recommends_defaults_and_its_limits(service):
    request = pb.RecommendRequest(recommender="both", user_id=service.world.id(1))
    assert len(service.stub.Recommend(request).item_ids) == 5
    request.candidate_count = 12
    request.top_k = 100
    assert len(service.stub.Recommend(request).item_ids) == 12, "at most candidate_count"
    request.candidate_count = 1000
    assert len(service.stub.Recommend(request).item_ids) == 36, "all that user 1 has not seen"


@pytest.mark.parametrize(("top_k", "width"), [(0, 12), (5, 12), (12, 12), (13, 13), (30, 30), (100, 100)])
def test_as_many_are_ranked_as_are_wanted_back_where_no_number_of_candidates_is_given(service, top_k, width):
    """12 is the recommender's."""
    request = pb.RecommendRequest(recommender="both", user_id=service.world.id(1), top_k=top_k)
    reply = service.stub.Recommend(request)
    request.candidate_count = width
    assert reply == service.stub.Recommend(request)
    assert len(reply.item_ids) == min(top_k or 5, 36)


def test_no_more_can_be_recommended_than_may_be_ranked(tmp_path):
    world = build_world(tmp_path, recommenders={"both": {"candidates": 12}}, serving={"max_candidates": 20})
    publish_bundle(world, names=["both"])
    with serving(world) as (_, stub):
        assert len(stub.Recommend(pb.RecommendRequest(user_id="1", top_k=20)).item_ids) == 20
        refused = failure(stub.Recommend, pb.RecommendRequest(user_id="1", top_k=21))
        assert (refused.code, refused.fields) == ("INVALID_ARGUMENT", ("top_k",))


def test_recommend_with_nothing_eligible_is_empty(service):
    request = pb.RecommendRequest(
        recommender="both", user_id=service.world.id(1), exclude_item_ids=service.world.item_ids
    )
    reply = service.stub.Recommend(request)
    assert not reply.item_ids
    assert not reply.scores
    assert not reply.retrieval_scores
