"""Retrieve over a channel: nearest items by brute force, and what makes an item ineligible."""

from __future__ import annotations

import pytest
from support.serving_bundle import best
from support.serving_world import AS_OF

from feast_recsys.v1 import recommender_service_pb2 as pb

Filter, Comparison, Compound = pb.Filter, pb.ComparisonFilter, pb.CompoundFilter


def year(kind: int, value: int) -> pb.Filter:
    return Filter(comparison=Comparison(type=kind, key="catalogue:year", value=pb.Value(int64_value=value)))


@pytest.mark.parametrize("user", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 7, 39, 40, 1000])
def test_the_best_items_by_brute_force_come_back_best_first(service, user, k):
    user_id = service.world.id(user)
    scores = service.oracle.retrieval_scores(service.oracle.user(user_id))
    reply = service.stub.Retrieve(pb.RetrieveRequest(recommender="plain", user_id=user_id, top_k=k))
    assert list(reply.item_ids) == best(scores, k)
    assert list(reply.scores) == pytest.approx([scores[i] for i in reply.item_ids])
    assert len(reply.item_ids) == min(k, 40)
    assert reply.info.bundle_id == service.bundle_id
    assert reply.info.as_of.seconds == AS_OF
    assert reply.info.user_status == pb.USER_STATUS_KNOWN
    assert not reply.info.degraded_reasons


def test_zero_means_the_recommenders_number(service):
    for name, wanted in (("plain", 7), ("both", 12)):
        reply = service.stub.Retrieve(pb.RetrieveRequest(recommender=name, user_id=service.world.id(1)))
        assert len(reply.item_ids) == wanted


def test_a_user_nobody_knows_gets_the_defaults_of_the_signature(service):
    nobody = service.world.id(99)
    scores = service.oracle.retrieval_scores({})
    reply = service.stub.Retrieve(pb.RetrieveRequest(recommender="plain", user_id=nobody, top_k=40))
    assert list(reply.item_ids) == best(scores, 40)
    assert reply.info.user_status == pb.USER_STATUS_UNKNOWN
    assert not reply.info.degraded_reasons


def test_a_user_is_known_if_a_view_that_the_call_reads_has_a_row(service):
    """User 5 has a list of seen items, which only `both` reads."""
    for recommender, status in (("plain", pb.USER_STATUS_UNKNOWN), ("both", pb.USER_STATUS_KNOWN)):
        request = pb.RetrieveRequest(recommender=recommender, user_id=service.world.id(5))
        assert service.stub.Retrieve(request).info.user_status == status


def test_defaults_are_counted_by_feature_and_status(service):
    def count(status: str) -> float:
        labels = {"feature": "profile:age", "status": status}
        return service.server.metrics.registry.get_sample_value("feast_recsys_defaults_total", labels) or 0.0

    before = {status: count(status) for status in ("NULL_VALUE", "NOT_FOUND")}
    for user in (1, 3, 99):
        service.stub.Retrieve(pb.RetrieveRequest(recommender="plain", user_id=service.world.id(user)))
    assert count("NULL_VALUE") == before["NULL_VALUE"] + 1
    assert count("NOT_FOUND") == before["NOT_FOUND"] + 1


@pytest.mark.parametrize(("user", "seen"), [(1, {1, 2, 3, 4}), (2, {20, 21, 7, 8, 9, 10}), (4, set()), (99, set())])
def test_seen_items_of_all_lists_stay_out_and_k_is_kept(service, user, seen):
    user_id = service.world.id(user)
    without = [service.world.id(n) for n in seen]
    row = service.oracle.user(user_id)
    scores = service.oracle.retrieval_scores(row)
    for request in ({}, {"exclude_seen": True}):
        reply = service.stub.Retrieve(
            pb.RetrieveRequest(recommender="both", user_id=user_id, top_k=30, **request)
        )  # fmt: skip
        assert list(reply.item_ids) == best(scores, 30, without)
    reply = service.stub.Retrieve(pb.RetrieveRequest(recommender="both", user_id=user_id, top_k=40, exclude_seen=False))
    assert len(reply.item_ids) == 40


def test_excluded_ids_stay_out_and_unknown_ones_are_ignored(service):
    user_id = service.world.id(2)
    scores = service.oracle.retrieval_scores(service.oracle.user(user_id))
    top = best(scores, 5)
    request = pb.RetrieveRequest(
        recommender="plain", user_id=user_id, top_k=38, exclude_item_ids=[*top, top[0], "no-such-item", ""]
    )
    reply = service.stub.Retrieve(request)
    assert list(reply.item_ids) == best(scores, 38, top)
    assert len(reply.item_ids) == 35


