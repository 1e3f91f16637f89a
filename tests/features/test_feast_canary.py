"""What we rely on of Feast that it promises nowhere. One that fails after an upgrade says what to look at."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import Field
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Array, Int64, String, UnixTimestamp
from support.feast_repo import View, at, feast_repo
from support.feature_types import MOMENT

from feast_recsys.bundle.signature import Side
from feast_recsys.features.keys import key_message
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.repo import Repo


def opened(folder: Path, redis: str | None) -> Repo:
    rows = pa.table(
        {
            "user_id": [1, 2],
            "event_timestamp": pa.array([at(1.75), at(2)], MOMENT),
            "clicks": [10, None],
            "words": pa.array([["a", None], None]),
            "since": pa.array([at(0), None], MOMENT),
        }
    )
    features = {"clicks": Int64, "words": Array(String), "since": UnixTimestamp}
    views = [View("recent", "user", features, rows, ttl=timedelta(hours=1))]
    return feast_repo(folder, views, redis=redis, materialize_until=at(1000).to_pydatetime())


def answer(repo: Repo, feature: str, user: int) -> tuple[Any, int, int]:
    """Value, status and seconds of the event time."""
    response = repo.store.get_online_features([f"recent:{feature}"], {"user_id": [user]}).proto
    vector = dict(zip(response.metadata.feature_names.val, response.results, strict=True))[feature]
    return vector.values[0], vector.statuses[0], vector.event_timestamps[0].seconds


def stored_row(repo: Repo, user: int) -> tuple[datetime | None, dict[str, Any] | None]:
    [view] = compile_plan(repo, ["recent:clicks", "recent:words"], Side.USER).views
    store = repo.store.provider.online_store
    assert view.table is not None
    return store.online_read(repo.store.config, view.table, [key_message(view.keys, (user,))], list(view.features))[0]


def test_the_ttl_is_not_enforced_online(tmp_path: Path, redis_or_none: str | None) -> None:
    """Feast may begin to answer OUTSIDE_MAX_AGE: then `recsys.serving.stale: serve` must go on serving."""
    value, status, _ = answer(opened(tmp_path, redis_or_none), "clicks", 1)
    assert (value.int64_val, status) == (10, FieldStatus.PRESENT)


def test_a_null_is_present_and_unset(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none)
    for feature in ("clicks", "words"):
        value, status, seconds = answer(repo, feature, 2)
        assert (value.WhichOneof("val"), status, seconds) == (None, FieldStatus.PRESENT, int(at(2).timestamp()))
    value, status, _ = answer(repo, "since", 2)
    assert (value.unix_timestamp_val, status) == (-(2**63), FieldStatus.PRESENT)


def test_a_null_inside_a_list_is_the_types_zero(tmp_path: Path, redis_or_none: str | None) -> None:
    assert list(answer(opened(tmp_path, redis_or_none), "words", 1)[0].string_list_val.val) == ["a", ""]


def test_a_missing_row_is_present_on_redis_and_not_found_on_sqlite(tmp_path: Path, redis_or_none: str | None) -> None:
    value, status, seconds = answer(opened(tmp_path, redis_or_none), "clicks", 3)
    expected = FieldStatus.NOT_FOUND if redis_or_none is None else FieldStatus.PRESENT
    assert (value.WhichOneof("val"), status, seconds) == (None, expected, 0)


def test_a_feature_that_was_added_later_is_the_same(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none)
    view = repo.store.get_feature_view("recent")
    view.features = [*view.features, Field(name="taps", dtype=Int64)]
    repo.store.registry.apply_feature_view(view, repo.store.project)
    value, status, seconds = answer(repo, "taps", 1)
    expected = FieldStatus.NOT_FOUND if redis_or_none is None else FieldStatus.PRESENT
    assert (value.WhichOneof("val"), status) == (None, expected)
    assert seconds == int(at(1).timestamp())


def test_event_times_are_seconds_on_sqlite_and_nanoseconds_on_redis(tmp_path: Path, redis_or_none: str | None) -> None:
    moment, _ = stored_row(opened(tmp_path, redis_or_none), 1)
    expected = at(1) if redis_or_none is None else at(1.75)
    assert moment == expected.to_pydatetime()
    assert moment is not None
    assert moment.tzinfo is timezone.utc


def test_online_read_gives_none_on_sqlite_and_unset_values_on_redis(tmp_path: Path, redis_or_none: str | None) -> None:
    moment, row = stored_row(opened(tmp_path, redis_or_none), 3)
    if redis_or_none is None:
        assert (moment, row) == (None, None)
    else:
        assert moment == datetime(1970, 1, 1, tzinfo=timezone.utc)
        assert row is not None
        assert {name: value.WhichOneof("val") for name, value in row.items()} == {"clicks": None, "words": None}


def test_redis_adds_to_the_list_of_features_that_it_is_given(tmp_path: Path, redis_server: str) -> None:
    """Why each read passes a list of its own."""
    repo = opened(tmp_path, redis_server)
    [view] = compile_plan(repo, ["recent:clicks"], Side.USER).views
    asked = ["clicks"]
    store = repo.store.provider.online_store
    assert view.table is not None
    store.online_read(repo.store.config, view.table, [key_message(view.keys, (1,))], asked)
    assert asked == ["clicks", "_ts:recent"]


def test_both_stores_read_through_the_common_envelope(tmp_path: Path, redis_or_none: str | None) -> None:
    """How a plan tells that `online_read` is all there is."""
    store = opened(tmp_path, redis_or_none).store.provider.online_store
    assert type(store).get_online_features is OnlineStore.get_online_features


def test_an_older_row_is_written_on_sqlite_and_ignored_on_redis(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = opened(tmp_path, redis_or_none)
    older = pd.DataFrame(
        {"user_id": [1], "event_timestamp": [at(0)], "clicks": [7], "words": [["z"]], "since": [at(0)]}
    )
    repo.store.write_to_online_store("recent", older)
    assert answer(repo, "clicks", 1)[0].int64_val == (7 if redis_or_none is None else 10)
