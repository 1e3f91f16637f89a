"""Our reader against `get_online_features`, on SQLite and on Redis: values, statuses and event times."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureViewState, Field, ValueType
from feast.types import FeastType, Float32, Int32, Int64, String
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.feast_repo import View, at, feast_repo, materialize
from support.feature_types import EVERY_TYPE, MOMENT

from feast_recsys.bundle.columns import FieldStatus
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository, OnlineStoreUnavailable, StaleFeature
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo, open_repo

TYPED = [f"typed:{name}" for name, *_ in EVERY_TYPE]
REFERENCES = [*TYPED, "recent:clicks", "expired:age"]


def typed_views(key: str = "user_id", keys: tuple[Any, ...] = (1, 2, 3, 4, -9)) -> list[View]:
    """Five users with a value of every type; a second view knows two of them, a third is past its ttl."""
    table = pa.table(
        {
            key: list(keys),
            "event_timestamp": pa.array([at(10 * i) for i in range(5)], MOMENT),
            **{name: pa.array(values, kind) for name, _, kind, values in EVERY_TYPE},
        }
    )
    some = pa.table({key: list(keys[:2]), "event_timestamp": pa.array([at(3), at(4)], MOMENT), "clicks": [10, 20]})
    old = some.rename_columns([key, "event_timestamp", "age"])
    return [
        View("typed", "user", {name: kind for name, kind, *_ in EVERY_TYPE}, table),
        View("recent", "user", {"clicks": Int64}, some),
        View("expired", "user", {"age": Int64}, old, ttl=timedelta(days=1)),
    ]


@pytest.fixture(scope="module")
def repos(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> dict[str, Repo]:
    return {
        name: feast_repo(
            tmp_path_factory.mktemp(name), typed_views(), redis=address, materialize_until=at(1000).to_pydatetime()
        )
        for name, address in (("sqlite", None), ("redis", redis_server))
    }


@pytest.fixture(params=["sqlite", "redis"])
def repo(request: pytest.FixtureRequest, repos: dict[str, Repo]) -> Repo:
    return repos[request.param]


def reader_of(repo: Repo, references: list[str], side: Side = Side.USER) -> OnlineReader:
    return OnlineReader(repo, compile_plan(repo, references, side))


def assert_reads_as_feast_does(repo: Repo, references: list[str], keys: list[Any], join_key: str = "user_id") -> None:
    """Compares with the response of `get_online_features`, whose statuses are brought to our meaning."""
    columns = reader_of(repo, references).read(keys)
    response = repo.store.get_online_features(references, {join_key: keys}, full_feature_names=True).proto
    answers = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    assert list(columns) == references
    for reference, column in columns.items():
        answer = answers[reference.replace(":", "__")]
        values = [as_python(value) for value in answer.values]
        seconds = [stamp.seconds for stamp in answer.event_timestamps]
        assert column.timestamps.tolist() == seconds, reference
        assert same(column.to_list(), values), (reference, column.to_list(), values)
        found = [s == 1 and (v is not None or t > 0) for v, s, t in zip(values, answer.statuses, seconds, strict=True)]
        assert [s != FieldStatus.NOT_FOUND for s in column.status] == found, reference
        nulls = [there and value is None for value, there in zip(values, found, strict=True)]
        assert [s == FieldStatus.NULL_VALUE for s in column.status] == nulls, reference
        stale = reference == "expired:age"
        here = FieldStatus.OUTSIDE_MAX_AGE if stale else FieldStatus.PRESENT
        assert [s == here for s in column.status] == [value is not None for value in values], reference


def as_python(value: Any) -> Any:
    """Feast's message as our column shows it: None for null, doubles narrowed to float32."""
    member = value.WhichOneof("val")
    if member is None:
        return None
    content = getattr(value, member)
    if member == "unix_timestamp_val" and content == -(2**63):
        return None
    if hasattr(content, "val"):
        return [float(np.float32(x)) if isinstance(x, float) else x for x in content.val]
    return float(np.float32(content)) if isinstance(content, float) else content


