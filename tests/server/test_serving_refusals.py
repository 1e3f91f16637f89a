"""What a request can have wrong, and how the caller learns which field it was."""

from __future__ import annotations

import pytest
from support.serving import failure, serving
from support.serving_bundle import publish_bundle
from support.serving_world import build_world

from feast_recsys.v1 import recommender_service_pb2 as pb

LONG = "x" * 100_000


def leaf(**comparison) -> pb.Filter:
    return pb.Filter(comparison=pb.ComparisonFilter(**comparison))


def branch(kind, *filters) -> pb.Filter:
    return pb.Filter(compound=pb.CompoundFilter(type=kind, filters=filters))


def nested(depth: int) -> pb.Filter:
    condition = leaf(type=pb.COMPARISON_TYPE_EQ, key="catalogue:year", value=pb.Value(int64_value=1))
    for _ in range(depth):
        condition = branch(pb.COMPOUND_TYPE_NOT, condition)
    return condition


GOOD = leaf(type=pb.COMPARISON_TYPE_EQ, key="catalogue:year", value=pb.Value(int64_value=1))
EQ, IN, GT = pb.COMPARISON_TYPE_EQ, pb.COMPARISON_TYPE_IN, pb.COMPARISON_TYPE_GT
AND, NOT = pb.COMPOUND_TYPE_AND, pb.COMPOUND_TYPE_NOT

FILTERS = {
    "unknown feature": (
        branch(AND, GOOD, leaf(type=EQ, key="catalogue:colour", value=pb.Value(int64_value=1))),
        "filter.compound.filters[1].comparison.key",
        "catalogue:year",
    ),
    "user feature": (leaf(type=EQ, key="profile:age", value=pb.Value(int64_value=1)), "filter.comparison.key", "age"),
    "operand of another type": (
        branch(NOT, leaf(type=EQ, key="catalogue:year", value=pb.Value(string_value="1"))),
        "filter.compound.filters[0].comparison.value",
        "int64",
    ),
    "unknown feature of another view": (
        leaf(type=EQ, key="year", value=pb.Value(int64_value=1)),
        "filter.comparison.key",
        "did you mean 'catalogue:year'?",
    ),
    "null operand": (leaf(type=EQ, key="catalogue:year"), "filter.comparison.value", "the operand is unset"),
    "number as text": (
        leaf(type=EQ, key="catalogue:year", value=pb.Value(string_value="1")),
        "filter.comparison.value",
        "'1' (string_value); give a whole number (int64_value)",
    ),
    "list of another type": (
        leaf(type=IN, key="catalogue:year", value=pb.Value(string_list=pb.StringList(values=["1"]))),
        "filter.comparison.value.string_list.values[0]",
        "'1' (string_list); give a whole number (int64_list)",
    ),
    "NaN": (
        leaf(type=EQ, key="catalogue:price", value=pb.Value(double_value=float("nan"))),
        "filter.comparison.value",
        "finite",
    ),
    "list for EQ": (
        leaf(type=EQ, key="catalogue:year", value=pb.Value(int64_list=pb.Int64List(values=[1]))),
        "filter.comparison.value",
        "single",
    ),
    "scalar for IN": (
        leaf(type=IN, key="catalogue:year", value=pb.Value(int64_value=1)),
        "filter.comparison.value",
        "list",
    ),
    "order of a list": (
        leaf(type=GT, key="catalogue:genres", value=pb.Value(string_value="x")),
        "filter.comparison.type",
        "genres",
    ),
    "no comparison type": (leaf(key="catalogue:year"), "filter.comparison.type", "EQ"),
    "unheard-of comparison type": (leaf(type=77, key="catalogue:year"), "filter.comparison.type", "EQ"),
    "no compound type": (branch(0, GOOD), "filter.compound.type", "AND"),
    "empty AND": (branch(AND), "filter.compound.filters", "at least one"),
    "NOT of two": (branch(NOT, GOOD, GOOD), "filter.compound.filters", "exactly one"),
    "unset part": (branch(AND, GOOD, pb.Filter()), "filter.compound.filters[1]", "unset"),
    "too many parts": (branch(AND, *[GOOD] * 1000), "filter", "1000"),
    "huge operand": (
        leaf(type=EQ, key="catalogue:year", value=pb.Value(string_value=LONG)),
        "filter.comparison.value",
        "int64",
    ),
}


