"""Feast's own commands in a copy of the repo, unchanged, on SQLite and on a real Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import prepare
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from feast import FeatureStore

from feast_recsys.features.settings import parse_settings

FEAST = Path(sys.executable).with_name("feast")
FILES = ("feature_store.yaml", "feature_store.redis.yaml")
VIEWS = {"user_profile", "user_history", "user_seen", "item_profile", "item_popularity", "item_vectors"}


def feast(repo: Path, file: str, *arguments: str, cwd: Path | None = None) -> str:
    """Runs the command line as a user would; returns what it printed."""
    where = [] if cwd == repo else ["-c", str(repo), "-f", str(repo / file)]
    done = subprocess.run([str(FEAST), *where, *arguments], capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and "FutureWarning" not in done.stderr, done.stderr
    return done.stdout


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


def materialize(repo: Path, file: str) -> FeatureStore:
    """`feast apply` and `feast materialize-incremental`, before any run of our own."""
    feast(repo, file, "apply")
    feast(repo, file, "materialize-incremental", now())
    return FeatureStore(repo_path=str(repo), fs_yaml_file=repo / file)


@pytest.fixture(scope="session")
def on_sqlite(scratch_repo: Path) -> FeatureStore:
    return materialize(scratch_repo, "feature_store.yaml")


@pytest.fixture(scope="session")
def on_redis(scratch_repo: Path, redis_server: str) -> Iterator[FeatureStore]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_CONNECTION", f"{redis_server},db=5")  # other tests keep other data in this server
        yield materialize(scratch_repo, "feature_store.redis.yaml")


@pytest.fixture(params=["on_sqlite", "on_redis"])
def materialized(request: pytest.FixtureRequest) -> FeatureStore:
    store: FeatureStore = request.getfixturevalue(request.param)
    return store


def online(store: FeatureStore, references: list[str], **keys: list[int]) -> dict[str, list[object]]:
    return store.get_online_features(references, keys, full_feature_names=True).to_dict()


@pytest.mark.parametrize("view", sorted(VIEWS - {"item_vectors"}))
def test_what_materialization_puts_online_is_the_last_row_of_the_file(
    materialized: FeatureStore, scratch_repo: Path, view: str
) -> None:
    rows = pq.read_table(scratch_repo / "data" / f"{view}.parquet").to_pylist()
    key = materialized.get_feature_view(view).join_keys[0]
    last = {row[key]: row for row in sorted(rows, key=lambda row: row["event_timestamp"])}
    features = [feature.name for feature in materialized.get_feature_view(view).features]
    served = online(materialized, [f"{view}:{feature}" for feature in features], **{key: list(last)})
    for feature in features:
        assert served[f"{view}__{feature}"] == [row[feature] for row in last.values()]


def test_feature_views_list_shows_every_view(on_sqlite: FeatureStore, scratch_repo: Path) -> None:
    printed = feast(scratch_repo, "feature_store.yaml", "feature-views", "list")
    assert {line.split()[0] for line in printed.splitlines()[1:] if line.strip()} == VIEWS


def test_item_vectors_are_missing_before_the_first_run_and_exact_after_it(
    materialized: FeatureStore, scratch_repo: Path
) -> None:
    """The contract of the materialization job: append rows with one moment, replace the file, write them online."""
    assert online(materialized, ["item_vectors:vector"], item_id=[1, 2]) == {
        "item_id": [1, 2],
        "item_vectors__vector": [None, None],
    }
    file = scratch_repo / "data" / prepare.VECTORS
    empty = file.read_bytes()
    for seed in (1, 2):
        vectors = np.random.default_rng(seed).normal(size=(30, 4)).astype(np.float32)
        columns = [pa.array(range(1, 31)), pa.array(list(vectors), pa.list_(pa.float32()))]
        moment = datetime.now(timezone.utc)
        columns.append(pa.array([moment] * 30, prepare.ITEM_VECTORS.field("event_timestamp").type))
        rows = pa.Table.from_arrays(columns, schema=prepare.ITEM_VECTORS)
        prepare.write_parquet(pa.concat_tables([pq.read_table(file), rows]), file)
        materialized.write_to_online_store("item_vectors", rows.to_pandas())
        check = online(materialized, ["item_vectors:vector"], item_id=list(range(1, 31)))["item_vectors__vector"]
        assert np.array_equal(np.array(check, np.float32), vectors)
    # Feast's own materialization of the same file changes nothing.
    materialized.materialize(datetime(1990, 1, 1), datetime.now(timezone.utc), feature_views=["item_vectors"])
    again = online(materialized, ["item_vectors:vector"], item_id=list(range(1, 31)))["item_vectors__vector"]
    assert again == check
    file.write_bytes(empty)


def test_a_pushed_history_is_served_at_once(materialized: FeatureStore) -> None:
    frame = pd.DataFrame(
        {
            "user_id": [7],
            "item_ids": [[3, 1]],
            "seen_count": [99],
            "liked_count": [2],
            "mean_rating": np.array([4.5], np.float32),
            "event_timestamp": [pd.Timestamp.now(tz="UTC")],
        }
    )
    materialized.push("user_history_push", frame)
    served = online(materialized, ["user_history:item_ids", "user_history:seen_count"], user_id=[7])
    assert served == {"user_id": [7], "user_history__item_ids": [[3, 1]], "user_history__seen_count": [99]}


def test_a_label_joined_one_second_earlier_sees_only_what_came_before_it(
    on_sqlite: FeatureStore, scratch_repo: Path
) -> None:
    events = pq.read_table(scratch_repo / "data" / "interactions.parquet").to_pandas()
    moments = (events["event_timestamp"] - pd.Timedelta(seconds=1)).rename("event_timestamp")
    asked = pd.concat([events[["user_id"]], moments], axis=1).drop_duplicates(ignore_index=True)
    joined = on_sqlite.get_historical_features(asked, ["user_history:item_ids", "user_history:seen_count"]).to_df()
    checked = 0
    # Feast's file store drops the rows of users who have nothing but later histories: hence the left join.
    for row in asked.merge(joined, how="left", validate="1:1").itertuples():
        past = events[(events.user_id == row.user_id) & (events.event_timestamp <= row.event_timestamp)]
        if past.empty:
            assert pd.isna(row.seen_count)
            continue
        assert row.seen_count == len(past)
        liked = past[past.rating >= 4].sort_values(["event_timestamp", "item_id"], ascending=False)
        assert list(row.item_ids) == list(liked.item_id)[:50]
        checked += 1
    assert checked > len(asked) / 2


def test_profiles_are_known_before_the_first_rating(on_sqlite: FeatureStore, scratch_repo: Path) -> None:
    events = pq.read_table(scratch_repo / "data" / "interactions.parquet").to_pandas()
    asked = events[["user_id", "item_id", "event_timestamp"]].head(1)
    asked = asked.assign(event_timestamp=asked["event_timestamp"] - pd.Timedelta(seconds=1))
    joined = on_sqlite.get_historical_features(asked, ["user_profile:age", "item_profile:title"]).to_df()
    assert joined["age"].tolist() == [20 + asked["user_id"].item()]
    assert joined["title"].tolist() == [f"Movie {asked['item_id'].item()}"]


def test_apply_works_inside_the_folder_too_and_finds_nothing_to_do(on_sqlite: FeatureStore, scratch_repo: Path) -> None:
    assert "No changes to infrastructure" in feast(scratch_repo, FILES[0], "apply", cwd=scratch_repo)


def test_both_files_configure_the_same_recommenders(scratch_repo: Path) -> None:
    sections = {}
    for name in FILES:
        file = scratch_repo / name
        sections[name] = yaml.safe_load(file.read_text())["recsys"]
        parse_settings(sections[name], file)
    assert sections[FILES[1]].pop("bundles") == "data/redis/bundles", "a bundle belongs to one online store"
    assert sections[FILES[0]] == sections[FILES[1]]


def test_every_reference_of_the_settings_exists(on_sqlite: FeatureStore, scratch_repo: Path) -> None:
    file = scratch_repo / FILES[0]
    settings = parse_settings(yaml.safe_load(file.read_text())["recsys"], file)
    movies = settings.recommender("movies")
    assert movies.ranking is not None
    references = [movies.title, movies.retrieval.vectors, movies.retrieval.history, *movies.seen]
    references += [reference for cross in movies.ranking.crosses for reference in cross]
    for reference in references:
        view, feature = reference.split(":")
        if view == "entity":
            assert feature in {on_sqlite.get_entity(name).join_key for name in (settings.user, settings.item)}
        else:
            assert feature in {field.name for field in on_sqlite.get_feature_view(view).features}, reference
    assert settings.catalogue in VIEWS
    for service in (movies.retrieval.query, movies.retrieval.item, movies.ranking.features):
        assert on_sqlite.get_feature_service(service)


def test_no_view_expires_before_its_data_is_a_century_old(on_sqlite: FeatureStore) -> None:
    assert all(view.ttl > timedelta(days=36_000) for view in on_sqlite.list_feature_views())
