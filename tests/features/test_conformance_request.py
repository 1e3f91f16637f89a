"""On-demand views that take values from the request: Feast's own answer, on SQLite, Redis and its feature server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import uvicorn
import yaml
from feast import FeatureService, Field, OnDemandFeatureView, RequestSource
from feast.feature_server import get_app
from feast.types import Array, Bool, Bytes, Float64, Int64, String
from support.conformance_world import conformance_world
from support.feast_repo import View, at, feast_repo
from support.oracle import assert_as_feast, assert_same

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import RequestField, compile_plan, compile_service_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.schema import feature_schema, service_schemas
from feast_recsys.features.user_reader import user_reader
from feast_recsys.features.views import ValueKind

# Feast says so at every apply of an on-demand view, in its own code.
pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")

BASKET = [
    Field(name="size", dtype=Int64),
    Field(name="discount", dtype=Float64),
    Field(name="words", dtype=Array(String)),
]
REQUEST = {"size": [3, 4, None], "discount": [0.5, 1, 2.5], "words": [["a", "b"], [], ["c"]]}


def times_basket(inputs: dict[str, Any]) -> dict[str, Any]:
    sizes = [0 if size is None else size for size in inputs["size"]]
    return {
        "product": [size * (clicks or 0) for size, clicks in zip(sizes, inputs["clicks"], strict=True)],
        "joined": ["-".join(words or []) for words in inputs["words"]],
    }


def discounted(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"price": inputs["discount"] * inputs["clicks"].fillna(0)})


def opened(folder: Path, redis: str | None) -> Repo:
    rows = pd.DataFrame({"user_id": [1, 2], "event_timestamp": [at(0), at(5)], "clicks": [10, 20]})
    views = [View("recent", "user", {"clicks": Int64}, rows)]
    repo = feast_repo(folder, views, redis=redis, materialize_until=at(100).to_pydatetime())
    recent, basket = repo.store.get_feature_view("recent"), RequestSource(name="basket", schema=BASKET)
    by_python = OnDemandFeatureView(
        name="by_python",
        sources=[recent, basket],
        schema=[Field(name="product", dtype=Int64), Field(name="joined", dtype=String)],
        udf=times_basket,
        udf_string="times_basket",
        mode="python",
    )
    by_pandas = OnDemandFeatureView(
        name="by_pandas",
        sources=[recent, RequestSource(name="sale", schema=BASKET[1:2])],
        schema=[Field(name="price", dtype=Float64)],
        udf=discounted,
        udf_string="discounted",
        mode="pandas",
    )
    repo.store.apply([by_python, by_pandas])
    repo.store.apply(
        [
            FeatureService(name="sale", features=[by_pandas, recent]),
            FeatureService(name="renamed", features=[recent.with_name("mine"), by_pandas.with_name("cheap")]),
        ]
    )
    return repo


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    return opened(tmp_path_factory.mktemp("request"), None)


ALL = ["by_python:product", "recent:clicks", "by_pandas:price", "by_python:joined"]


def test_values_of_the_request_reach_on_demand_views(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none)
    columns = OnlineReader(repo, compile_plan(repo, ALL, Side.USER)).read([2, 1, 77], REQUEST)
    assert list(columns) == ALL
    assert columns["by_python:product"].to_list() == [60, 40, 0]
    assert columns["by_python:joined"].to_list() == ["a-b", "", "c"]
    assert columns["by_pandas:price"].to_list() == [10.0, 10.0, 0.0]
    assert columns["recent:clicks"].to_list() == [20, 10, None]


def test_equal_users_with_different_requests_stay_apart(repo: Repo) -> None:
    reader = OnlineReader(repo, compile_plan(repo, ["by_pandas:price", "recent:clicks"], Side.USER))
    columns = reader.read([1, 1, 1], {"discount": [1.0, 2.0, 3.0]})
    assert columns["by_pandas:price"].to_list() == [10.0, 20.0, 30.0]
    assert columns["recent:clicks"].to_list() == [10, 10, 10]


def test_as_feast_answers_for_the_service(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none)
    plan = compile_service_plan(repo, "sale")
    rows = {"user_id": [2, 1, 1]}
    columns = OnlineReader(repo, plan).read(rows, {"discount": [0.1, 0.2, 0.3]})
    service = repo.store.get_feature_service("sale")
    stored = {reference: column for reference, column in columns.items() if reference == "recent:clicks"}
    assert_as_feast(repo, service, rows | {"discount": [0.1, 0.2, 0.3]}, stored)
    response = repo.store.get_online_features(service, rows | {"discount": [0.1, 0.2, 0.3]}, full_feature_names=True)
    prices = np.array(response.to_dict()["by_pandas__price"], np.float32)
    np.testing.assert_array_equal(columns["by_pandas:price"].values, prices)


def test_an_alias_of_an_on_demand_view(repo: Repo) -> None:
    plan = compile_service_plan(repo, "renamed")
    assert plan.references == ("mine:clicks", "cheap:price")
    assert [schema.reference for schema in service_schemas(repo, "renamed")] == list(plan.references)
    columns = OnlineReader(repo, plan).read([1], {"discount": [0.25]})
    assert columns["cheap:price"].to_list() == [2.5]
    assert columns["mine:clicks"].to_list() == [10]


def test_a_plan_tells_what_it_needs_of_the_request(repo: Repo) -> None:
    fields = compile_plan(repo, ALL, Side.USER).request_fields
    assert fields == {
        "size": RequestField("size", ValueKind(DType.INT64, False, "int64_val"), "by_python"),
        "discount": RequestField("discount", ValueKind(DType.FLOAT32, False, "double_val"), "by_python"),
        "words": RequestField("words", ValueKind(DType.STRING, True, "string_list_val"), "by_python"),
    }
    assert not compile_plan(repo, ["recent:clicks"], Side.USER).request_fields
    assert feature_schema(repo, "by_python:product").join_keys == ("user_id",)


def test_such_a_plan_has_no_reader_for_the_request_thread(repo: Repo) -> None:
    assert user_reader(repo, compile_plan(repo, ALL, Side.USER)) is None
    assert user_reader(repo, compile_plan(repo, ["recent:clicks"], Side.USER)) is not None


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"size": None}, "size", "'size'.*'by_python' needs, is missing"),
        ({"discount": [0.5]}, "discount", "'discount'.*1 values for 3 rows"),
        ({"size": [1, "2", 3]}, "size", "'size'.*must be int64, not '2'"),
        ({"size": [1, True, 3]}, "size", "'size'.*must be int64, not True"),
        ({"discount": [1, "x", 3]}, "discount", "'discount'.*must be float32"),
        ({"words": ["ab", [], []]}, "words", "'words'.*must be a list of string"),
        ({"words": [["a", 1], [], []]}, "words", "'words'.*must be string, not 1"),
        ({"words": [[], [], []]}, "words", "'words'.*empty list"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(repo: Repo, change: dict[str, Any], field: str, message: str) -> None:
    reader = OnlineReader(repo, compile_plan(repo, ALL, Side.USER))
    request = {name: values for name, values in (REQUEST | change).items() if values is not None}
    with pytest.raises(InvalidArgument, match=message) as caught:
        reader.read([2, 1, 77], request)
    assert caught.value.field == field


def test_numbers_of_numpy_are_numbers(repo: Repo) -> None:
    reader = OnlineReader(repo, compile_plan(repo, ["by_python:product", "by_pandas:price"], Side.USER))
    request = {"size": np.array([2]), "discount": np.array([1], np.float32), "words": [np.array(["a"], object)]}
    columns = reader.read([1], request)
    assert columns["by_python:product"].to_list() == [20]
    assert columns["by_pandas:price"].to_list() == [10.0]


def halved(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"price": inputs["clicks"].fillna(0) * 0.5})


def add_on_demand(repo: Repo, name: str, source: str, fields: list[Field]) -> None:
    view = OnDemandFeatureView(
        name=name,
        sources=[repo.store.get_feature_view(source), RequestSource(name=f"{name}_request", schema=fields)],
        schema=[Field(name="price", dtype=Float64)],
        udf=halved,
        udf_string="halved",
        mode="pandas",
    )
    repo.store.apply([view])


def test_a_field_of_two_types_is_refused(tmp_path: Path) -> None:
    repo = opened(tmp_path, None)
    add_on_demand(repo, "other", "recent", [Field(name="discount", dtype=Bool)])
    with pytest.raises(InvalidRepository, match=r"'by_pandas' and 'other' take 'discount'"):
        compile_plan(repo, ["by_pandas:price", "other:price"], Side.USER)


def test_a_field_of_a_type_that_no_caller_can_give_is_refused(tmp_path: Path) -> None:
    repo = opened(tmp_path, None)
    add_on_demand(repo, "other", "recent", [Field(name="discount", dtype=Bytes)])
    with pytest.raises(InvalidRepository, match=r"'other' takes 'discount' of type BYTES"):
        compile_plan(repo, ["other:price"], Side.USER)


def test_items_have_no_request(tmp_path: Path) -> None:
    rows = pd.DataFrame({"item_id": [1], "event_timestamp": [at(0)], "clicks": [10]})
    repo = feast_repo(tmp_path, [View("sold", "item", {"clicks": Int64}, rows)])
    add_on_demand(repo, "other", "sold", [Field(name="discount", dtype=Float64)])
    with pytest.raises(InvalidRepository, match=r"'other' needs request data \('discount'\), which items don't have"):
        compile_plan(repo, ["other:price"], Side.ITEM)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Repo]:
    """The repository of a fixture's caller behind Feast's own feature server, on demand."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        opened(tmp_path, None)
        server = uvicorn.Server(uvicorn.Config(get_app(open_repo(tmp_path).store), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield far(tmp_path, listener)
        server.should_exit = True
        thread.join()


def far(folder: Path, listener: socket.socket) -> Repo:
    configuration = yaml.safe_load((folder / "feature_store.yaml").read_text())
    configuration["online_store"] = {"type": "remote", "path": f"http://127.0.0.1:{listener.getsockname()[1]}"}
    (folder / "remote.yaml").write_text(yaml.safe_dump(configuration))
    return open_repo(folder, folder / "remote.yaml")


def test_feasts_feature_server_takes_the_request_too(remote: Repo, tmp_path: Path) -> None:
    near = open_repo(tmp_path)
    request = {"size": [3, 4], "discount": [0.5, 1.5], "words": [["a", "b"], ["c"]]}
    here, there = (
        OnlineReader(repo, compile_plan(repo, ALL, Side.USER)).read([2, 1], request) for repo in (near, remote)
    )
    for reference in ALL:
        assert there[reference].to_list() == here[reference].to_list(), reference
        assert there[reference].dtype is here[reference].dtype


@pytest.fixture
def remote_world(tmp_path: Path) -> Iterator[tuple[Repo, Repo]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        near = conformance_world(tmp_path, None)
        server = uvicorn.Server(uvicorn.Config(get_app(open_repo(tmp_path).store), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield near, far(tmp_path, listener)
        server.should_exit = True
        thread.join()


def test_feasts_feature_server_answers_for_aliases_and_composite_keys(remote_world: tuple[Repo, Repo]) -> None:
    near, remote = remote_world
    # Feast's client of its feature server fails on an empty list.
    rows = {"user_id": [1, 5, 1], "friend_id": [-9, -9, 1], "place": ["north", "", "north"]}
    references = ["own:int64", "friend:int64", "friend:strings", "there:times", "there:bought", "total:words"]
    here, there = (
        OnlineReader(repo, compile_plan(repo, references, Side.USER, "aliased")).read(rows) for repo in (near, remote)
    )
    assert here["friend:int64"].to_list() == [2**52, 2**52, 7]
    assert here["there:times"].to_list() == [11, None, 11]
    assert here["total:words"].to_list() == [["x", "y"]] * 3
    for reference in references:
        assert there[reference].to_list() == here[reference].to_list(), reference


def test_the_envelope_and_the_direct_read_agree(tmp_path: Path) -> None:
    """Aliases, composite keys and an entityless view, by Feast's envelope and without it."""
    near = conformance_world(tmp_path, None)
    other = tmp_path / "envelope.yaml"
    text = (tmp_path / "feature_store.yaml").read_text()
    other.write_text(text.replace("type: sqlite", "type: support.envelope_store.EnvelopeSqliteOnlineStore"))
    through = open_repo(tmp_path, other)
    names = {"user_id": [1, 5, 1], "friend_id": [2, 2, 1], "rival_id": [-9, 4, 3]}
    rows = names | {"place": ["north", "", "north"], "shop_id": ["", "north", "x"]}
    for service in ("aliased", "everything"):
        plans = [compile_service_plan(repo, service) for repo in (near, through)]
        assert [{view.table is None for view in plan.views} for plan in plans] == [{False}, {True}]
        here, there = (OnlineReader(repo, plan).read(rows) for repo, plan in zip((near, through), plans, strict=True))
        fresh = [reference for reference in here if reference != "expired:age"]
        assert_same({r: here[r] for r in fresh}, {r: there[r] for r in fresh})
