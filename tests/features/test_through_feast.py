"""Where `online_read` can't be used, Feast's own envelope gives the same columns."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import uvicorn
import yaml
from feast import Field, OnDemandFeatureView, RequestSource
from feast.feature_server import get_app
from feast.types import Array, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from support.feast_repo import View, at, feast_repo
from support.feature_types import EVERY_TYPE, MOMENT

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository, OnlineStoreUnavailable
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.schema import feature_schema
from feast_recsys.features.training import point_in_time

# Feast says so at every apply of an on-demand view, in its own code.
pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")


def double(inputs: dict[str, Any]) -> dict[str, Any]:
    clicks = [0 if c is None else c for c in inputs["clicks"]]
    return {"twice": [2 * c for c in clicks], "copies": [[c, c] for c in clicks]}


def clicks_view() -> View:
    rows = pd.DataFrame({"user_id": [1, 2], "event_timestamp": [at(0), at(5)], "clicks": [10, 20], "name": ["a", None]})
    return View("recent", "user", {"clicks": Int64, "name": String}, rows)


def triple(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"thrice": 3 * inputs["clicks"]})


def with_on_demand(folder: Path, redis: str | None, *, request: bool = False) -> Repo:
    repo = feast_repo(folder, [clicks_view()], redis=redis, materialize_until=at(100).to_pydatetime())
    sources: list[Any] = [repo.store.get_feature_view("recent")]
    if request:
        sources.append(RequestSource(name="basket", schema=[Field(name="size", dtype=Int64)]))
    view = OnDemandFeatureView(
        name="derived",
        sources=sources,
        schema=[Field(name="twice", dtype=Int64), Field(name="copies", dtype=Array(Int64))],
        udf=double,
        udf_string="double",
        mode="python",
    )
    other = OnDemandFeatureView(
        name="by_pandas",
        sources=sources[:1],
        schema=[Field(name="thrice", dtype=Int64)],
        udf=triple,
        udf_string="triple",
        mode="pandas",
    )
    repo.store.apply([view, other])
    return repo


def read(repo: Repo, references: list[str], keys: list[Any]) -> dict[str, Column]:
    return OnlineReader(repo, compile_plan(repo, references, Side.USER)).read(keys)


def test_on_demand_features_beside_stored_ones(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = with_on_demand(tmp_path, redis_or_none)
    references = ["derived:copies", "recent:name", "derived:twice", "by_pandas:thrice"]
    columns = read(repo, references, [2, 1, 2])
    assert list(columns) == references
    assert columns["by_pandas:thrice"].to_list() == [60, 30, 60]
    assert columns["derived:twice"].to_list() == [40, 20, 40]
    assert columns["derived:copies"].to_list() == [[20, 20], [10, 10], [20, 20]]
    assert columns["recent:name"].to_list() == [None, "a", None]
    assert read(repo, ["derived:twice"], [])["derived:twice"].to_list() == []


def test_on_demand_features_belong_to_the_side_of_their_sources(tmp_path: Path) -> None:
    repo = with_on_demand(tmp_path, None)
    assert feature_schema(repo, "derived:twice").side is Side.USER
    with pytest.raises(InvalidRepository, match="derived"):
        compile_plan(repo, ["derived:twice"], Side.ITEM)


def test_on_demand_features_in_training(tmp_path: Path) -> None:
    repo = with_on_demand(tmp_path, None)
    rows = pd.DataFrame({"user_id": [2, 1, 2, 2], "event_timestamp": [at(10), at(1), at(6), at(10)]})
    columns = point_in_time(repo, ["derived:twice", "recent:clicks", "by_pandas:thrice"], rows)
    assert columns["by_pandas:thrice"].to_list() == [60, 30, 60, 60]
    assert columns["derived:twice"].to_list() == [40, 20, 40, 40]
    assert columns["recent:clicks"].to_list() == [20, 10, 20, 20]


def test_sources_that_python_mode_would_mix_up_are_refused(tmp_path: Path) -> None:
    other = clicks_view().rows[["user_id", "event_timestamp", "clicks"]]
    views = [clicks_view(), View("older", "user", {"clicks": Int64}, other)]
    repo = feast_repo(tmp_path, views, materialize_until=at(100).to_pydatetime())
    view = OnDemandFeatureView(
        name="derived",
        sources=[repo.store.get_feature_view(name) for name in ("recent", "older")],
        schema=[Field(name="twice", dtype=Int64), Field(name="copies", dtype=Array(Int64))],
        udf=double,
        udf_string="double",
        mode="python",
    )
    repo.store.apply([view])
    with pytest.raises(InvalidRepository, match=r"'derived' has two sources.*same name"):
        compile_plan(repo, ["derived:twice"], Side.USER)


def test_a_failing_transformation_is_an_unavailable_store(tmp_path: Path) -> None:
    repo = with_on_demand(tmp_path, None)
    reader = OnlineReader(repo, compile_plan(repo, ["derived:twice"], Side.USER))
    (tmp_path / "online.db").unlink()
    repo.store.provider.online_store._conn.close()  # type: ignore[attr-defined]  # the store goes away
    with pytest.raises(OnlineStoreUnavailable, match="derived"):
        reader.read([1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, Repo]:
    """One SQLite file behind Feast's own store class and behind one with an envelope of its own."""
    folder = tmp_path_factory.mktemp("pair")
    table = pd.DataFrame({"user_id": [1, 2, 3, 4, 5], "event_timestamp": [at(s) for s in range(5)]})
    rows = pa.Table.from_pandas(table)
    for name, _, kind, values in EVERY_TYPE:
        rows = rows.append_column(name, pa.array(values, kind))
    features = {name: kind for name, kind, *_ in EVERY_TYPE}
    direct = feast_repo(folder, [View("typed", "user", features, rows)], materialize_until=at(100).to_pydatetime())
    other = folder / "envelope.yaml"
    other.write_text(
        (folder / "feature_store.yaml")
        .read_text()
        .replace("type: sqlite", "type: support.envelope_store.EnvelopeSqliteOnlineStore")
    )
    return direct, open_repo(folder, other)


