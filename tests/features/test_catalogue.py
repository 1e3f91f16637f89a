"""The catalogue: which items there are is offline knowledge, their features are what serving would read."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from feast import ValueType
from feast.types import Array, Int64, String
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import FieldStatus
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.features.catalogue import read_catalogue
from feast_recsys.features.repo import Repo

AS_OF = at(100).to_pydatetime()


def catalogue_rows() -> pd.DataFrame:
    """Items 1 to 6 in no order; item 3 has two rows, item 6 comes to exist only later."""
    return pd.DataFrame(
        {
            "item_id": [5, 3, 1, 3, 4, 2, 6],
            "event_timestamp": [at(0), at(0), at(0), at(50), at(0), at(0), at(500)],
            "title": ["five", "old", "one", "three", "four", "two", "six"],
            "genres": [["x"], [], ["x", "y"], ["z"], [], ["y"], ["x"]],
        }
    )


def popularity_rows() -> pd.DataFrame:
    return pd.DataFrame({"item_id": [1, 9], "event_timestamp": [at(10), at(10)], "count": [7, 9]})


def build(folder: Path, redis: str | None, **options: object) -> Repo:
    views = [
        View("catalogue", "item", {"title": String, "genres": Array(String)}, catalogue_rows()),
        View("popularity", "item", {"count": Int64}, popularity_rows()),
    ]
    return feast_repo(folder, views, redis=redis, materialize_until=AS_OF, **options)  # type: ignore[arg-type]


REFERENCES = ["popularity:count", "catalogue:title", "catalogue:genres"]


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_every_item_once_in_ascending_order_with_its_features(
    tmp_path: Path, redis_or_none: str | None, chunk: int
) -> None:
    told: list[tuple[int, int]] = []
    catalogue = read_catalogue(
        build(tmp_path, redis_or_none), REFERENCES, AS_OF, chunk=chunk, progress=lambda *now: told.append(now)
    )
    assert catalogue.ids.tolist() == [1, 2, 3, 4, 5]
    assert catalogue.ids.dtype == np.int64
    assert list(catalogue.columns) == REFERENCES
    assert catalogue.columns["catalogue:title"].to_list() == ["one", "two", "three", "four", "five"]
    assert catalogue.columns["catalogue:genres"].to_list() == [["x", "y"], ["y"], ["z"], [], ["x"]]
    assert catalogue.columns["popularity:count"].to_list() == [7, None, None, None, None]
    seconds = [int(at(s).timestamp()) for s in (0, 0, 50, 0, 0)]
    assert catalogue.columns["catalogue:title"].timestamps.tolist() == seconds
    assert told[-1] == (5, 5)
    assert len(told) == -(-5 // chunk)


def test_an_item_is_there_from_its_first_row_on(tmp_path: Path) -> None:
    repo = build(tmp_path, None)
    later = read_catalogue(repo, REFERENCES, at(500).to_pydatetime())
    assert later.ids.tolist() == [1, 2, 3, 4, 5, 6]
    # Known offline but not materialized yet: visible as such, not left out.
    assert later.columns["catalogue:title"].status.tolist()[-1] == FieldStatus.NOT_FOUND
    before = read_catalogue(repo, REFERENCES, at(-1).to_pydatetime())
    assert len(before) == 0
    assert [len(column) for column in before.columns.values()] == [0, 0, 0]


def test_string_ids(tmp_path: Path, redis_or_none: str | None) -> None:
    rows = pd.DataFrame({"sku": ["b", "a", "ž", "10", "9"], "event_timestamp": [at(0)] * 5, "n": [1, 2, 3, 4, 5]})
    repo = feast_repo(
        tmp_path,
        [View("goods", "product", {"n": Int64}, rows)],
        item="product",
        item_key="sku",
        item_type=ValueType.STRING,
        redis=redis_or_none,
        settings={"catalogue": "goods"},
        materialize_until=AS_OF,
    )
    catalogue = read_catalogue(repo, ["goods:n"], AS_OF)
    assert catalogue.ids.tolist() == ["10", "9", "a", "b", "ž"]
    assert catalogue.ids.dtype == object
    assert catalogue.columns["goods:n"].to_list() == [4, 5, 2, 1, 3]


def test_renamed_key_columns_of_the_source(tmp_path: Path) -> None:
    rows = catalogue_rows().rename(columns={"item_id": "movie"})
    view = View("catalogue", "item", {"title": String}, rows, field_mapping={"movie": "item_id"})
    repo = feast_repo(tmp_path, [view], materialize_until=AS_OF)
    assert read_catalogue(repo, ["catalogue:title"], AS_OF).ids.tolist() == [1, 2, 3, 4, 5]


def test_a_moment_without_time_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="as_of"):
        read_catalogue(build(tmp_path, None), REFERENCES, datetime(2024, 1, 1))


def test_ttl_does_not_remove_items(tmp_path: Path) -> None:
    view = View("catalogue", "item", {"title": String}, catalogue_rows(), ttl=timedelta(seconds=1))
    repo = feast_repo(tmp_path, [view], materialize_until=AS_OF)
    catalogue = read_catalogue(repo, ["catalogue:title"], AS_OF)
    assert catalogue.columns["catalogue:title"].to_list() == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("name", ["absent", "visits"])
def test_the_catalogue_must_be_a_view_of_items(tmp_path: Path, name: str) -> None:
    visits = pd.DataFrame({"user_id": [1], "event_timestamp": [at(0)], "n": [1]})
    views = [
        View("things", "item", {"title": String}, catalogue_rows()),
        View("visits", "user", {"n": Int64}, visits),
    ]
    repo = feast_repo(tmp_path, views, settings={"catalogue": name}, materialize_until=AS_OF)
    with pytest.raises(InvalidRepository, match=name):
        read_catalogue(repo, ["things:title"], AS_OF)


def test_rows_without_an_id_are_named(tmp_path: Path) -> None:
    rows = catalogue_rows().astype({"item_id": "Int64"})
    repo = feast_repo(tmp_path, [View("catalogue", "item", {"title": String}, rows)])
    rows.loc[0, "item_id"] = None
    rows.to_parquet(tmp_path / "catalogue.parquet")
    with pytest.raises(InvalidRepository, match=r"catalogue.*without 'item_id'"):
        read_catalogue(repo, ["catalogue:title"], AS_OF)
