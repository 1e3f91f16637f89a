"""What reaches the online store of new rows is what Feast's own incremental run would bring."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import BatchFeatureView
from feast.types import Array, Float32, Float64, Int64, String, UnixTimestamp
from support.feast_repo import TIMESTAMP, View, at, feast_repo, materialize

from feast_recsys.features.local_rows import local_rows
from feast_recsys.jobs.new_rows import write_new_rows

IDS = list(range(1, 9))
MAPPING = {"cost": "price"}
FEATURES = {"price": Float64, "year": Int64, "title": String, "seen": UnixTimestamp, "tags": Array(String),
            "sizes": Array(Float32)}  # fmt: skip


def rows():
    """A history of each item; the times of creation decide between rows of one moment."""
    rng = np.random.default_rng(0)
    n = 60
    keys, seconds = rng.choice(IDS, n), rng.integers(0, 20, n)
    created = rng.permutation(n)
    return pa.table(
        {
            "item_id": pa.array(keys),
            "cost": pa.array([None if i % 7 == 0 else i / 3 for i in range(n)], pa.float64()),
            "year": pa.array([None if i % 5 == 0 else i for i in range(n)], pa.int64()),
            "title": pa.array([None if i % 6 == 0 else f"Höse {i}" for i in range(n)]),
            "seen": pa.array([at(i + 0.25) for i in range(n)], pa.timestamp("us", "UTC")),
            "tags": pa.array([None if i % 8 == 0 else ["a"] * (i % 3) for i in range(n)], pa.list_(pa.string())),
            "sizes": pa.array([None if i % 9 == 0 else [i / 3] * (i % 4) for i in range(n)], pa.list_(pa.float32())),
            TIMESTAMP: pa.array([at(int(s)) for s in seconds], pa.timestamp("us", "UTC")),
            "created": pa.array([at(100 + int(c)) for c in created], pa.timestamp("us", "UTC")),
        }
    )


def build(folder):
    catalogue = View("catalogue", "item", FEATURES, rows(), created="created", field_mapping=MAPPING)
    repo = feast_repo(folder, [catalogue])
    materialize(repo, at(8).to_pydatetime())
    repo.store.refresh_registry()
    return repo, repo.store.get_feature_view("catalogue")


def online(repo):
    features = [f"catalogue:{name}" for name in FEATURES]
    return repo.store.get_online_features(features, [{"item_id": i} for i in IDS]).to_dict()


def test_it_is_what_feast_writes(tmp_path):
    ours, view = build(tmp_path / "ours")
    feasts, _ = build(tmp_path / "feasts")
    assert online(ours) == online(feasts)
    start, end = view.most_recent_end_time, at(15).to_pydatetime()
    assert write_new_rows(ours, view, start, end)
    feasts.store.materialize_incremental(end, ["catalogue"])
    assert online(ours) == online(feasts)
    assert ours.store.get_feature_view("catalogue").most_recent_end_time == end


def test_the_last_row_of_each_key_counts(tmp_path):
    repo, view = build(tmp_path)
    found = local_rows(repo, view, ["item_id"]).latest(["cost"], at(3).to_pydatetime(), at(15).to_pydatetime())
    frame = rows().to_pandas()
    frame = frame[frame[TIMESTAMP].between(at(3), at(15))].sort_values([TIMESTAMP, "created"])
    expected = frame.groupby("item_id")["cost"].agg(lambda values: values.iloc[-1])
    got = found.to_pandas().set_index("item_id")["cost"].sort_index()
    pd.testing.assert_series_equal(got, expected, check_names=False)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", None])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_both_ends_of_a_range_count_whatever_the_type_of_the_column(tmp_path, zone, unit):
    table = pa.table(
        {"item_id": IDS[:4], "x": [1, 2, 3, 4], TIMESTAMP: pa.array([1, 2, 3, 4], pa.timestamp("s"))}
    )  # fmt: skip
    moments = table[TIMESTAMP].cast(pa.timestamp(unit)).cast(pa.timestamp(unit, zone))
    table = table.set_column(2, TIMESTAMP, moments)
    repo = feast_repo(tmp_path, [View("catalogue", "item", {"x": Int64}, table)])
    local = local_rows(repo, repo.store.get_feature_view("catalogue"), ["item_id"])
    start = pd.Timestamp(2, unit="s", tz="UTC").to_pydatetime()
    assert local.latest(["x"], start, start + timedelta(seconds=1))["x"].to_pylist() == [2, 3]
    assert local.latest(["x"], None, start)["x"].to_pylist() == [1, 2]


@pytest.mark.filterwarnings("ignore:Batch feature views are experimental:RuntimeWarning")
def test_what_only_feast_can_do_is_left_to_feast(tmp_path):
    repo, view = build(tmp_path)
    start, end = view.most_recent_end_time, at(15).to_pydatetime()
    before = online(repo)
    batch = BatchFeatureView(name="other", entities=[], schema=view.schema, source=view.batch_source, online=True)
    assert not write_new_rows(repo, batch, start, end)
    view.batch_source.file_options.uri = "s3://somewhere/else.parquet"
    assert not write_new_rows(repo, view, start, end)
    assert online(repo) == before