def same(left: Any, right: Any) -> bool:
    """Equality in which NaN equals NaN and 1 does not equal True."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


@pytest.mark.parametrize("reference", REFERENCES)
def test_every_type_reads_as_feast_reads_it(repo: Repo, reference: str) -> None:
    assert_reads_as_feast_does(repo, [reference], [1, 2, 3, 4, -9])


@pytest.mark.parametrize(
    "keys",
    [
        [1],
        [3, 1, 2],
        [1, 1, 3, 1],
        [4, 999, 1, 999],
        [999],
        ["1", "-9", "777"],
        [-9, -1, 0],
        [2**63 - 1, -(2**63), 1],
    ],
    ids=["one", "unsorted", "repeated", "some unknown", "unknown", "text", "negative", "extreme"],
)
def test_all_views_together_for_any_keys(repo: Repo, keys: list[Any]) -> None:
    assert_reads_as_feast_does(repo, REFERENCES, keys)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(keys=st.lists(st.one_of(st.sampled_from([1, 2, 3, 4, -9]), st.integers(-(2**63), 2**63 - 1)), min_size=1))
def test_any_integer_keys(repo: Repo, keys: list[int]) -> None:
    assert_reads_as_feast_does(repo, REFERENCES, keys)


@pytest.fixture(scope="module")
def text_repos(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> dict[str, Repo]:
    """String ids under a join key that is not the entity's name."""
    return {
        name: feast_repo(
            tmp_path_factory.mktemp(name),
            [
                View(
                    "typed",
                    "listener",
                    {"int64": Int64},
                    typed_views("handle", ("ann", "bo", "", "ž", "01"))[0].rows.select(
                        ["handle", "event_timestamp", "int64"]
                    ),
                )
            ],
            user="listener",
            user_key="handle",
            user_type=ValueType.STRING,
            redis=address,
            materialize_until=at(1000).to_pydatetime(),
        )
        for name, address in (("sqlite", None), ("redis", redis_server))
    }


@pytest.mark.parametrize("store", ["sqlite", "redis"])
@settings(max_examples=25, deadline=None)
@given(keys=st.lists(st.one_of(st.sampled_from(["ann", "bo", "", "ž", "01"]), st.text()), min_size=1))
def test_any_string_keys(text_repos: dict[str, Repo], store: str, keys: list[str]) -> None:
    assert_reads_as_feast_does(text_repos[store], ["typed:int64"], keys, "handle")


def test_a_number_is_its_text_where_ids_are_strings(text_repos: dict[str, Repo]) -> None:
    assert_reads_as_feast_does(text_repos["sqlite"], ["typed:int64"], [1, 10, "01"], "handle")


@pytest.mark.parametrize("key", [None, "abc", "", "1.0", " 1", "1_0", "٣", 1.0, True, 2**63, "9" * 30, [1]])
def test_a_key_of_another_type_names_the_join_key(repo: Repo, key: Any) -> None:
    with pytest.raises(InvalidArgument, match="user_id") as caught:
        reader_of(repo, ["recent:clicks"]).read([1, key])
    assert caught.value.field == "user_id"


def test_keys_wider_than_the_entity_are_refused(tmp_path: Path) -> None:
    table = pa.table({"user_id": pa.array([1], pa.int32()), "event_timestamp": [at(0)], "clicks": [5]})
    views = [View("recent", "user", {"clicks": Int64}, table)]
    repo = feast_repo(tmp_path, views, user_type=ValueType.INT32, materialize_until=at(10).to_pydatetime())
    assert_reads_as_feast_does(repo, ["recent:clicks"], [1, 2, -(2**31)])
    with pytest.raises(InvalidArgument, match="32 bits"):
        reader_of(repo, ["recent:clicks"]).read([2**31])


def test_no_keys_give_empty_columns(repo: Repo) -> None:
    columns = reader_of(repo, REFERENCES).read([])
    assert list(columns) == REFERENCES
    assert [len(column) for column in columns.values()] == [0] * len(REFERENCES)


def test_more_keys_than_one_statement_takes(repo: Repo) -> None:
    keys = [*range(5, 35_000), 2, 1]
    column = reader_of(repo, ["typed:strings"]).read(keys)["typed:strings"]
    assert column.to_list()[-2:] == [[], ["x", ""]]
    assert not column.valid[:-2].any()
    assert len(column) == len(keys)


def test_slots_without_a_value_hold_the_types_zero(repo: Repo) -> None:
    nullable = [reference for reference in TYPED if reference != "typed:exact_int64"]
    for reference, column in reader_of(repo, nullable).read([4, 999]).items():
        assert not column.valid.any()
        assert column.values.tolist() == ([] if column.is_list else [column.dtype.zero] * 2), reference


def test_features_come_in_the_order_asked_for_and_once(repo: Repo) -> None:
    order = ["typed:string", "recent:clicks", "typed:bool", "typed:string"]
    assert list(reader_of(repo, order).read([1])) == ["typed:string", "recent:clicks", "typed:bool"]


