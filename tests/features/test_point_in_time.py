"""Training rows get what was known at their moment, whichever way the join is done."""

from __future__ import annotations

import math
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import ValueType
from feast.types import Array, Float32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.features.repo import Repo
from feast_recsys.features.training import point_in_time

How = Literal["local", "feast"]
MOMENT = pa.timestamp("us", "UTC")

# Whole seconds from 0 to 40, several rows a user, none for user 4. User 3 only has rows late in time.
HISTORY = pd.DataFrame(
    [
        (1, 0, [11], 0.5),
        (1, 10, [12, 11], 0.75),
        (1, 20, [], 0.25),
        (2, 5, [21], 1.0),
        (3, 30, [31, 32], 2.0),
        (3, 40, [33], 3.0),
    ],
    columns=["user_id", "second", "items", "mean"],
)


def history_view(**options: Any) -> View:
    rows = HISTORY.assign(event_timestamp=[at(s) for s in HISTORY.second]).drop(columns="second")
    return View("history", "user", {"items": Array(Int64), "mean": Float32}, rows, **options)


def moments(*pairs: tuple[Any, float], key: str = "user_id") -> pd.DataFrame:
    return pd.DataFrame({key: [k for k, _ in pairs], "event_timestamp": [at(s) for _, s in pairs]})


def known_at(user: int, second: float) -> list[int] | None:
    """The oracle: the last row of the user at or before the moment."""
    rows = HISTORY[(HISTORY.user_id == user) & (HISTORY.second <= second)]
    return None if rows.empty else rows.sort_values("second").iloc[-1]["items"]


@pytest.fixture(params=["local", "feast"])
def how(request: pytest.FixtureRequest) -> How:
    way: How = request.param
    return way


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Histories, profiles and items; nothing is materialized, training needs no online store."""
    profile = pd.DataFrame({"user_id": [1, 2, 3, 4], "event_timestamp": [at(-100)] * 4, "name": ["a", "b", "c", "d"]})
    items = pd.DataFrame(
        {"item_id": [7, 7, 8], "event_timestamp": [at(0), at(50), at(0)], "big": [2**63 - 1, 2**53 + 1, 5]}
    )
    return feast_repo(
        tmp_path_factory.mktemp("training"),
        [
            history_view(),
            View("profile", "user", {"name": String}, profile),
            View("thing", "item", {"big": Int64}, items),
        ],
    )


def test_each_row_gets_the_last_value_at_or_before_its_moment(repo: Repo, how: How) -> None:
    pairs = [(1, 9.999), (1, 10), (1, 10.001), (1, 25), (2, 4), (2, 5), (3, 35), (3, 40), (4, 99), (1, -1)]
    columns = point_in_time(repo, ["history:items", "history:mean"], moments(*pairs), how=how)
    assert columns["history:items"].to_list() == [known_at(*pair) for pair in pairs]
    assert columns["history:mean"].to_list() == [0.5, 0.75, 0.75, 0.25, None, 1.0, 2.0, 3.0, None, None]
    missing = [known_at(*pair) is None for pair in pairs]
    assert [s == FieldStatus.NOT_FOUND for s in columns["history:items"].status] == missing


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(-20, 900).map(lambda tenths: tenths / 10)), min_size=1))
def test_any_rows_in_any_order_with_repetitions(repo: Repo, how: How, pairs: list[tuple[int, float]]) -> None:
    column = point_in_time(repo, ["history:items"], moments(*pairs), how=how)["history:items"]
    assert column.to_list() == [known_at(*pair) for pair in pairs]


def test_rows_of_one_user_and_moment_all_survive(repo: Repo, how: How) -> None:
    """Feast's file store makes one row of them (feast#6787)."""
    rows = moments((1, 10), (1, 10), (1, 10), (2, 10)).assign(item_id=[7, 8, 8, 7])
    columns = point_in_time(repo, ["history:items", "thing:big", "profile:name"], rows, how=how)
    assert columns["history:items"].to_list() == [[12, 11], [12, 11], [12, 11], [21]]
    assert columns["profile:name"].to_list() == ["a", "a", "a", "b"]
    assert columns["thing:big"].to_list() == [2**63 - 1, 5, 5, 2**63 - 1]


def test_a_view_that_knows_nothing_yet_takes_nothing_from_the_others(repo: Repo, how: How) -> None:
    """Feast's file store drops a row for which one of several views only has later values."""
    columns = point_in_time(repo, ["history:items", "profile:name"], moments((3, 10), (1, 0)), how=how)
    assert columns["history:items"].to_list() == [None, [11]]
    assert columns["profile:name"].to_list() == ["c", "a"]