def test_filter_excluded_ids_and_seen_items_work_together(service):
    user_id = service.world.id(1)
    scores = service.oracle.retrieval_scores(service.oracle.user(user_id))
    condition = Filter(
        compound=Compound(
            type=pb.COMPOUND_TYPE_OR, filters=[year(pb.COMPARISON_TYPE_LT, 1), year(pb.COMPARISON_TYPE_EQ, 3)]
        )
    )
    passing = [n for n in range(1, 41) if n % 4 in (0, 3) and n != 5]
    out = [7, 8]
    request = pb.RetrieveRequest(
        recommender="both", user_id=user_id, top_k=10, filter=condition,
        exclude_item_ids=[service.world.id(n) for n in out],
    )  # fmt: skip
    eligible = {service.world.id(n) for n in passing if n not in (*out, 1, 2, 3, 4)}
    assert list(service.stub.Retrieve(request).item_ids) == best(
        scores, 10, [i for i in service.world.item_ids if i not in eligible]
    )


def test_a_narrow_filter_gives_all_that_pass_and_a_null_fails_it(service):
    narrow = Filter(
        comparison=Comparison(
            type=pb.COMPARISON_TYPE_IN, key="catalogue:title",
            value=pb.Value(string_list=pb.StringList(values=["title 5", "title 6"])),
        )
    )  # fmt: skip
    request = pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), top_k=10, filter=narrow)
    assert set(service.stub.Retrieve(request).item_ids) == {service.world.id(5), service.world.id(6)}
    both = [narrow, year(pb.COMPARISON_TYPE_GTE, 0)]
    request.filter.CopyFrom(Filter(compound=Compound(type=pb.COMPOUND_TYPE_AND, filters=both)))
    assert list(service.stub.Retrieve(request).item_ids) == [service.world.id(6)]


def test_a_filter_that_passes_none_gives_an_empty_list(service):
    request = pb.RetrieveRequest(
        recommender="plain", user_id=service.world.id(1), filter=year(pb.COMPARISON_TYPE_GT, 10**9)
    )
    reply = service.stub.Retrieve(request)
    assert not reply.item_ids
    assert not reply.scores
    assert reply.info.bundle_id == service.bundle_id


def test_an_unset_filter_passes_everything(service):
    request = pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), top_k=1000, filter=Filter())
    assert len(service.stub.Retrieve(request).item_ids) == 40


def test_an_operand_beyond_the_features_precision_still_compares(service):
    leaf = Comparison(type=pb.COMPARISON_TYPE_LT, key="catalogue:price", value=pb.Value(double_value=1e300))
    request = pb.RetrieveRequest(
        recommender="plain", user_id=service.world.id(1), top_k=1000, filter=Filter(comparison=leaf)
    )
    assert set(service.world.item_ids) - set(service.stub.Retrieve(request).item_ids) == {service.world.id(6)}


def test_context_values_count_over_the_store(service):
    user_id = service.world.id(1)
    history = [service.world.id(n) for n in (30, 31)]
    if service.world.text:
        wire = pb.Value(string_list=pb.StringList(values=history))
    else:
        wire = pb.Value(int64_list=pb.Int64List(values=[int(i) for i in history]))
    context = {"profile:age": pb.Value(int64_value=4), "hour": pb.Value(int64_value=3), "history:items": wire}
    row = service.oracle.user(user_id, hour=3)
    row |= {"profile:age": 4, "history:items": history if service.world.text else [int(i) for i in history]}
    scores = service.oracle.retrieval_scores(row)
    reply = service.stub.Retrieve(
        pb.RetrieveRequest(recommender="plain", user_id=user_id, top_k=40, context=context)
    )  # fmt: skip
    assert list(reply.item_ids) == best(scores, 40)
    assert list(reply.scores) == pytest.approx([scores[i] for i in reply.item_ids])


def test_seen_items_can_come_with_the_request(service):
    seen = [service.world.id(n) for n in range(1, 21)]
    if service.world.text:
        wire = pb.Value(string_list=pb.StringList(values=seen))
    else:
        wire = pb.Value(int64_list=pb.Int64List(values=[int(i) for i in seen]))
    request = pb.RetrieveRequest(
        recommender="both", user_id=service.world.id(5), top_k=40, context={"seen:items": wire}
    )
    assert set(service.stub.Retrieve(request).item_ids) == set(service.world.item_ids) - set(seen)


def test_a_null_value_takes_the_default(service):
    user_id = service.world.id(1)
    row = service.oracle.user(user_id) | {"profile:age": None, "history:items": None}
    scores = service.oracle.retrieval_scores(row)
    context = {"profile:age": pb.Value(), "history:items": pb.Value(), "hour": pb.Value()}
    reply = service.stub.Retrieve(
        pb.RetrieveRequest(recommender="plain", user_id=user_id, top_k=40, context=context)
    )  # fmt: skip
    assert list(reply.item_ids) == best(scores, 40)
