"""Bundles that are whole, but don't fit the repository, and models that can't answer."""

from __future__ import annotations

import logging

import onnx
import pytest
from support.serving import counted, failure, not_yet_ready, serving, wait_for
from support.serving_bundle import alter_signature, publish_bundle, save_ranker
from support.serving_world import build_world, ranker_inputs

from feast_recsys.bundle.signature import Role
from feast_recsys.v1 import recommender_service_pb2 as pb

RETRIEVE = pb.RetrieveRequest(recommender="plain", user_id="1", top_k=40)


@pytest.fixture
def sqlite_world(tmp_path):
    return build_world(tmp_path)


def current(stub) -> str:
    return stub.Retrieve(RETRIEVE).info.bundle_id


QUERY, RANKER = Role.QUERY_ENCODER, Role.RANKER
MISFITS = {
    "no such view": (alter_signature("retrieval", QUERY, "age", feature="account:age"), "account"),
    "no such feature": (alter_signature("retrieval", QUERY, "age", feature="profile:height"), "height"),
    "another type": (alter_signature("retrieval", QUERY, "age", feature="profile:gender"), "profile:gender is string"),
    "a list": (alter_signature("retrieval", QUERY, "age", feature="history:items"), "history:items is a list"),
    "an item's feature": (alter_signature("retrieval", QUERY, "age", feature="catalogue:year"), "catalogue:year"),
    "another's id": (alter_signature("ranking", RANKER, "user", feature="entity:item_id"), "join key is user_id"),
    "stored context": (alter_signature("ranking", RANKER, "hour", feature="profile:age"), "request:<name>"),
    "not in the snapshot": (alter_signature("ranking", RANKER, "year", feature="catalogue:decade"), "catalogue:decade"),
    "another item type": (alter_signature("ranking", RANKER, "year", feature="catalogue:title"), "catalogue:title"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_bundle_that_does_not_fit_the_repository_is_refused_by_the_name_of_the_feature(tmp_path, caplog, case):
    change, says = MISFITS[case]
    refused(build_world(tmp_path), caplog, says, change=change)


def refused(world, caplog, says: str, **bundle) -> None:
    good = publish_bundle(world, seed=1)
    with serving(world) as (server, stub), caplog.at_level(logging.ERROR):
        publish_bundle(world, seed=2, **bundle)
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
        assert says in caplog.records[0].getMessage()
        assert current(stub) == good


def ranker(text: str, *, inputs=None):
    """A change that puts another ranker into a bundle, in ONNX's own notation; `age` is [1], `price` is [N]."""
    wanted = inputs or ("age", "price")

    def change(staged) -> None:
        specs = [i for i in ranker_inputs(text=False) if i.name in wanted]
        model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 18]> {text}')
        save_ranker(staged / "models/ranking", specs, model)

    return change


WRONG_SHAPE = """g (int64[B] age, float[N] price) => (float[N, 1] output) {
    years = Cast <to = 1> (age)
    sum = Add (years, price)
    axis = Constant <value_ints = [1]> ()
    output = Unsqueeze (sum, axis)
}"""
ALWAYS_NAN = """g (int64[B] age, float[N] price) => (float[N] output) {
    years = Cast <to = 1> (age)
    sum = Add (years, price)
    less = Neg (sum)
    output = Sqrt (less)
}"""
FAILS = """g (int64[B] age, float[N] price) => (float[N] output) {
    years = Cast <to = 1> (age)
    pairs = Constant <value_ints = [2, -1]> ()
    halves = Reshape (price, pairs)
    sum = Add (halves, years)
    all = Constant <value_ints = [-1]> ()
    output = Reshape (sum, all)
}"""
NAN_BELOW_ZERO = """g (int64[B] age, float[N] price) => (float[N] output) {
    years = Cast <to = 1> (age)
    root = Sqrt (price)
    output = Add (root, years)
}"""


@pytest.mark.parametrize(
    ("graph", "says"), [(WRONG_SHAPE, "demands float32 [1]"), (ALWAYS_NAN, "NaN"), (FAILS, "fails on the defaults")]
)
def test_a_ranker_that_can_never_answer_is_refused_before_any_request(sqlite_world, caplog, graph, says):
    refused(sqlite_world, caplog, says, change=ranker(graph))


def test_nan_never_leaves_the_server(sqlite_world, caplog):
    bundle_id = publish_bundle(sqlite_world, change=ranker(NAN_BELOW_ZERO))
    request = pb.RankRequest(recommender="both", user_id="1", item_ids=["3", "4"])
    with serving(sqlite_world) as (_, stub):
        assert list(stub.Rank(request).item_ids) == ["4", "3"]
        request.candidate_features["catalogue:price"].float_values.values.extend([-1.0, 1.0])
        error = failure(stub.Rank, request)
        assert (error.code, error.reason) == ("INTERNAL", "INTERNAL")
        assert "NaN" in error.message
    [record] = [r for r in caplog.records if "gave NaN" in r.getMessage()]
    assert bundle_id in record.getMessage()


def test_a_required_input_without_a_value_is_named(sqlite_world):
    change = alter_signature("ranking", RANKER, "spend", required=True)
    publish_bundle(sqlite_world, change=change)
    with serving(sqlite_world) as (_, stub):
        request = pb.RankRequest(recommender="both", user_id="1", item_ids=["3"])
        assert list(stub.Rank(request).item_ids) == ["3"]
        request.user_id = "3"
        error = failure(stub.Rank, request)
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "MISSING_FEATURE")
        assert "profile:spend" in error.message
        request.context["profile:spend"].double_value = 1.0
        assert list(stub.Rank(request).item_ids) == ["3"]


def test_a_bundle_of_another_project_is_refused(sqlite_world, caplog):
    refused(sqlite_world, caplog, "'elsewhere'", project="elsewhere")


def test_a_bundle_without_any_of_the_recommenders_is_refused(sqlite_world, caplog):
    refused(sqlite_world, caplog, "books", names=["books"])


def test_a_recommender_that_the_bundle_lacks_is_not_found_and_the_others_are_served(sqlite_world):
    publish_bundle(sqlite_world, names=["plain"])
    with serving(sqlite_world) as (_, stub):
        assert current(stub)
        error = failure(stub.Rank, pb.RankRequest(recommender="both", user_id="1"))
        assert (error.code, error.metadata) == ("NOT_FOUND", {"recommenders": "plain"})


def test_seen_features_must_hold_item_ids(tmp_path, caplog):
    world = build_world(tmp_path, recommenders={"both": {"seen": ["profile:gender"]}})
    publish_bundle(world)
    with caplog.at_level(logging.ERROR), not_yet_ready(world) as server:
        wait_for(lambda: counted(server, "bundle_failures_total") >= 1, "the refusal")
    assert "profile:gender must be a list of item ids" in caplog.records[0].getMessage()


def test_an_empty_catalogue_is_served(sqlite_world):
    publish_bundle(sqlite_world, numbers=[])
    with serving(sqlite_world) as (_, stub):
        assert not stub.Retrieve(RETRIEVE).item_ids
        assert not stub.Recommend(pb.RecommendRequest(recommender="both", user_id="1")).item_ids
        rank = stub.Rank(pb.RankRequest(recommender="both", user_id="1", item_ids=["1"]))
        assert list(rank.unknown_item_ids) == ["1"]
