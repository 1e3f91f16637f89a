"""Builds small Feast repositories for tests: real files, a real registry, a real online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import FeastType

from feast_recsys.features.repo import Repo, open_repo

TIMESTAMP = "event_timestamp"
BEGINNING = datetime(2020, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class View:
    """One feature view and the rows of its source.

    `entity` names one entity, several, or none with an empty tuple. `rows` has the join keys, `event_timestamp` and the
    features as columns; an Arrow table keeps its types exactly.
    """

    name: str
    entity: str | tuple[str, ...]
    features: Mapping[str, FeastType]
    rows: pd.DataFrame | pa.Table
    ttl: timedelta = timedelta(0)
    online: bool = True
    created: str = ""
    field_mapping: Mapping[str, str] = field(default_factory=dict)
    push_source: str | None = None


def feast_repo(
    folder: Path,
    views: Sequence[View],
    *,
    user: str = "user",
    item: str = "item",
    user_key: str = "user_id",
    item_key: str = "item_id",
    user_type: ValueType = ValueType.INT64,
    item_type: ValueType = ValueType.INT64,
    further: Sequence[Entity] = (),
    services: Mapping[str, Sequence[str]] | None = None,
    redis: str | None = None,
    settings: Mapping[str, Any] | None = None,
    configuration: Mapping[str, Any] | None = None,
    materialize_until: datetime | None = None,
) -> Repo:
    """Writes a repository, applies it and opens it.

    Args:
        folder: Where; one repository a folder.
        views: Each belongs to the entity `user` or `item` by name, or to further ones.
        user, item: Names of the entities.
        user_key, item_key: Their join keys.
        user_type, item_type: Types of their ids.
        further: Entities besides user and item.
        services: Feature services by name, as lists of `view:feature`.
        redis: Address of a Redis server; SQLite if None. Each repository is a project of its own.
        settings: Keys of the `recsys` section to add or replace.
        configuration: Keys of `feature_store.yaml` to add or replace.
        materialize_until: Materializes all views up to this moment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    online: dict[str, Any] = {"type": "sqlite", "path": "online.db"}
    if redis is not None:
        online = {"type": "redis", "connection_string": redis}
    section = {"user": user, "item": item, "catalogue": "catalogue", "recommenders": {"things": {}}}
    document = {
        "project": f"p{uuid4().hex[:12]}",
        "provider": "local",
        "registry": {"path": "registry.db", "cache_ttl_seconds": 0},
        "online_store": online,
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
        "recsys": section | dict(settings or {}),
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(document | dict(configuration or {})), encoding="utf-8")
    repo = open_repo(folder)
    entities = {
        user: Entity(name=user, join_keys=[user_key], value_type=user_type),
        item: Entity(name=item, join_keys=[item_key], value_type=item_type),
    } | {entity.name: entity for entity in further}
    declared = {view.name: _declare(folder, view, entities) for view in views}
    feature_services = [_service(name, references, declared) for name, references in (services or {}).items()]
    repo.store.apply([*entities.values(), *declared.values(), *feature_services])
    if materialize_until is not None:
        materialize(repo, materialize_until)
    return repo


def materialize(repo: Repo, until: datetime, views: Sequence[str] | None = None) -> None:
    """Copies the rows up to that moment to the online store."""
    repo.store.materialize(BEGINNING, until, feature_views=list(views) if views else None)


def at(seconds: float) -> pd.Timestamp:
    """A moment so many seconds after 2024-01-01 UTC."""
    return pd.Timestamp("2024-01-01", tz="UTC") + pd.Timedelta(seconds=seconds)


def _declare(folder: Path, view: View, entities: Mapping[str, Entity]) -> FeatureView:
    table = view.rows if isinstance(view.rows, pa.Table) else pa.Table.from_pandas(view.rows, preserve_index=False)
    path = folder / f"{view.name}.parquet"
    pq.write_table(table, path)
    source: Any = FileSource(
        name=f"{view.name}_file",
        path=str(path),
        timestamp_field=TIMESTAMP,
        created_timestamp_column=view.created,
        field_mapping=dict(view.field_mapping),
    )
    if view.push_source is not None:
        source = PushSource(name=view.push_source, batch_source=source)
    return FeatureView(
        name=view.name,
        entities=[entities[name] for name in ((view.entity,) if isinstance(view.entity, str) else view.entity)],
        ttl=view.ttl,
        schema=[Field(name=name, dtype=dtype) for name, dtype in view.features.items()],
        source=source,
        online=view.online,
    )


def _service(name: str, references: Sequence[str], views: Mapping[str, FeatureView]) -> FeatureService:
    features: dict[str, list[str]] = {}
    for reference in references:
        view, _, feature = reference.partition(":")
        features.setdefault(view, []).append(feature)
    return FeatureService(name=name, features=[views[view][names] for view, names in features.items()])
