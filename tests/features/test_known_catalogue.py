"""A catalogue read with what is known equals one that is read whole, and reads only what may have changed."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import Field, OnDemandFeatureView
from feast.types import Array, Int64, String
from support.feast_repo import TIMESTAMP, View, at, feast_repo, materialize

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.signature import Side
from feast_recsys.bundle.snapshot import open_snapshot, write_snapshot
from feast_recsys.features.catalogue import Catalogue, Known, read_catalogue
from feast_recsys.features.changes import changed_ids
from feast_recsys.features.repo import Repo, entity_key, open_repo

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")

THEN, NOW = at(100).to_pydatetime(), at(200).to_pydatetime()
REFERENCES = ["popularity:count", "catalogue:title", "catalogue:genres"]


def goods(**columns: list[object]) -> pd.DataFrame:
    ids = [1, 2, 3, 4]
    rows = {"title": [f"t{i}" for i in ids], "genres": [["x"] * i for i in ids], TIMESTAMP: [at(0)] * len(ids)}
    return pd.DataFrame({"item_id": ids, **rows, **columns})


def build(folder: Path, *, ttl: float = 0, stale: str = "serve") -> Repo:
    counts = pd.DataFrame({"item_id": [1, 2], "count": [7, 8], TIMESTAMP: [at(0)] * 2})
    views = [
        View("catalogue", "item", {"title": String, "genres": Array(String)}, goods(), ttl=timedelta(seconds=ttl)),
        View("popularity", "item", {"count": Int64}, counts),
    ]
    settings = {"serving": {"stale": {"catalogue": stale}}}
    return feast_repo(folder, views, settings=settings, materialize_until=THEN)


def known(folder: Path, catalogue: Catalogue, as_of: float = THEN.timestamp()) -> Known:
    place = folder / "known"
    place.mkdir()
    write_snapshot(place, catalogue.ids, catalogue.columns)
    return Known(open_snapshot(place), int(as_of))


def add(folder: Path, view: str, frame: pd.DataFrame) -> None:
    path = folder / f"{view}.parquet"
    pd.concat([pd.read_parquet(path), frame]).to_parquet(path)


def equal(one: Catalogue, other: Catalogue) -> None:
    assert one.ids.tolist() == other.ids.tolist()
    assert list(one.columns) == list(other.columns)
    for ours, theirs in zip(one.columns.values(), other.columns.values(), strict=True):
        for part in ("values", "status", "valid", "timestamps", "offsets"):
            np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))


def test_new_changed_and_removed_items(tmp_path: Path) -> None:
    repo = build(tmp_path)
    before = known(tmp_path, read_catalogue(repo, REFERENCES, THEN))
    path = tmp_path / "catalogue.parquet"
    table = pq.read_table(path).to_pandas()
    table[table["item_id"] != 3].to_parquet(path)
    add(tmp_path, "catalogue", goods(**{TIMESTAMP: [at(150)] * 4}).iloc[[0]].assign(item_id=9, title="new"))
    add(tmp_path, "popularity", pd.DataFrame({"item_id": [2], "count": [80], TIMESTAMP: [at(150)]}))
    materialize(repo, NOW)
    catalogue = read_catalogue(repo, REFERENCES, NOW, known=before)
    equal(catalogue, read_catalogue(repo, REFERENCES, NOW))
    assert catalogue.ids.tolist() == [1, 2, 4, 9]
    assert catalogue.known_rows is not None
    assert catalogue.known_rows.tolist() == [0, -1, 3, -1]
    assert catalogue.read_rows.tolist() == [1, 3]


@pytest.mark.parametrize("stale", ["serve", "default"])
def test_values_that_have_passed_their_ttl_are_read_again(tmp_path: Path, stale: str) -> None:
    repo = build(tmp_path, ttl=3600, stale=stale)
    now = read_catalogue(repo, REFERENCES, THEN)
    title = now.columns["catalogue:title"]
    assert set(title.status.tolist()) == {FieldStatus.OUTSIDE_MAX_AGE}
    fresh = np.full(4, FieldStatus.PRESENT, np.uint8)
    fresh[3] = FieldStatus.OUTSIDE_MAX_AGE  # that one had passed before
    columns = dict(now.columns)
    columns["catalogue:title"] = replace(title, status=fresh, valid=np.ones(4, np.bool_))
    columns["catalogue:genres"] = replace(columns["catalogue:genres"], status=fresh, valid=np.ones(4, np.bool_))
    catalogue = read_catalogue(repo, REFERENCES, NOW, known=known(tmp_path, replace(now, columns=columns)))
    assert catalogue.known_rows is not None
    assert catalogue.known_rows.tolist() == [-1, -1, -1, 3]
    assert catalogue.columns["catalogue:title"].valid[:3].tolist() == [stale == "serve"] * 3


@pytest.mark.parametrize("difference", ["features", "type", "moment"])
def test_what_does_not_fit_is_not_used(tmp_path: Path, difference: str) -> None:
    repo = build(tmp_path)
    now = read_catalogue(repo, REFERENCES, THEN)
    columns = dict(now.columns)
    as_of = THEN.timestamp()
    if difference == "features":
        del columns["popularity:count"]
    elif difference == "type":
        columns["popularity:count"] = Column.of(columns["catalogue:title"].dtype, ["1", "2", "3", "4"])
    else:
        as_of = NOW.timestamp() + 1
    catalogue = read_catalogue(repo, REFERENCES, NOW, known=known(tmp_path, replace(now, columns=columns), as_of))
    assert catalogue.known_rows is None
    equal(catalogue, now)


def test_rows_behind_on_demand_views_count(tmp_path: Path) -> None:
    repo = build(tmp_path)
    doubled = OnDemandFeatureView(
        name="doubled",
        sources=[repo.store.get_feature_view("popularity")],
        schema=[Field(name="twice", dtype=Int64)],
        mode="pandas",
        udf=_double,
        udf_string=inspect.getsource(_double),
    )
    repo.store.apply([doubled])
    repo = open_repo(tmp_path)
    add(tmp_path, "popularity", pd.DataFrame({"item_id": [2, 4], "count": [1, 1], TIMESTAMP: [at(150), at(250)]}))
    ids, unknown = changed_ids(repo, ["doubled:twice", "catalogue:title"], entity_key(repo, Side.ITEM), THEN, NOW)
    assert (ids.tolist(), unknown) == ([2], ())


def _double(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"twice": frame["count"] * 2})
