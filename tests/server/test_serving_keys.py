"""What a request must bring besides the user's id: keys of further entities, and what on-demand views take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, Field, OnDemandFeatureView, RequestSource, ValueType
from feast.types import Float32, Int64
from support import graphs
from support.feast_repo import View, at, feast_repo
from support.serving import Failure, failure, serving
from support.serving_world import NOW, World

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.index.vectors import save_vectors
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, inventory
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.bundle.snapshot import write_snapshot
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")

DIMENSION, ITEMS = 4, 6
USER_INPUTS = (
    Input("age", "profile:age", Side.USER, DType.INT64),
    Input("rain", "city:rain", Side.USER, DType.INT64),
    Input("visits", "visits:count", Side.USER, DType.INT64),
    Input("scaled", "scaled:value", Side.USER, DType.INT64),
)
RANKER_INPUTS = (
    USER_INPUTS[0],
    USER_INPUTS[2],
    Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32),
)


def scale(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(inputs["age"], inputs["factor"], strict=True)
    return {"value": [(age or 0) * (factor or 0) for age, factor in pairs]}


def frame(**columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"event_timestamp": [at(0)] * n, **columns})


@dataclass(frozen=True)
class Shop:
    world: World
    stub: RecommenderServiceStub
    vectors: np.ndarray

    def scores(self, request: Mapping[str, int], factor: int) -> dict[str, float]:
        """Inner products from Feast's own answer."""
        references = [i.feature for i in USER_INPUTS]
        row = {**request, "factor": factor}
        # Python-mode views answer to short names only, so each is asked alone.
        answers = {
            r: self.world.repo.store.get_online_features([r], [row]).to_dict()[r.partition(":")[2]][0]
            for r in references
        }
        query = graphs.expected(USER_INPUTS, {}, answers, DIMENSION)
        return {str(n + 1): float(v @ query) for n, v in enumerate(self.vectors)}


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    address = request.getfixturevalue("redis_server") if request.param == "redis" else None
    views = [
        View("profile", "user", {"age": Int64}, frame(user_id=[1, 2], age=[3, 5])),
        View("city", "city", {"rain": Int64}, frame(city_id=[7, 8], rain=[2, -1])),
        View("visits", ("user", "city"), {"count": Int64}, frame(user_id=[1, 1], city_id=[7, 8], count=[4, 9])),
        View("catalogue", "item", {"price": Float32}, frame(item_id=[1], price=[0.5])),
    ]
    city = Entity(name="city", join_keys=["city_id"], value_type=ValueType.INT64)
    repo = feast_repo(
        folder,
        views,
        further=[city],
        redis=address,
        settings={
            "recommenders": {"shop": {"exclude_seen": False}},
            "serving": {"address": "127.0.0.1:0", "poll_seconds": 0.02, "store_timeout_ms": 5000},
        },
        materialize_until=at(100).to_pydatetime(),
    )
    factor = RequestSource(name="basket", schema=[Field(name="factor", dtype=Int64)])
    derived = OnDemandFeatureView(
        name="scaled", sources=[repo.store.get_feature_view("profile"), factor],
        schema=[Field(name="value", dtype=Int64)], udf=scale, udf_string="scale", mode="python",
    )  # fmt: skip
    repo.store.apply([derived])
    world = World(repo, text=False)
    vectors = np.random.default_rng(0).integers(-3, 4, (ITEMS, DIMENSION)).astype(np.float32)
    publish_shop(world, vectors)
    with serving(world) as (_, stub):
        yield Shop(world, stub, vectors)


def publish_shop(world: World, vectors: np.ndarray) -> None:
    staged = stage(world.bundles)
    retrieval = graphs.export(
        staged / "retrieval", "retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: USER_INPUTS, Role.ITEM_ENCODER: RANKER_INPUTS[-1:]}, dimension=DIMENSION,
    )  # fmt: skip
    graphs.export(staged / "ranking", "ranking", Stage.RANKING, {Role.RANKER: RANKER_INPUTS})
    (staged / "snapshot").mkdir()
    prices = Column.of(DType.FLOAT32, [n / 8 for n in range(ITEMS)])
    write_snapshot(staged / "snapshot", np.arange(1, ITEMS + 1), {"catalogue:price": prices})
    save_vectors(staged / "vectors.npy", vectors)
    made_by = retrieval.graphs[Role.ITEM_ENCODER].sha256
    entry = RecommenderEntry("retrieval", "vectors.npy", made_by, "ranking")
    bundle_id = next_id(world.bundles, NOW, "0" * 64)
    manifest = Manifest(bundle_id, 0, "0" * 64, ITEMS, world.repo.store.project, {"shop": entry}, inventory(staged))
    publish(world.bundles, staged, manifest, keep=2)


def retrieve(user: str = "1", city: str | None = "7", factor: int | None = 2, **more: str) -> pb.RetrieveRequest:
    keys = {**({"city_id": city} if city is not None else {}), **more}
    request = pb.RetrieveRequest(user_id=user, top_k=ITEMS, entity_keys=keys)
    if factor is not None:
        request.context["factor"].int64_value = factor
    return request