def test_reading_never_changes_the_plan(repo: Repo) -> None:
    reader = reader_of(repo, REFERENCES)
    before = [
        (view.features, [f.name for f in view.table.projection.features]) for view in reader.plan.views if view.table
    ]
    for _ in range(3):
        reader.read([1, 2])
    after = [
        (view.features, [f.name for f in view.table.projection.features]) for view in reader.plan.views if view.table
    ]
    assert after == before


def test_compiling_leaves_the_views_that_feast_caches_alone(repo: Repo) -> None:
    compile_plan(repo, ["typed:string"], Side.USER)
    cached = repo.store.registry.get_any_feature_view("typed", repo.store.project, allow_cache=True)
    assert len(cached.projection.features) == len(EVERY_TYPE)


@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_stale_values_follow_the_policy_of_their_view(store: str, tmp_path: Path, redis_server: str) -> None:
    def opened(policy: str) -> OnlineReader:
        repo = feast_repo(
            tmp_path / policy,
            typed_views(),
            redis=redis_server if store == "redis" else None,
            settings={"serving": {"stale": {"expired": policy, "typed": "fail"}}},
            materialize_until=at(1000).to_pydatetime(),
        )
        return reader_of(repo, ["expired:age", "typed:int32"])

    served = opened("serve").read([1, 999])["expired:age"]
    assert served.to_list() == [10, None]
    assert served.status.tolist() == [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND]
    left_out = opened("default").read([1, 999])["expired:age"]
    assert left_out.to_list() == [None, None]
    assert left_out.status.tolist() == [FieldStatus.OUTSIDE_MAX_AGE, FieldStatus.NOT_FOUND]
    failing = opened("fail")
    assert failing.read([999])["expired:age"].to_list() == [None]
    with pytest.raises(StaleFeature, match="expired:age"):
        failing.read([999, 1])


def test_fresh_values_are_not_stale(tmp_path: Path, redis_or_none: str | None) -> None:
    now = pd.Timestamp.now("UTC").floor("s")
    rows = pd.DataFrame({"user_id": [1, 2], "event_timestamp": [now, now - pd.Timedelta(hours=2)], "clicks": [1, 2]})
    repo = feast_repo(
        tmp_path,
        [View("recent", "user", {"clicks": Int64}, rows, ttl=timedelta(hours=1))],
        redis=redis_or_none,
        materialize_until=now.to_pydatetime(),
    )
    column = reader_of(repo, ["recent:clicks"]).read([1, 2])["recent:clicks"]
    assert column.status.tolist() == [FieldStatus.PRESENT, FieldStatus.OUTSIDE_MAX_AGE]


def test_a_feature_added_later_has_no_value_yet(tmp_path: Path, redis_or_none: str | None) -> None:
    rows = typed_views()[1].rows
    repo = feast_repo(
        tmp_path,
        [View("recent", "user", {"clicks": Int64}, rows)],
        redis=redis_or_none,
        materialize_until=at(100).to_pydatetime(),
    )
    view = repo.store.get_feature_view("recent")
    view.features = [*view.features, Field(name="taps", dtype=Int64)]
    repo.store.registry.apply_feature_view(view, repo.store.project)
    assert_reads_as_feast_does(repo, ["recent:clicks", "recent:taps"], [1, 2, 3])
    assert reader_of(repo, ["recent:taps"]).read([1])["recent:taps"].to_list() == [None]


