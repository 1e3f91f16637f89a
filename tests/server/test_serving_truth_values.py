"""Lists of truth values travel like other lists: in filters, in the context, and as a column of the candidates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from feast.types import Array, Bool
from support import graphs
from support.feast_repo import View, at, feast_repo
from support.serving import failure, serving
from support.serving_world import NOW, World, rows

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.filter_plan import evaluate
from feast_recsys.bundle.filters import parse_filter
from feast_recsys.bundle.index.vectors import save_vectors
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, inventory
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

DIMENSION = 4
ADULT = [True, False, None, True, False]
FLAGS = [[True], [False, True], [], None, [False]]
MOODS = [True, True, False]
USER_INPUTS = (Input("moods", "profile:moods", Side.USER, DType.BOOL, 4, False, False),)
ITEM_INPUTS = (Input("adult", "catalogue:adult", Side.ITEM, DType.BOOL, default=False),)
IDS = [str(n + 1) for n in range(len(ADULT))]
KINDS = {"eq": pb.COMPARISON_TYPE_EQ, "in": pb.COMPARISON_TYPE_IN, "nin": pb.COMPARISON_TYPE_NIN}


@dataclass(frozen=True)
class Place:
    world: World
    stub: RecommenderServiceStub
    vectors: np.ndarray

    def found(self, condition: pb.Filter) -> list[bool]:
        """Whether each item passes."""
        request = pb.RetrieveRequest(user_id="1", top_k=len(IDS), filter=condition)
        ids = set(self.stub.Retrieve(request).item_ids)
        return [item in ids for item in IDS]

    def scores(self, context: Mapping[str, pb.Value]) -> dict[str, float]:
        reply = self.stub.Retrieve(pb.RetrieveRequest(user_id="1", top_k=len(IDS), context=context))
        return dict(zip(reply.item_ids, reply.scores, strict=True))


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    address = request.getfixturevalue("redis_server") if request.param == "redis" else None
    views = [
        View("profile", "user", {"moods": Array(Bool)}, rows(False, "user_id", [1], moods=[MOODS])),
        View("catalogue", "item", {"adult": Bool}, rows(False, "item_id", [1], adult=[True])),
    ]
    repo = feast_repo(
        tmp_path_factory.mktemp("place"), views, redis=address, materialize_until=at(100).to_pydatetime(),
        settings={"recommenders": {"only": {"exclude_seen": False}},
                  "serving": {"address": "127.0.0.1:0", "poll_seconds": 0.02, "store_timeout_ms": 5000}},
    )  # fmt: skip
    world = World(repo, text=False)
    vectors = np.random.default_rng(0).integers(-3, 4, (len(IDS), DIMENSION)).astype(np.float32)
    publish_place(world, vectors)
    with serving(world) as (_, stub):
        yield Place(world, stub, vectors)


def publish_place(world: World, vectors: np.ndarray) -> None:
    staged = stage(world.bundles)
    retrieval = graphs.export(
        staged / "retrieval", "retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: USER_INPUTS, Role.ITEM_ENCODER: ITEM_INPUTS}, dimension=DIMENSION,
    )  # fmt: skip
    graphs.export(staged / "ranking", "ranking", Stage.RANKING, {Role.RANKER: (*USER_INPUTS, *ITEM_INPUTS)})
    (staged / "snapshot").mkdir()
    columns = {
        "catalogue:adult": Column.of(DType.BOOL, ADULT),
        "catalogue:flags": Column.of(DType.BOOL, FLAGS, is_list=True),
    }
    write_snapshot(staged / "snapshot", np.arange(1, len(IDS) + 1), columns)
    save_vectors(staged / "vectors.npy", vectors)
    entry = RecommenderEntry("retrieval", "vectors.npy", retrieval.graphs[Role.ITEM_ENCODER].sha256, "ranking")
    bundle_id = next_id(world.bundles, NOW, "0" * 64)
    manifest = Manifest(bundle_id, 0, "0" * 64, len(IDS), world.repo.store.project, {"only": entry}, inventory(staged))
    publish(world.bundles, staged, manifest, keep=2)


def truths(*values: bool) -> pb.Value:
    return pb.Value(bool_list=pb.BoolList(values=values))


@pytest.mark.parametrize("kind", ["in", "nin"])
@pytest.mark.parametrize("values", [[], [True], [False], [True, False]])
@pytest.mark.parametrize(("name", "have"), [("adult", ADULT), ("flags", FLAGS)])
def test_in_and_nin_of_truth_values_in_a_request_as_in_the_settings(place, kind, values, name, have):
    elements = [[] if value is None else value if name == "flags" else [value] for value in have]
    among = [any(e in values for e in row) for row in elements]
    expected = among if kind == "in" else [not one for one in among]
    key = f"catalogue:{name}"
    condition = pb.Filter(comparison=pb.ComparisonFilter(type=KINDS[kind], key=key, value=truths(*values)))
    assert place.found(condition) == expected
    [snapshot] = map(open_snapshot, place.world.bundles.glob("*/snapshot"))
    assert evaluate(parse_filter({"type": kind, "key": key, "value": values}), snapshot).tolist() == expected


@pytest.mark.parametrize("moods", [None, [], [True], [False], [True, True, True, True], [False, True]])
def test_a_list_of_truth_values_of_the_user_may_be_given(place, moods):
    given = {} if moods is None else {"profile:moods": truths(*moods)}
    row = {"profile:moods": MOODS if moods is None else moods}
    query = graphs.expected(USER_INPUTS, {}, row, DIMENSION)
    assert place.scores(given) == {item: float(v @ query) for item, v in zip(IDS, place.vectors, strict=True)}


def column(**kind: Any) -> dict[str, pb.FeatureColumn]:
    return {"catalogue:adult": pb.FeatureColumn(**kind)}


def test_truth_values_of_candidates_are_a_column(place):
    def ranked(features: dict[str, pb.FeatureColumn]) -> dict[str, float]:
        reply = place.stub.Rank(pb.RankRequest(user_id="1", item_ids=IDS, candidate_features=features))
        return dict(zip(reply.item_ids, reply.scores, strict=True))

    turned = [not value for value in ADULT]
    scores = ranked(column(bool_values=pb.BoolList(values=turned)))
    assert scores == ranked(column(int64_values=pb.Int64List(values=map(int, turned))))
    assert scores != ranked({})


def wrong(name: str, value: pb.Value, kind: str = "in") -> pb.RetrieveRequest:
    comparison = pb.ComparisonFilter(type=KINDS[kind], key=f"catalogue:{name}", value=value)
    return pb.RetrieveRequest(user_id="1", filter=pb.Filter(comparison=comparison))


OTHER = pb.Value(int64_list=pb.Int64List(values=[1]))


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (wrong("adult", OTHER), "filter.comparison.value.int64_list.values[0]", "true or false (bool_list)"),
        (wrong("flags", OTHER), "filter.comparison.value.int64_list.values[0]", "true or false (bool_list)"),
        (wrong("flags", pb.Value(bool_value=True)), "filter.comparison.value", "a list (bool_list)"),
        (wrong("flags", truths(True), "eq"), "filter.comparison.value", "a single value (bool_value)"),
        (pb.RetrieveRequest(user_id="1", context={"profile:moods": OTHER}), "context[profile:moods]", "give bool_list"),
        (
            pb.RetrieveRequest(user_id="1", context={"profile:moods": pb.Value(bool_value=True)}),
            "context[profile:moods]",
            "takes a list (bool_list)",
        ),
    ],
    ids=["scalar", "list", "single value for IN", "list for EQ", "context", "single value in the context"],
)
def test_the_error_of_another_kind_names_the_field_to_send(place, request_, field, words):
    error = failure(place.stub.Retrieve, request_)
    assert (error.code, error.fields) == ("INVALID_ARGUMENT", (field,))
    assert error.message.startswith(f"{field}: ")
    assert words in error.message


def test_a_column_of_truth_values_is_no_column_of_another_type(place):
    texts = column(string_values=pb.StringList(values=["x"] * len(IDS)))
    error = failure(place.stub.Rank, pb.RankRequest(user_id="1", item_ids=IDS, candidate_features=texts))
    assert error.fields == ("candidate_features[catalogue:adult]",)
    assert "not string_values; give bool_values" in error.message
