"""The Feast repository of the benchmark: definitions, configuration, and rows written through Feast's own path."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from benchmarks.content import (
    BOTH_SIDES,
    HISTORY,
    ITEM_FEATURES,
    ITEM_SIDE,
    ITEM_VIEW,
    RANKING,
    RETRIEVAL,
    USER_FEATURES,
    USER_SIDE,
    USER_VIEW,
    Feature,
)  # fmt: skip

from feast_recsys.bundle.columns import Array
from feast_recsys.features.repo import open_repo

PROJECT = "bench"
RECOMMENDER = "shop"
STORES = ("redis", "sqlite")
REDIS_VARIABLE = "BENCH_REDIS"
"""Environment variable with the address of the Redis server; Feast puts it into its configuration."""

_MOMENT = datetime(2026, 1, 1, tzinfo=timezone.utc)


def write_configuration(folder: Path, store: str, catalogue: str, models: str, serving: Mapping[str, Any]) -> Path:
    """Writes the configuration of one store and one catalogue into the store's folder, and returns its path.

    All configurations of a store share its registry and its rows.

    Args:
        folder: The repository.
        store: `redis` or `sqlite`.
        catalogue: Names the folder of bundles, and the file.
        models: Names the folder of exported models.
        serving: Settings of the server.
    """
    online: dict[str, Any] = {"type": "sqlite", "path": "online.db"}
    if store == "redis":
        online = {"type": "redis", "connection_string": f"${{{REDIS_VARIABLE}}}"}
    document = {
        "project": PROJECT,
        "provider": "local",
        "registry": {"path": "registry.db", "cache_ttl_seconds": 0},  # never read again while serving
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
        "recsys": {
            "user": "user",
            "item": "item",
            "catalogue": ITEM_VIEW,
            "models": f"../{models}",
            "bundles": f"../bundles/{catalogue}",
            "recommenders": {RECOMMENDER: {"retrieval": {"model": RETRIEVAL}, "ranking": {"model": RANKING}}},
            "serving": dict(serving),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"feature_store.{catalogue}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def fill(
    folder: Path,
    configuration: Path,
    users: tuple[Array, Mapping[str, Array], Sequence[Sequence[int]]],
    items: tuple[Array, Mapping[str, Array]],
) -> None:
    """Applies the definitions and materializes the rows.

    Args:
        folder: The repository.
        configuration: Its configuration; a Redis server must run where REDIS_VARIABLE says.
        users: Ids, scalar columns and histories of the users.
        items: Ids and columns of those items that the online store shall hold.
    """
    repo = open_repo(folder, configuration)
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Array as FeastArray
    from feast.types import Float32, Int64

    def view(name: str, entity: Entity, features: Sequence[Feature], table: pa.Table, lists: Sequence[str]) -> Any:
        pq.write_table(table, folder / f"{name}.parquet")
        source = FileSource(name=f"{name}_file", path=str(folder / f"{name}.parquet"), timestamp_field="moment")
        schema = [Field(name=f.name, dtype=Int64 if f.keys else Float32) for f in features]
        schema += [Field(name=text, dtype=FeastArray(Int64)) for text in lists]
        return FeatureView(name=name, entities=[entity], schema=schema, source=source, online=True)

    entities = [Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64) for name in ("user", "item")]
    past = pa.array(list(users[2]), pa.list_(pa.int64()))
    user_table = _table("user_id", users[0], users[1]).append_column(HISTORY, past)
    user_view = view(USER_VIEW, entities[0], USER_FEATURES, user_table, [HISTORY])
    item_view = view(ITEM_VIEW, entities[1], ITEM_FEATURES, _table("item_id", *items), [])
    user = user_view[[f.name for f in USER_FEATURES]]
    services = [
        FeatureService(name=BOTH_SIDES, features=[user, item_view]),
        FeatureService(name=USER_SIDE, features=[user]),
        FeatureService(name=ITEM_SIDE, features=[item_view]),
    ]
    repo.store.apply([*entities, user_view, item_view, *services])
    repo.store.materialize(datetime(2025, 1, 1, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))


def redis_environment(address: str | None) -> dict[str, str]:
    """The environment of a process that opens the repository."""
    return {**os.environ, REDIS_VARIABLE: address or ""}


def _table(key: str, ids: Array, columns: Mapping[str, Array]) -> pa.Table:
    moments = pa.array([_MOMENT] * len(ids), pa.timestamp("us", tz="UTC"))
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return pa.table({key: pa.array(ids), "moment": moments, **arrays})