@pytest.mark.parametrize(("user", "city", "factor"), [(1, 7, 2), (1, 8, -3), (2, 7, 1), (1, 99, 4), (99, 8, 5)])
def test_every_view_is_read_by_its_own_keys(shop, user, city, factor):
    reply = shop.stub.Retrieve(retrieve(str(user), str(city), factor))
    wanted = shop.scores({"user_id": user, "city_id": city}, factor)
    assert list(reply.scores) == sorted(wanted.values(), reverse=True)
    assert dict(zip(reply.item_ids, reply.scores, strict=True)) == wanted
    # The city is known, but a user is known by what is kept of the user.
    assert reply.info.user_status == (pb.USER_STATUS_UNKNOWN if user == 99 else pb.USER_STATUS_KNOWN)


def test_rank_and_recommend_take_the_same_keys(shop):
    rank = pb.RankRequest(user_id="1", item_ids=["1", "2", "3"], entity_keys={"city_id": "7"})
    other = pb.RankRequest(user_id="1", item_ids=["1", "2", "3"], entity_keys={"city_id": "8"})
    assert list(shop.stub.Rank(rank).scores) != list(shop.stub.Rank(other).scores)
    recommend = pb.RecommendRequest(user_id="1", entity_keys={"city_id": "7"})
    recommend.context["factor"].int64_value = 2
    assert len(shop.stub.Recommend(recommend).item_ids) == ITEMS


def bad(error: Failure) -> tuple[str, tuple[str, ...]]:
    return error.code, error.fields


@pytest.mark.parametrize(
    ("request_", "field", "words"),
    [
        (retrieve(city=None), "entity_keys[city_id]", "give the id of a city"),
        (retrieve(city="x"), "entity_keys[city_id]", "not a whole number"),
        (retrieve(shop_id="1"), "entity_keys[shop_id]", "there are: city_id"),
        (retrieve(user_id="1"), "entity_keys[user_id]", "there are: city_id"),
        (retrieve(factor=None), "context[factor]", "'scaled' needs, is missing"),
    ],
    ids=["missing", "no number", "unknown", "the user's own", "request value missing"],
)
def test_what_is_missing_or_wrong_is_named(shop, request_, field, words):
    error = failure(shop.stub.Retrieve, request_)
    assert bad(error) == ("INVALID_ARGUMENT", (field,))
    assert words in error.message


def test_a_request_value_of_another_type_is_refused(shop):
    request = retrieve(factor=None)
    request.context["factor"].string_value = "two"
    error = failure(shop.stub.Retrieve, request)
    assert bad(error) == ("INVALID_ARGUMENT", ("context[factor]",))


def test_keys_of_an_alias(tmp_path: Path):
    """A feature service that renames a view and its join key is served under these names."""
    views = [
        View("profile", "user", {"age": Int64}, frame(user_id=[1, 2], age=[3, 5])),
        View("catalogue", "item", {"price": Float32}, frame(item_id=[1], price=[0.5])),
    ]
    repo = feast_repo(
        tmp_path, views, materialize_until=at(100).to_pydatetime(),
        settings={"recommenders": {"shop": {"exclude_seen": False}},
                  "serving": {"address": "127.0.0.1:0", "poll_seconds": 0.02}},
    )  # fmt: skip
    from feast import FeatureService

    profile = repo.store.get_feature_view("profile")
    friend = profile.with_name("friend").with_join_key_map({"user_id": "friend_id"})
    repo.store.apply([FeatureService(name="pair", features=[profile.with_name("self"), friend])])
    inputs = (
        Input("own", "self:age", Side.USER, DType.INT64),
        Input("other", "friend:age", Side.USER, DType.INT64),
    )
    world = World(repo, text=False)
    vectors = np.eye(ITEMS, DIMENSION, dtype=np.float32)
    staged = stage(world.bundles)
    services = {Role.QUERY_ENCODER: "pair"}
    retrieval = graphs.export(
        staged / "retrieval", "retrieval", Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: inputs, Role.ITEM_ENCODER: RANKER_INPUTS[-1:]},
        dimension=DIMENSION, feature_services=services,
    )  # fmt: skip
    (staged / "snapshot").mkdir()
    prices = Column.of(DType.FLOAT32, [0.0] * ITEMS)
    write_snapshot(staged / "snapshot", np.arange(1, ITEMS + 1), {"catalogue:price": prices})
    save_vectors(staged / "vectors.npy", vectors)
    entry = RecommenderEntry("retrieval", "vectors.npy", retrieval.graphs[Role.ITEM_ENCODER].sha256)
    manifest = Manifest(
        next_id(world.bundles, NOW, "1" * 64),
        0,
        "1" * 64,
        ITEMS,
        repo.store.project,
        {"shop": entry},
        inventory(staged),
    )
    publish(world.bundles, staged, manifest, keep=2)
    query = graphs.expected(inputs, {}, {"self:age": 3, "friend:age": 5}, DIMENSION)
    with serving(world) as (_, stub):
        reply = stub.Retrieve(pb.RetrieveRequest(user_id="1", top_k=ITEMS, entity_keys={"friend_id": "2"}))
        assert failure(stub.Retrieve, pb.RetrieveRequest(user_id="1")).fields == ("entity_keys[friend_id]",)
    scores = dict(zip(reply.item_ids, reply.scores, strict=True))
    assert [scores[str(n + 1)] for n in range(DIMENSION)] == query.tolist()