@settings(max_examples=10, deadline=None)
@given(keys=st.lists(st.integers(-2, 7), min_size=1))
def test_a_store_with_its_own_envelope_gives_the_same_columns(pair: tuple[Repo, Repo], keys: list[int]) -> None:
    references = [f"typed:{name}" for name, *_ in EVERY_TYPE]
    plans = [compile_plan(repo, references, Side.USER) for repo in pair]
    assert [[view.table is None for view in plan.views] for plan in plans] == [[False], [True]]
    direct, through = (OnlineReader(repo, plan).read(keys) for repo, plan in zip(pair, plans, strict=True))
    for reference in references:
        left, right = direct[reference], through[reference]
        np.testing.assert_array_equal(left.values, right.values)
        np.testing.assert_array_equal(left.status, right.status)
        np.testing.assert_array_equal(left.timestamps, right.timestamps)
        np.testing.assert_array_equal(left.valid, right.valid)
        assert (left.offsets is None and right.offsets is None) or (left.offsets == right.offsets).all()
    assert {FieldStatus.PRESENT, FieldStatus.NOT_FOUND} >= set(direct["typed:exact_int64"].status.tolist())


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[tuple[Repo, Repo]]:
    """A repository, and the same one behind Feast's own feature server."""
    simple = [
        row for row in EVERY_TYPE if row[0] in ("int32", "int64", "float32", "bool", "string", "int64s", "strings")
    ]
    rows = pa.table({"user_id": [1, 2, 3, 4, 5], "event_timestamp": pa.array([at(s) for s in range(5)], MOMENT)})
    for name, _, kind, values in simple:
        rows = rows.append_column(name, pa.array(values, kind))
    view = View("typed", "user", {name: kind for name, kind, *_ in simple}, rows)
    local = feast_repo(tmp_path, [view], materialize_until=at(100).to_pydatetime())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(get_app(open_repo(tmp_path).store), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        configuration = yaml.safe_load((tmp_path / "feature_store.yaml").read_text())
        configuration["online_store"] = {"type": "remote", "path": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        (tmp_path / "remote.yaml").write_text(yaml.safe_dump(configuration))
        yield local, open_repo(tmp_path, tmp_path / "remote.yaml")
        server.should_exit = True
        thread.join()


def test_feasts_feature_server_gives_the_same_values(remote: tuple[Repo, Repo]) -> None:
    """It sends JSON and no event times; what it types anew comes back as declared."""
    references = [f"typed:{field.name}" for field in remote[0].store.get_feature_view("typed").features]
    near, far = (read(repo, references, [1, 5, 3, 4, 77, 1]) for repo in remote)
    for reference in references:
        assert far[reference].to_list() == near[reference].to_list(), reference
        assert far[reference].dtype is near[reference].dtype
        assert far[reference].valid.tolist() == near[reference].valid.tolist()
    assert near["typed:int64"].valid.tolist() == [True, True, True, False, False, True]
