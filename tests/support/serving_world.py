"""A small Feast repository with two recommenders, for tests of the server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
from feast import ValueType
from feast.types import Array, Bool, Float32, Int64, String
from onnx import ModelProto
from support.feast_repo import View, at, feast_repo

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.repo import Repo

DIMENSION = 4
ITEMS = 40
AS_OF = 1_767_268_800
NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
GENRES = ("x", "y", "z")

# Users 1 and 2 are complete, 3 has nulls, 4 has a profile only, 5 nothing but a list of seen items; 99 is nobody.
USERS = [1, 2, 3, 4, 5]
PROFILE = {"age": [1, 3, None, 2], "gender": ["f", "m", None, "f"], "spend": [0.5, 1.5, None, 2.0]}
HISTORY = {1: [3, 4], 2: [7, 8, 9, 10], 3: []}
SEEN = {1: [1, 2, 3], 2: [20, 21], 5: [30, 31, 32]}


def key(number: int, text: bool) -> int | str:
    """The id of a user or item, as a number or as text that sorts alike."""
    return f"k{number:03d}" if text else number


def user_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        Input("age", "profile:age", Side.USER, DType.INT64, default=2),
        Input("gender", "profile:gender", Side.USER, DType.STRING, default="f", vocabulary="gender.json"),
        Input("history", "history:items", Side.USER, kind, 3, kind.zero, kind.zero, vocabulary="items.json"),
        Input("hour", "request:hour", Side.CONTEXT, DType.INT64, default=1),
    )


def item_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        Input("item", "entity:item_id", Side.ITEM, kind, default=kind.zero, vocabulary="items.json"),
        Input("year", "catalogue:year", Side.ITEM, DType.INT64, default=1),
        Input("genres", "catalogue:genres", Side.ITEM, DType.STRING, 2, pad="", default="", vocabulary="genres.json"),
    )


def ranker_inputs(text: bool) -> tuple[Input, ...]:
    kind = DType.STRING if text else DType.INT64
    return (
        *user_inputs(text),
        Input("spend", "profile:spend", Side.USER, DType.FLOAT32, default=0.25),
        Input("user", "entity:user_id", Side.USER, kind, default=kind.zero, vocabulary="users.json"),
        *item_inputs(text),
        Input("price", "catalogue:price", Side.ITEM, DType.FLOAT32, default=0.75),
        Input("adult", "catalogue:adult", Side.ITEM, DType.BOOL, default=False),
        Input("retrieval_score", "request:retrieval_score", Side.ITEM, DType.FLOAT32, default=0.0),
        Input("discount", "request:discount", Side.ITEM, DType.INT64, default=0),
    )


@dataclass(frozen=True)
class World:
    """A repository with materialized features, its ids, and how its bundles are to be made.

    `split` rankers come in parts; `fresh` features of items are read at each request; a `ranker` of one's own is its
    inputs and its graph.
    """

    repo: Repo
    text: bool
    split: bool = True
    fresh: frozenset[str] = frozenset()
    ranker: tuple[tuple[Input, ...], ModelProto] | None = None

    @property
    def bundles(self) -> Path:
        return self.repo.resolve(self.repo.settings.bundles)

    @property
    def item_ids(self) -> list[str]:
        return [str(key(n, self.text)) for n in range(1, ITEMS + 1)]

    def id(self, number: int) -> str:
        """A user's or item's id as the wire has it."""
        return str(key(number, self.text))

    def online(self, entity: str, references: Sequence[str], ids: Sequence[str]) -> list[dict[str, Any]]:
        """What Feast itself says: one dict of raw values by reference for each id."""
        rows = [{entity: i if self.text else int(i)} for i in ids]
        answer = self.repo.store.get_online_features(list(references), rows, full_feature_names=True).to_dict()
        return [{r: answer[r.replace(":", "__")][n] for r in references} for n in range(len(ids))]

    def vocabularies(self) -> dict[str, Vocabulary]:
        return {
            "gender.json": Vocabulary(("f", "m")),
            "items.json": Vocabulary(tuple(key(n, self.text) for n in range(1, ITEMS + 1))),  # type: ignore[arg-type]
            "users.json": Vocabulary(tuple(key(n, self.text) for n in USERS)),  # type: ignore[arg-type]
            "genres.json": Vocabulary(GENRES),
        }


def build_world(
    folder: Path,
    *,
    redis: str | None = None,
    text: bool = False,
    ttl: timedelta = timedelta(0),
    serving: Mapping[str, Any] | None = None,
    recommenders: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> World:
    """Writes, applies and materializes the repository.

    Args:
        folder: Where.
        redis: Address of a Redis server; SQLite if None.
        text: Whether ids are text.
        ttl: Of the profiles; 0 for none.
        serving: Keys of the settings' section to add or replace.
        recommenders: The whole section instead of `both` and `plain`.
        settings: Further keys of the `recsys` section.
    """
    both = {"seen": ["seen:items", "history:items"], "top_k": 5, "candidates": 12}
    fast = {"address": "127.0.0.1:0", "poll_seconds": 0.02, "store_timeout_ms": 5000, "drain_seconds": 2.0}
    key_type = ValueType.STRING if text else ValueType.INT64
    repo = feast_repo(
        folder,
        _views(text, ttl),
        redis=redis,
        user_type=key_type,
        item_type=key_type,
        settings={
            "recommenders": dict(recommenders or {"both": both, "plain": {"ranking": None, "candidates": 7}}),
            "serving": fast | dict(serving or {}),
            **(settings or {}),
        },
        materialize_until=datetime(2024, 1, 2, tzinfo=timezone.utc),
    )
    return World(repo, text)


def rows(text: bool, join_key: str, numbers: Iterable[int], **features: Any) -> pd.DataFrame:
    """Rows of a feature view, all of one moment."""
    ids = [key(n, text) for n in numbers]
    return pd.DataFrame({join_key: ids, "event_timestamp": [at(0)] * len(ids), **features})


def _views(text: bool, ttl: timedelta) -> list[View]:
    lists = Array(String if text else Int64)
    item_features = {"title": String, "year": Int64, "genres": Array(String), "price": Float32, "adult": Bool}
    numbers = range(1, ITEMS + 1)
    items = rows(
        text,
        "item_id",
        numbers,
        title=[f"title {n}" for n in numbers],
        year=pd.array([None if n == 5 else n % 4 for n in numbers], "Int64"),
        genres=[list(GENRES[: n % 4]) for n in numbers],
        price=[None if n == 6 else n / 8 for n in numbers],
        adult=[n % 5 == 0 for n in numbers],
    )
    profile = {**PROFILE, "age": pd.array(PROFILE["age"], "Int64")}
    user_features = {"age": Int64, "gender": String, "spend": Float32}

    def keyed(values: Mapping[int, Sequence[int]]) -> pd.DataFrame:
        return rows(text, "user_id", values, items=[[key(n, text) for n in row] for row in values.values()])

    return [
        View("profile", "user", user_features, rows(text, "user_id", [1, 2, 3, 4], **profile), ttl),
        View("history", "user", {"items": lists}, keyed(HISTORY)),
        View("seen", "user", {"items": lists}, keyed(SEEN)),
        View("catalogue", "item", item_features, items),
    ]
