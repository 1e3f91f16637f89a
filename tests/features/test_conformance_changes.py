"""Both readers against `get_online_features` where views, rows and moments are not as they were written."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureService, FeatureView, Field
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, FeastType, Float32, Float64, Int32, Int64, String
from support.feast_repo import View, at, feast_repo, materialize
from support.oracle import Read, assert_as_feast, read_one_by_one, read_together

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository, StaleFeature
from feast_recsys.bundle.signature import Side
from feast_recsys.features.keys import key_message
from feast_recsys.features.plan import compile_plan, compile_service_plan
from feast_recsys.features.repo import Repo
from feast_recsys.features.user_reader import user_reader


@pytest.fixture(params=[read_together, read_one_by_one], ids=["together", "one by one"])
def read(request: pytest.FixtureRequest) -> Read:
    way: Read = request.param
    return way


def clicks(values: list[Any] = [10, 20], ttl: timedelta = timedelta(0), kind: FeastType = Int64) -> View:  # noqa: B006 -- never changed
    rows = pd.DataFrame({"user_id": [1, 2], "event_timestamp": [at(3), at(4)], "clicks": values})
    return View("recent", "user", {"clicks": kind}, rows, ttl=ttl)


def opened(folder: Path, redis: str | None, view: View, **options: Any) -> Repo:
    return feast_repo(folder, [view], redis=redis, materialize_until=at(100).to_pydatetime(), **options)


def check(repo: Repo, references: list[str], users: list[int], read: Read) -> dict[str, Column]:
    rows = {"user_id": users}
    columns = read(repo, compile_plan(repo, references, Side.USER), rows)
    assert_as_feast(repo, references, rows, columns)
    return columns


def redeclare(repo: Repo, features: list[Field]) -> None:
    view = repo.store.get_feature_view("recent")
    view.features = features
    repo.store.registry.apply_feature_view(view, repo.store.project)


def test_a_feature_added_after_the_row_was_written(tmp_path: Path, redis_or_none: str | None, read: Read) -> None:
    repo = opened(tmp_path, redis_or_none, clicks())
    redeclare(repo, [Field(name=name, dtype=kind) for name, kind in (("clicks", Int64), ("taps", Array(String)))])
    columns = check(repo, ["recent:taps", "recent:clicks"], [1, 3, 2], read)
    assert columns["recent:taps"].to_list() == [None] * 3


@pytest.mark.parametrize(("before", "after", "value"), [(Int32, Float32, 10.0), (Int64, Float64, 10.0)])
def test_a_number_stored_under_another_type(
    tmp_path: Path, redis_or_none: str | None, read: Read, before: FeastType, after: FeastType, value: float
) -> None:
    repo = opened(tmp_path, redis_or_none, clicks(kind=before))
    redeclare(repo, [Field(name="clicks", dtype=after)])
    columns = read(repo, compile_plan(repo, ["recent:clicks"], Side.USER), {"user_id": [1, 3]})
    assert columns["recent:clicks"].to_list() == [value, None]


def test_a_value_that_does_not_convert_is_an_error(tmp_path: Path, redis_or_none: str | None, read: Read) -> None:
    repo = opened(tmp_path, redis_or_none, clicks())
    redeclare(repo, [Field(name="clicks", dtype=String)])
    with pytest.raises(InvalidRepository, match=r"recent:clicks.*int64_val.*materialize"):
        read(repo, compile_plan(repo, ["recent:clicks"], Side.USER), {"user_id": [1]})


@pytest.mark.parametrize(
    ("policy", "expected"), [("serve", [10, 20, None]), ("default", [None] * 3), ("fail", StaleFeature)]
)
def test_stale_values_follow_the_policy_of_their_view(
    tmp_path: Path, redis_or_none: str | None, read: Read, policy: str, expected: Any
) -> None:
    settings = {"serving": {"stale": {"recent": policy}}}
    repo = opened(tmp_path, redis_or_none, clicks(ttl=timedelta(days=1)), settings=settings)
    plan = compile_plan(repo, ["recent:clicks"], Side.USER)
    if policy == "fail":
        with pytest.raises(StaleFeature, match="recent:clicks"):
            read(repo, plan, {"user_id": [1, 3]})
        assert read(repo, plan, {"user_id": [3]})["recent:clicks"].to_list() == [None]
        return
    column = read(repo, plan, {"user_id": [1, 2, 3]})["recent:clicks"]
    assert column.to_list() == expected
    assert column.status.tolist() == [FieldStatus.OUTSIDE_MAX_AGE] * 2 + [FieldStatus.NOT_FOUND]


def test_an_alias_has_the_policy_of_its_view(tmp_path: Path, redis_or_none: str | None, read: Read) -> None:
    settings = {"serving": {"stale": {"recent": "default"}}}
    repo = opened(tmp_path, redis_or_none, clicks(ttl=timedelta(days=1)), settings=settings)
    view = repo.store.get_feature_view("recent")
    repo.store.apply([FeatureService(name="service", features=[view.with_name("alias")])])
    column = read(repo, compile_service_plan(repo, "service"), {"user_id": [1]})["alias:clicks"]
    assert column.status.tolist() == [FieldStatus.OUTSIDE_MAX_AGE]
    assert column.to_list() == [None]


def test_a_versioned_view_is_read_at_its_current_version(tmp_path: Path, redis_or_none: str | None, read: Read) -> None:
    registry = {"path": "registry.db", "cache_ttl_seconds": 0, "enable_online_feature_view_versioning": True}
    repo = opened(tmp_path, redis_or_none, clicks(), configuration={"registry": registry})
    view = repo.store.get_feature_view("recent")
    view.features = [Field(name="clicks", dtype=Float32)]
    repo.store.apply([view])
    pd.DataFrame({"user_id": [1], "event_timestamp": [at(50)], "clicks": [0.5]}).to_parquet(tmp_path / "recent.parquet")
    materialize(repo, at(100).to_pydatetime())
    assert repo.store.get_feature_view("recent").current_version_number == 1
    assert check(repo, ["recent:clicks"], [1, 2, 3], read)["recent:clicks"].to_list() == [0.5, None, None]


def test_a_write_is_seen_by_the_next_read_of_a_reader(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none, clicks())
    reader = user_reader(repo, compile_plan(repo, ["recent:clicks"], Side.USER))
    assert reader is not None
    assert reader.begin({"user_id": 1}).result(5.0)["recent:clicks"].to_list() == [10]
    newer = pd.DataFrame({"user_id": [1], "event_timestamp": [at(200)], "clicks": [11]})
    repo.store.write_to_online_store("recent", newer)
    column = reader.begin({"user_id": 1}).result(5.0)["recent:clicks"]
    assert column.to_list() == [11]
    assert column.timestamps.tolist() == [int(at(200).timestamp())]


MOMENTS = [
    datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc),
    datetime(1970, 1, 1, 0, 0, 1, tzinfo=timezone.utc),
    datetime(1969, 12, 31, 23, 59, 58, 500_000, tzinfo=timezone.utc),
    datetime(1901, 2, 3, 4, 5, 6, 999_999, tzinfo=timezone.utc),
    datetime(2024, 3, 31, 1, 30, 0, 999_999, tzinfo=timezone.utc),
    datetime(2024, 3, 31, 1, 30, 0, 999_000, tzinfo=timezone.utc),
    datetime(2024, 10, 27, 1, 59, 59, 998_999, tzinfo=timezone.utc),
    datetime(2100, 1, 1, 0, 0, 0, 500_000, tzinfo=timezone.utc),
    datetime(9000, 1, 1, 0, 0, 0, 999_999, tzinfo=timezone.utc),
]


def test_any_moment_is_the_second_that_feast_says(tmp_path: Path, redis_or_none: str | None, read: Read) -> None:
    repo = opened(tmp_path, redis_or_none, clicks())
    plan = compile_plan(repo, ["recent:clicks"], Side.USER)
    [view] = plan.views
    store, config = repo.store.provider.online_store, repo.store.config
    table: FeatureView = repo.store.get_feature_view("recent")
    users = list(range(10, 10 + len(MOMENTS)))
    keys = [key_message(view.keys, (user,)) for user in users]
    rows = [
        (key, {"clicks": Value(int64_val=user)}, moment, None)
        for key, user, moment in zip(keys, users, MOMENTS, strict=True)
    ]
    store.online_write_batch(config, table, rows, None)
    said = [moment for moment, _ in store.online_read(config, table, keys, ["clicks"])]
    assert None not in said
    column = read(repo, plan, {"user_id": users})["recent:clicks"]
    assert column.timestamps.tolist() == [int(moment.timestamp()) for moment in said if moment]