@pytest.mark.parametrize("case", FILTERS)
def test_a_wrong_filter_is_named_by_its_path(service, case):
    condition, path, says = FILTERS[case]
    for call, kind in (
        (service.stub.Retrieve, pb.RetrieveRequest),
        (service.stub.Recommend, pb.RecommendRequest),
    ):
        error = failure(call, kind(recommender="both", user_id=service.world.id(1), filter=condition))
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
        assert error.fields == (path,)
        assert error.message.startswith(path)
        assert says in error.message
        assert not error.retry


def test_a_filter_that_is_nested_too_deep_is_named_by_limit_and_place(service):
    condition = branch(AND, GOOD, nested(32))
    request = pb.RetrieveRequest(recommender="both", user_id=service.world.id(1), filter=condition)
    error = failure(service.stub.Retrieve, request)
    place = "filter.compound.filters[1]" + ".compound.filters[0]" * 31
    assert error.code == "INVALID_ARGUMENT"
    assert error.message.startswith(f"filters are nested more than 32 deep, the limit, at {place}")
    [path] = error.fields
    assert path.endswith(" ...")
    assert place.startswith(path.removesuffix(" ..."))


def test_a_filter_may_be_nested_as_deep_as_the_limit(service):
    request = pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), top_k=40, filter=nested(32))
    assert len(service.stub.Retrieve(request).item_ids) == 9