def test_large_integers_stay_exact_beside_rows_without_a_value(repo: Repo) -> None:
    rows = moments((7, 10), (7, 60), (8, 10), (9, 10), key="item_id")
    column = point_in_time(repo, ["thing:big"], rows)["thing:big"]
    assert column.to_list() == [2**63 - 1, 2**53 + 1, 5, None]


def test_lost_digits_are_an_error(repo: Repo) -> None:
    """Feast's file store turns an integer column with misses to floating point."""
    rows = moments((7, 10), (9, 10), key="item_id")
    with pytest.raises(InvalidRepository, match=r"thing:big.*lost digits"):
        point_in_time(repo, ["thing:big"], rows, how="feast")
    small = moments((8, 10), (9, 10), key="item_id")
    assert point_in_time(repo, ["thing:big"], small, how="feast")["thing:big"].to_list() == [5, None]


def test_event_times_are_those_of_the_values(repo: Repo) -> None:
    column = point_in_time(repo, ["history:items"], moments((1, 15), (4, 15)))["history:items"]
    assert column.timestamps.tolist() == [int(at(10).timestamp()), 0]


def test_other_columns_time_zones_and_index_do_not_matter(repo: Repo, how: How) -> None:
    rows = moments((1, 10), (2, 10)).assign(label=[1.0, None])
    rows["event_timestamp"] = rows.event_timestamp.dt.tz_convert("Asia/Tokyo")
    rows.index = pd.Index([5, 5])
    for given_rows in (rows, pa.Table.from_pandas(rows)):
        assert point_in_time(repo, ["history:items"], given_rows, how=how)["history:items"].to_list() == [
            [12, 11],
            [21],
        ]


def test_chunks_and_progress(repo: Repo, how: How) -> None:
    pairs = [(1 + i % 4, float(i)) for i in range(50)]
    told: list[tuple[int, int]] = []
    columns = point_in_time(
        repo,
        ["history:items", "profile:name"],
        moments(*pairs),
        how=how,
        chunk=7,
        progress=lambda done, total: told.append((done, total)),
    )
    assert columns["history:items"].to_list() == [known_at(*pair) for pair in pairs]
    assert told[-1] == (100, 100)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_no_rows_give_empty_columns(repo: Repo, how: How) -> None:
    rows = moments((1, 10)).head(0)
    columns = point_in_time(repo, ["history:items", "profile:name"], rows, how=how)
    assert [(len(c), c.is_list, c.dtype) for c in columns.values()] == [
        (0, True, DType.INT64),
        (0, False, DType.STRING),
    ]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        (moments((1, 1)).rename(columns={"user_id": "uid"}), "user_id"),
        (moments((1, 1)).rename(columns={"event_timestamp": "ts"}), "event_timestamp"),
        (moments((1, 1)).assign(event_timestamp=pd.Timestamp("2024-01-01")), "time zone"),
        (moments((1, 1)).assign(event_timestamp=5), "int64"),
        (moments(("a", 1)), "user_id"),
        (moments((1, 1), (None, 1)).astype({"user_id": "Int64"}), "nulls"),
        (moments((1.5, 1)), "double"),
        (pd.DataFrame({"user_id": [1, 1], "event_timestamp": [at(1), pd.NaT]}), "nulls"),
    ],
)
def test_rows_that_do_not_fit_are_named(repo: Repo, rows: pd.DataFrame, named: str) -> None:
    with pytest.raises(InvalidArgument, match=named):
        point_in_time(repo, ["history:items"], rows)


def test_the_later_of_two_rows_of_one_moment_is_the_one_created_later(tmp_path: Path, how: How) -> None:
    rows = pd.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 2],
            "event_timestamp": [at(0)] * 5,
            "made": [at(5), at(9), at(7), at(2), at(1)],
            "clicks": [5, 9, 7, 2, 1],
        }
    )
    repo = feast_repo(tmp_path, [View("v", "user", {"clicks": Int64}, rows, created="made")])
    column = point_in_time(repo, ["v:clicks"], moments((1, 3), (2, 3)), how=how)["v:clicks"]
    assert column.to_list() == [9, 2]


@pytest.mark.parametrize(
    ("policy", "values", "local_status"),
    [
        ("serve", [[12, 11], [12, 11], None], FieldStatus.OUTSIDE_MAX_AGE),
        ("default", [[12, 11], None, None], FieldStatus.OUTSIDE_MAX_AGE),
        ("fail", [[12, 11], None, None], FieldStatus.OUTSIDE_MAX_AGE),
    ],
)
def test_values_past_their_ttl_follow_the_policy_of_the_server(
    tmp_path: Path, how: How, policy: str, values: list[Any], local_status: FieldStatus
) -> None:
    repo = feast_repo(
        tmp_path,
        [history_view(ttl=timedelta(seconds=5))],
        settings={"serving": {"stale": {"history": policy}}},
    )
    # 5 s after its row a value is fresh, half a second later it is not.
    rows = moments((1, 15), (1, 15.5), (4, 15))
    column = point_in_time(repo, ["history:items"], rows, how=how)["history:items"]
    assert column.to_list() == values
    if how == "local":
        assert column.status.tolist() == [FieldStatus.PRESENT, local_status, FieldStatus.NOT_FOUND]


