"""Interactions, read as the settings say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import ValueType
from feast.types import Int64
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.features.training import read_interactions

ROWS = pd.DataFrame(
    {
        "user_id": [2, 1, 1, 3, 1],
        "item_id": [30, 20, 10, 10, 30],
        "event_timestamp": [at(5), at(5), at(5), at(5), at(0.9)],
        "rating": [4.0, 3.5, 5.0, 1.0, 4.0],
        "note": ["a", "b", "c", "d", "e"],
    }
)


def build(folder: Path, rows: pd.DataFrame | None, options: dict[str, Any] | None, **more: Any) -> Repo:
    view = View("clicks", "user", {"n": Int64}, pd.DataFrame({"user_id": [1], "event_timestamp": [at(0)], "n": [1]}))
    if more:
        view = View(
            "clicks", "reader", {"n": Int64}, pd.DataFrame({"login": ["a"], "event_timestamp": [at(0)], "n": [1]})
        )
    settings = {} if options is None else {"interactions": {"path": "log.parquet", **options}}
    repo = feast_repo(folder, [view], settings=settings, **more)
    if rows is not None:
        rows.to_parquet(folder / "log.parquet")
    return repo


def test_sorted_by_time_then_item_with_labels(tmp_path: Path) -> None:
    read = read_interactions(build(tmp_path, ROWS, {"label": "rating", "positive_from": 4}))
    start = int(at(0).timestamp())
    assert read.timestamps.tolist() == [start, start + 5, start + 5, start + 5, start + 5]
    assert read.items.tolist() == [30, 10, 10, 20, 30]
    assert read.users.tolist() == [1, 1, 3, 1, 2]
    assert read.labels.tolist() == [4.0, 5.0, 1.0, 3.5, 4.0]
    assert read.positive.tolist() == [True, True, False, False, True]
    dtypes = (read.users.dtype, read.items.dtype, read.timestamps.dtype, read.labels.dtype, read.positive.dtype)
    assert dtypes == (np.int64, np.int64, np.int64, np.float32, np.bool_)
    assert len(read) == 5


def test_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    first = read_interactions(build(tmp_path / "a", ROWS, {"label": "rating"}))
    second = read_interactions(build(tmp_path / "b", ROWS.iloc[::-1], {"label": "rating"}))
    for name in ("users", "items", "timestamps", "labels", "positive"):
        assert getattr(first, name).tolist() == getattr(second, name).tolist()


def test_without_a_label_every_row_is_a_like(tmp_path: Path) -> None:
    read = read_interactions(build(tmp_path, ROWS, {}))
    assert read.labels.tolist() == [1.0] * 5
    assert read.positive.tolist() == [True] * 5


def test_string_ids_and_other_column_names(tmp_path: Path) -> None:
    rows = pd.DataFrame({"login": ["b", "a"], "item_id": [1, 1], "when": [at(1), at(1)]}).astype({"login": "category"})
    rows["when"] = rows.when.dt.tz_localize(None)
    repo = build(tmp_path, rows, {"timestamp": "when"}, user="reader", user_key="login", user_type=ValueType.STRING)
    read = read_interactions(repo)
    assert read.users.tolist() == ["a", "b"]
    assert read.users.dtype == object
    assert read.timestamps.tolist() == [int(at(1).timestamp())] * 2


def test_a_folder_of_files(tmp_path: Path) -> None:
    repo = build(tmp_path, None, {"label": "rating"})
    (tmp_path / "log.parquet").mkdir()
    ROWS.iloc[:2].to_parquet(tmp_path / "log.parquet" / "a.parquet")
    ROWS.iloc[2:].to_parquet(tmp_path / "log.parquet" / "b.parquet")
    assert read_interactions(repo).users.tolist() == [1, 1, 3, 1, 2]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (None, None, "recsys.interactions"),
        (None, {}, "does not exist"),
        (ROWS, {"label": "stars"}, r"'stars'.*user_id, item_id, event_timestamp, rating, note"),
        (ROWS.drop(columns="item_id"), {}, r"'item_id'.*user_id"),
        (ROWS, {"label": "note"}, "'note'.*not numbers"),
        (ROWS, {"timestamp": "rating"}, "'rating'.*not timestamps"),
        (ROWS.astype({"user_id": str}), {}, r"'user_id'.*string.*int64"),
        (ROWS.astype({"item_id": float}), {}, r"'item_id'.*double.*int64"),
        (ROWS.assign(rating=[1.0, None, 1.0, 1.0, 1.0]), {"label": "rating"}, "'rating' holds nulls"),
        (ROWS.assign(item_id=pd.array([1, None, 1, 1, 1], "Int64")), {}, "'item_id' holds nulls"),
    ],
)
def test_what_is_wrong_is_named(
    tmp_path: Path, rows: pd.DataFrame | None, options: dict[str, Any] | None, message: str
) -> None:
    with pytest.raises(InvalidSettings, match=message):
        read_interactions(build(tmp_path, rows, options))


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    repo = build(tmp_path, None, {})
    (tmp_path / "log.parquet").write_text("user_id,item_id\n")
    with pytest.raises(InvalidSettings, match="no Parquet"):
        read_interactions(repo)