def length(data: bytes) -> bytes:
    """A varint."""
    return bytes([len(data) % 128 | 128, len(data) // 128])


def test_a_message_that_is_none_is_the_callers_fault(service):
    """Protobuf refuses what is nested more than 100 deep, before we see it."""
    deep = b""
    for _ in range(60):
        negation = b"\x08\x03\x12" + length(deep) + deep
        deep = b"\x12" + length(negation) + negation
    for garbage in (b"\x2a" + length(deep) + deep, b"\xff\xff"):
        send = service.channel.unary_unary("/feast_recsys.v1.RecommenderService/Retrieve")
        error = failure(send, garbage)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
        assert "can't be decoded" in error.message
        assert "more than 32 deep" in error.message


CONTEXT = {
    "unknown name": ("colour", pb.Value(int64_value=1), "profile:age"),
    "name without its view": ("age", pb.Value(int64_value=1), "did you mean 'profile:age'?"),
    "item feature": ("catalogue:year", pb.Value(int64_value=1), "no value of that name"),
    "the id": ("entity:user_id", pb.Value(int64_value=1), "no value of that name"),
    "text for a number": ("profile:age", pb.Value(string_value="7"), "not string_value; give int64_value"),
    "fraction for a whole number": ("profile:age", pb.Value(double_value=7.5), "not double_value; give int64_value"),
    "truth value for a number": ("hour", pb.Value(bool_value=True), "int64"),
    "number for text": ("profile:gender", pb.Value(int64_value=7), "string"),
    "list for a scalar": ("hour", pb.Value(int64_list=pb.Int64List(values=[1])), "single value"),
    "scalar for a list": ("history:items", pb.Value(int64_value=1), "list"),
    "list of another type": ("seen:items", pb.Value(double_list=pb.DoubleList(values=[1.0])), "not double_list"),
    "NaN": ("profile:spend", pb.Value(double_value=float("nan")), "finite"),
    "infinity": ("profile:spend", pb.Value(double_value=float("-inf")), "finite"),
    "beyond single precision": ("profile:spend", pb.Value(double_value=1e300), "single precision"),
    "a huge name": (LONG, pb.Value(int64_value=1), "xxx"),
}


@pytest.mark.parametrize("case", CONTEXT)
def test_a_wrong_context_value_is_named(service, case):
    name, wrong, says = CONTEXT[case]
    path = f"context[{name}]" if len(name) < 200 else f"context[{name}"[:200] + " ..."
    user_id = service.world.id(1)
    for call, request in (
        (service.stub.Retrieve, pb.RetrieveRequest(recommender="both", user_id=user_id, context={name: wrong})),
        (service.stub.Rank, pb.RankRequest(recommender="both", user_id=user_id, context={name: wrong})),
        (service.stub.Recommend, pb.RecommendRequest(recommender="both", user_id=user_id, context={name: wrong})),
    ):
        error = failure(call, request)
        assert error.code == "INVALID_ARGUMENT"
        assert error.fields == (path,)
        assert says in error.message


CANDIDATE = {
    "unknown name": ("colour", {"int64_values": pb.Int64List(values=[1, 2])}, "retrieval_score"),
    "user feature": ("profile:age", {"int64_values": pb.Int64List(values=[1, 2])}, "no value of that name"),
    "too few": ("retrieval_score", {"float_values": pb.FloatList(values=[1.0])}, "1 values for 2 item_ids"),
    "too many": ("discount", {"int64_values": pb.Int64List(values=[1, 2, 3])}, "3 values for 2 item_ids"),
    "text for a number": ("discount", {"string_values": pb.StringList(values=["1", "2"])}, "string"),
    "fractions for whole numbers": ("catalogue:year", {"float_values": pb.FloatList(values=[1.0, 2.0])}, "float"),
    "neither 0 nor 1": ("catalogue:adult", {"int64_values": pb.Int64List(values=[1, 2])}, "bool_values, or 0 and 1"),
    "a list feature": ("catalogue:genres", {"string_values": pb.StringList(values=["x", "y"])}, "list"),
    "NaN": ("retrieval_score", {"float_values": pb.FloatList(values=[1.0, float("nan")])}, "finite"),
    "infinity": ("retrieval_score", {"float_values": pb.FloatList(values=[float("inf"), 1.0])}, "finite"),
    "nothing": ("retrieval_score", {}, "no values"),
}


@pytest.mark.parametrize("case", CANDIDATE)
def test_a_wrong_candidate_feature_is_named(service, case):
    name, column, says = CANDIDATE[case]
    error = failure(
        service.stub.Rank,
        pb.RankRequest(
            recommender="both",
            user_id=service.world.id(1),
            item_ids=[service.world.id(1), service.world.id(2)],
            candidate_features={name: pb.FeatureColumn(**column)},
        ),
    )
    assert error.code == "INVALID_ARGUMENT"
    assert error.fields == (f"candidate_features[{name}]",)
    assert says in error.message


def test_numbers_and_sizes_have_limits(service):
    user_id = service.world.id(1)
    retrieve, rank, recommend = service.stub.Retrieve, service.stub.Rank, service.stub.Recommend
    many, pinned = ["1"] * 10_001, pb.Reranking(pinned_item_ids=["1"] * 1001)
    blocked = pb.Reranking(blocked_item_ids=many)
    for call, request, field, setting in (
        (retrieve, pb.RetrieveRequest(top_k=-1), "top_k", ""),
        (retrieve, pb.RetrieveRequest(top_k=1001), "top_k", "max_top_k"),
        (retrieve, pb.RetrieveRequest(exclude_item_ids=many), "exclude_item_ids", "max_exclusions"),
        (retrieve, pb.RetrieveRequest(seed_item_ids=["1"] * 2001), "seed_item_ids", "max_candidates"),
        (rank, pb.RankRequest(top_k=-1), "top_k", ""),
        (rank, pb.RankRequest(top_k=2001), "top_k", "max_candidates"),
        (rank, pb.RankRequest(item_ids=["1"] * 2001), "item_ids", "max_candidates"),
        (rank, pb.RankRequest(reranking=pinned), "reranking.pinned_item_ids", "max_top_k"),
        (recommend, pb.RecommendRequest(top_k=-1), "top_k", ""),
        (recommend, pb.RecommendRequest(top_k=1001), "top_k", "max_top_k"),
        (recommend, pb.RecommendRequest(candidate_count=-1), "candidate_count", ""),
        (recommend, pb.RecommendRequest(candidate_count=2001), "candidate_count", "max_candidates"),
        (recommend, pb.RecommendRequest(exclude_item_ids=many), "exclude_item_ids", "max_exclusions"),
        (recommend, pb.RecommendRequest(reranking=blocked), "reranking.blocked_item_ids", "max_exclusions"),
    ):
        request.recommender, request.user_id = "both", user_id
        error = failure(call, request)
        assert (error.code, error.fields) == ("INVALID_ARGUMENT", (field,))
        assert any(limit in error.message for limit in ("1000", "2000", "10000", "-1"))
        assert (f"(serving.{setting} in its settings)" in error.message) is bool(setting)


def test_the_limits_themselves_are_fine(service):
    user_id = service.world.id(1)
    service.stub.Retrieve(
        pb.RetrieveRequest(recommender="both", user_id=user_id, top_k=1000, exclude_item_ids=["1"] * 10_000)
    )
    reply = service.stub.Rank(
        pb.RankRequest(recommender="both", user_id=user_id, item_ids=[f"no{n}" for n in range(2000)])
    )
    assert len(reply.unknown_item_ids) == 2000


def test_a_user_must_be_given(service):
    for call, request in (
        (service.stub.Retrieve, pb.RetrieveRequest(recommender="both")),
        (service.stub.Rank, pb.RankRequest(recommender="both")),
        (service.stub.Recommend, pb.RecommendRequest(recommender="both")),
    ):
        error = failure(call, request)
        assert (error.code, error.fields) == ("INVALID_ARGUMENT", ("user_id",))
        assert "empty" in error.message


NO_PLAIN_INTEGERS = ["abc", "1.0", " 1", "1 ", "+1", "01", "-0", "٣", "9223372036854775808", "9" * 5000, LONG]


@pytest.mark.parametrize("user_id", NO_PLAIN_INTEGERS)
def test_a_user_id_must_fit_the_key(service, user_id):
    request = pb.RetrieveRequest(recommender="both", user_id=user_id)
    if service.world.text:
        assert service.stub.Retrieve(request).info.user_status == pb.USER_STATUS_UNKNOWN
        return
    error = failure(service.stub.Retrieve, request)
    assert (error.code, error.fields) == ("INVALID_ARGUMENT", ("user_id",))
    assert error.message.startswith("user_id '")
    assert error.message.count("user_id") == 1


@pytest.mark.parametrize("item_id", NO_PLAIN_INTEGERS)
def test_an_item_id_that_is_no_plain_integer_is_an_unknown_item(service, item_id):
    known = service.world.id(3)
    reply = service.stub.Rank(
        pb.RankRequest(recommender="both", user_id=service.world.id(1), item_ids=[item_id, known])
    )
    assert (list(reply.item_ids), list(reply.unknown_item_ids)) == ([known], [item_id])


def test_an_unknown_recommender_is_not_found_with_those_that_exist(service):
    for call, kind in ((service.stub.Retrieve, pb.RetrieveRequest), (service.stub.Rank, pb.RankRequest)):
        error = failure(call, kind(recommender="books", user_id=service.world.id(1)))
        assert (error.code, error.reason) == ("NOT_FOUND", "UNKNOWN_RECOMMENDER")
        assert error.metadata == {"recommenders": "both, plain"}
        assert "both, plain" in error.message


def test_an_empty_recommender_is_refused_where_there_are_several(service):
    error = failure(service.stub.Retrieve, pb.RetrieveRequest(user_id=service.world.id(1)))
    assert (error.code, error.fields) == ("INVALID_ARGUMENT", ("recommender",))
    assert error.metadata == {"recommenders": "both, plain"}


def test_an_empty_recommender_means_the_only_one(tmp_path):
    world = build_world(tmp_path, recommenders={"only": {"top_k": 3}})
    publish_bundle(world, names=["only"])
    with serving(world) as (_, stub):
        assert len(stub.Recommend(pb.RecommendRequest(user_id="1")).item_ids) == 3


def test_a_recommender_that_only_retrieves_ranks_nothing(service):
    for call, kind in ((service.stub.Rank, pb.RankRequest), (service.stub.Recommend, pb.RecommendRequest)):
        error = failure(call, kind(recommender="plain", user_id=service.world.id(1)))
        assert (error.code, error.fields) == ("INVALID_ARGUMENT", ("recommender",))
        assert "only retrieves" in error.message


def test_seen_items_can_only_be_excluded_where_the_settings_name_them(service):
    request = pb.RetrieveRequest(recommender="plain", user_id=service.world.id(1), exclude_seen=True)
    error = failure(service.stub.Retrieve, request)
    assert (error.code, error.fields) == ("INVALID_ARGUMENT", ("exclude_seen",))


def test_a_bundle_that_is_not_held_fails_with_the_current_one(service):
    for call, kind in (
        (service.stub.Retrieve, pb.RetrieveRequest),
        (service.stub.Rank, pb.RankRequest),
        (service.stub.Recommend, pb.RecommendRequest),
    ):
        error = failure(call, kind(recommender="both", user_id=service.world.id(1), bundle_id="20200101T000000Z-0"))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "BUNDLE_NOT_HELD")
        assert error.metadata == {"current_bundle_id": service.bundle_id}


def test_refusals_are_counted_by_code_without_the_callers_text(service):
    def count() -> float:
        labels = {"rpc": "Retrieve", "recommender": "", "code": "NOT_FOUND"}
        return service.server.metrics.registry.get_sample_value("feast_recsys_requests_total", labels) or 0.0

    before = count()
    failure(service.stub.Retrieve, pb.RetrieveRequest(recommender="made up", user_id=service.world.id(1)))
    assert count() == before + 1