def test_string_ids_and_renamed_source_columns(tmp_path: Path, how: How) -> None:
    rows = pd.DataFrame({"handle": ["ann", "bo"], "event_timestamp": [at(0), at(5)], "n": [1, 2]})
    repo = feast_repo(
        tmp_path,
        [View("v", "listener", {"clicks": Int64}, rows, field_mapping={"n": "clicks"})],
        user="listener",
        user_key="handle",
        user_type=ValueType.STRING,
    )
    asked = moments(("bo", 10), ("ann", 1), ("bo", 1), ("zoe", 10), key="handle")
    assert point_in_time(repo, ["v:clicks"], asked, how=how)["v:clicks"].to_list() == [2, 1, None, None]


def test_sources_without_time_zone_are_utc_and_may_be_folders(tmp_path: Path) -> None:
    rows = history_view().rows
    rows = rows.assign(event_timestamp=rows.event_timestamp.dt.tz_localize(None))
    repo = feast_repo(tmp_path / "repo", [View("history", "user", {"items": Array(Int64)}, rows)])
    whole = tmp_path / "repo" / "history.parquet"
    content = whole.read_bytes()
    whole.unlink()
    whole.mkdir()
    (whole / "part-0.parquet").write_bytes(content)
    column = point_in_time(repo, ["history:items"], moments((1, 10), (1, 9)))["history:items"]
    assert column.to_list() == [[12, 11], [11]]


def test_rows_of_the_source_without_key_or_moment_are_nobodys(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "user_id": pa.array([1, None, 1], pa.int64()),
            "event_timestamp": pa.array([at(0), at(1), None], MOMENT),
            "clicks": [1, 2, 3],
        }
    )
    repo = feast_repo(tmp_path, [View("v", "user", {"clicks": Int64}, rows)])
    assert point_in_time(repo, ["v:clicks"], moments((1, 10), (0, 10)))["v:clicks"].to_list() == [1, None]


def test_a_source_that_lacks_a_column_names_the_view(tmp_path: Path, how: How) -> None:
    rows = history_view().rows
    repo = feast_repo(tmp_path, [View("history", "user", {"items": Array(Int64), "absent": Int64}, rows)])
    with pytest.raises(InvalidRepository, match="history"):
        point_in_time(repo, ["history:absent"], moments((1, 10)), how=how)


def test_a_source_of_another_type_names_feature_and_both_types(tmp_path: Path) -> None:
    rows = history_view().rows
    repo = feast_repo(tmp_path, [View("history", "user", {"items": Int64}, rows)])
    with pytest.raises(InvalidRepository, match=r"history:items.*int64.*list"):
        point_in_time(repo, ["history:items"], moments((1, 10)))


def test_both_ways_agree_on_a_larger_history(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    n = 400
    rows = pd.DataFrame(
        {
            "user_id": random.integers(0, 30, n),
            "event_timestamp": [at(float(s)) for s in random.permutation(n)],
            "clicks": random.integers(0, 100, n),
            "items": [random.integers(0, 9, size).tolist() for size in random.integers(0, 5, n)],
            "score": np.where(random.random(n) < 0.2, np.nan, random.random(n)),
        }
    )
    features = {"clicks": Int64, "items": Array(Int64), "score": Float32}
    repo = feast_repo(
        tmp_path,
        [View("v", "user", features, rows, ttl=timedelta(seconds=60))],
        settings={"serving": {"stale": {"v": "default"}}},
    )
    pairs = list(zip(random.integers(0, 33, 500).tolist(), random.uniform(0, n, 500).tolist(), strict=True))
    references = [f"v:{name}" for name in features]
    here = point_in_time(repo, references, moments(*pairs), how="local")
    there = point_in_time(repo, references, moments(*pairs), how="feast")
    for reference in references:
        assert same_values(here[reference], there[reference]), reference
    assert 50 < here["v:clicks"].valid.sum() < 450


def same_values(left: Column, right: Column) -> bool:
    def plain(value: Any) -> Any:
        return "NaN" if isinstance(value, float) and math.isnan(value) else value

    return [plain(v) for v in left.to_list()] == [plain(v) for v in right.to_list()]