def test_values_stored_under_another_number_type_are_converted(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = retyped(tmp_path, redis_or_none, Int32, Float32)
    assert reader_of(repo, ["recent:clicks"]).read([1, 3])["recent:clicks"].to_list() == [10.0, None]


def test_values_that_do_not_convert_are_an_error(tmp_path: Path, redis_or_none: str | None) -> None:
    repo = retyped(tmp_path, redis_or_none, Int64, String)
    with pytest.raises(InvalidRepository, match=r"recent:clicks.*int64_val.*materialize"):
        reader_of(repo, ["recent:clicks"]).read([1])


def retyped(folder: Path, redis: str | None, before: FeastType, after: FeastType) -> Repo:
    """A view whose feature changed its type after it was materialized."""
    views = [View("recent", "user", {"clicks": before}, typed_views()[1].rows)]
    repo = feast_repo(folder, views, redis=redis, materialize_until=at(100).to_pydatetime())
    view = repo.store.get_feature_view("recent")
    view.features = [Field(name="clicks", dtype=after)]
    repo.store.registry.apply_feature_view(view, repo.store.project)
    return repo


def test_a_push_is_seen_by_the_next_read(tmp_path: Path, redis_or_none: str | None) -> None:
    views = [View("recent", "user", {"clicks": Int64}, typed_views()[1].rows, push_source="recent_push")]
    repo = feast_repo(tmp_path, views, redis=redis_or_none, materialize_until=at(100).to_pydatetime())
    reader = reader_of(repo, ["recent:clicks"])
    assert reader.read([1])["recent:clicks"].to_list() == [10]
    repo.store.push("recent_push", pd.DataFrame({"user_id": [1], "event_timestamp": [at(200)], "clicks": [11]}))
    assert reader.read([1])["recent:clicks"].to_list() == [11]
    assert reader.read([1])["recent:clicks"].timestamps.tolist() == [int(at(200).timestamp())]


def test_a_compiled_plan_goes_on_reading_while_its_view_is_materialized(repos: dict[str, Repo]) -> None:
    repo = repos["sqlite"]
    reader = reader_of(repo, ["recent:clicks"])
    view = repo.store.get_feature_view("recent")
    try:
        view.state = FeatureViewState.MATERIALIZING
        repo.store.registry.apply_feature_view(view, repo.store.project)
        assert reader.read([1])["recent:clicks"].to_list() == [10]
    finally:
        view.state = FeatureViewState.AVAILABLE_ONLINE
        repo.store.registry.apply_feature_view(view, repo.store.project)


def test_two_stores_in_one_process_do_not_disturb_each_other(repos: dict[str, Repo]) -> None:
    again = open_repo(repos["sqlite"].path)
    readers = [reader_of(repo, ["recent:clicks"]) for repo in (repos["sqlite"], repos["redis"], again)]
    for _ in range(3):
        assert [reader.read([2])["recent:clicks"].to_list() for reader in readers] == [[20]] * 3


def test_threads_share_a_reader(repo: Repo) -> None:
    reader = reader_of(repo, REFERENCES)
    expected = {key: {r: c.to_list() for r, c in reader.read([key]).items()} for key in (1, 2, 3, 999)}

    def read_often(key: int) -> bool:
        reads = ({r: c.to_list() for r, c in reader.read([key]).items()} for _ in range(50))
        return all(repr(read) == repr(expected[key]) for read in reads)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read_often, [1, 2, 3, 999] * 2))


def test_a_store_that_is_down_is_named_with_its_cause(tmp_path: Path) -> None:
    views = [View("recent", "user", {"clicks": Int64}, typed_views()[1].rows)]
    repo = feast_repo(tmp_path, views, redis="127.0.0.1:1")
    with pytest.raises(OnlineStoreUnavailable, match=r"recent.*ConnectionError") as caught:
        reader_of(repo, ["recent:clicks"]).read([1])
    assert caught.value.__cause__ is not None


def test_a_view_never_materialized_has_no_rows(tmp_path: Path, redis_or_none: str | None) -> None:
    views = [View("recent", "user", {"clicks": Int64}, typed_views()[1].rows)]
    repo = feast_repo(tmp_path, views, redis=redis_or_none)
    reader = reader_of(repo, ["recent:clicks"])
    assert reader.read([1])["recent:clicks"].status.tolist() == [FieldStatus.NOT_FOUND]
    materialize(repo, at(100).to_pydatetime())
    assert reader.read([1])["recent:clicks"].to_list() == [10]


def test_a_versioned_view_is_read_at_its_current_version(tmp_path: Path, redis_or_none: str | None) -> None:
    """Feast then keeps the rows of each version apart."""
    registry = {"path": "registry.db", "cache_ttl_seconds": 0, "enable_online_feature_view_versioning": True}
    repo = feast_repo(
        tmp_path,
        [View("recent", "user", {"clicks": Int64}, typed_views()[1].rows)],
        redis=redis_or_none,
        configuration={"registry": registry},
        materialize_until=at(100).to_pydatetime(),
    )
    view = repo.store.get_feature_view("recent")
    view.features = [Field(name="clicks", dtype=Float32)]
    repo.store.apply([view])
    rows = pd.DataFrame({"user_id": [1], "event_timestamp": [at(50)], "clicks": [0.5]})
    rows.to_parquet(tmp_path / "recent.parquet")
    materialize(repo, at(100).to_pydatetime())
    assert repo.store.get_feature_view("recent").current_version_number == 1
    assert_reads_as_feast_does(repo, ["recent:clicks"], [1, 2, 3])
    assert reader_of(repo, ["recent:clicks"]).read([1, 2])["recent:clicks"].to_list() == [0.5, None]
