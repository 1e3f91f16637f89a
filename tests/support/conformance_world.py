"""A repository with every way in which Feast lets a view be keyed and a feature service name it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureService, ValueType
from feast.types import Array, Float32, Int64, String
from support.feast_repo import View, at, feast_repo
from support.feature_types import EVERY_TYPE, MOMENT

from feast_recsys.features.repo import Repo

USERS = [1, 2, 3, 4, -9]
SHOPS = ["north", "", "ž 🐎"]
SHOP = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)
STALE = ("expired:age",)


def moments(seconds: list[float]) -> pa.Array:
    return pa.array([at(s) for s in seconds], MOMENT)


def world_views() -> list[View]:
    typed = {"user_id": USERS, "event_timestamp": moments([10.0, 20, 30, 40, 50])}
    typed |= {name: pa.array(values, kind) for name, _, kind, values in EVERY_TYPE}
    visits = {
        "user_id": [1, 1, 2, -9],
        "shop_id": ["north", "", "north", "ž 🐎"],
        "event_timestamp": moments([1, 2, 3, 4]),
        "times": [11, None, 21, 91],
        "bought": [["a"], [], None, ["b", "c"]],
    }
    prices = {"shop_id": SHOPS, "event_timestamp": moments([5, 6, 7]), "level": pa.array([0.5, None, -0.0], "float32")}
    total = {"event_timestamp": moments([9]), "users": [5], "words": [["x", "y"]]}
    expired = {"user_id": [1, 2], "event_timestamp": moments([1, 2]), "age": [10, 20]}
    return [
        View("typed", "user", {name: kind for name, kind, *_ in EVERY_TYPE}, pa.table(typed)),
        View("visits", ("user", "shop"), {"times": Int64, "bought": Array(String)}, pa.table(visits)),
        View("prices", "shop", {"level": Float32}, pa.table(prices)),
        View("total", (), {"users": Int64, "words": Array(String)}, pa.table(total)),
        View("expired", "user", {"age": Int64}, pa.table(expired), ttl=timedelta(days=1)),
    ]


def conformance_world(folder: Path, redis: str | None) -> Repo:
    """Applied and materialized, with these feature services:

    `everything`: all views by their own names. `aliased`: one view three times, as the user's, a friend's and a
    rival's, the last two under renamed join keys, and a composite key of which one part is renamed.
    """
    repo = feast_repo(folder, world_views(), further=[SHOP], redis=redis, materialize_until=at(1000).to_pydatetime())
    views: dict[str, Any] = {view.name: repo.store.get_feature_view(view.name) for view in world_views()}
    typed, visits = views["typed"], views["visits"]
    repo.store.apply(
        [
            FeatureService(name="everything", features=list(views.values())),
            FeatureService(
                name="aliased",
                features=[
                    typed.with_name("own"),
                    typed[["int64", "strings"]].with_name("friend").with_join_key_map({"user_id": "friend_id"}),
                    typed[["strings", "float64"]].with_name("rival").with_join_key_map({"user_id": "rival_id"}),
                    visits.with_name("there").with_join_key_map({"shop_id": "place"}),
                ],
            ),
        ]
    )
    return repo
