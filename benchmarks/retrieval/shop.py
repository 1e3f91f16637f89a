"""A shop whose catalogue changes: a Feast repository with Parquet and SQLite, an item tower, an IVF index.

Its items are those of the server's benchmark: five categories and five numbers each, and vectors of 64 numbers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from benchmarks import content
from benchmarks.content import HISTORY, ITEM_FEATURES, ITEM_VIEW, RETRIEVAL, USER_FEATURES, USER_VIEW

from feast_recsys.bundle.columns import Array
from feast_recsys.features.repo import Repo, open_repo

RECOMMENDER = "shop"
USERS = 1_000

_KEY, _MOMENT, _PUSHED = "item_id", "moment", "item_rows"
_BEGINNING = datetime(2026, 1, 1, tzinfo=timezone.utc)
_NAMES = [feature.name for feature in ITEM_FEATURES]


@dataclass(frozen=True)
class Change:
    """What happened to the catalogue between two runs.

    A new or changed item has the features of a model, another item that stays as it is, and thus its vector: a search
    for items like the model must find it. Some changed items took over the features of items that are gone.

    Attributes:
        new, new_models: [m] ids of items that came, and of their models.
        changed, changed_models: [k] likewise, of items that were there before.
        gone: [g] ids of items that were deleted.
        heirs: [g] ids of the changed items that have their features now.
    """

    new: Array
    new_models: Array
    changed: Array
    changed_models: Array
    gone: Array
    heirs: Array


def export_towers(folder: Path) -> None:
    """Writes the models of the server's benchmark: two towers, and a ranker whose item part runs over all items."""
    from benchmarks.models import export_models  # brings PyTorch along

    export_models(folder)


def build(folder: Path, items: int, export: Callable[[Path], None] = export_towers) -> None:
    """Makes the repository of a shop in an empty folder: models, configuration, definitions, Parquet files.

    Nothing is materialized.

    Args:
        folder: Where.
        items: Size of the catalogue.
        export: Writes the exported models into the folder that it is given.
    """
    folder.mkdir(parents=True, exist_ok=True)
    export(folder / "models")
    _configure(folder, items)
    pq.write_table(_table(content.item_ids(items), content.item_columns(items), _BEGINNING), _items(folder))
    users, past = content.user_columns(USERS), content.histories(USERS, items)
    arrays = {name: pa.array(values) for name, values in users.items()}
    moments = pa.array([_BEGINNING] * USERS, pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": content.user_ids(USERS), "moment": moments, **arrays})
    past_column = pa.array(past, pa.list_(pa.int64()))
    pq.write_table(table.append_column(HISTORY, past_column), folder / f"{USER_VIEW}.parquet")
    _declare(folder)


def change(repo: Repo, *, changed: int, new: int, gone: int, seed: int) -> Change:
    """Deletes items from the source, and pushes rows of new and changed ones to both stores, through Feast.

    Args:
        repo: Of a shop.
        changed: Number of items that get other features.
        new: Number of items that come.
        gone: Number of items that go, at most `changed`.
        seed: Decides which.
    """
    path = _items(repo.path)
    rows = latest(pq.read_table(path))
    ids = rows[_KEY].to_numpy()
    random = np.random.default_rng(seed)
    picked = random.permutation(len(ids))[: 2 * changed + new]
    moving, models, new_models, leaving = np.split(picked, np.cumsum([changed, changed - gone, new]))
    # Those that go are the models of the first that change.
    models = np.concatenate([leaving, models])
    fresh = np.arange(ids.max() + 1, ids.max() + 1 + new)
    happened = Change(fresh, ids[new_models], ids[moving], ids[models], ids[leaving], ids[moving[:gone]])
    _delete(path, happened.gone)
    features = rows.take(np.concatenate([models, new_models])).to_pandas()[_NAMES]
    _push(repo, np.concatenate([happened.changed, fresh]), features)
    return happened


def _configure(folder: Path, items: int) -> None:
    lists = max(4, math.isqrt(items))
    index = {"kind": "ivf_flat", "lists": lists, "probes": max(4, lists // 16)}
    document = {
        "project": "bench",
        "provider": "local",
        "registry": "registry.db",
        "online_store": {"type": "sqlite", "path": "online.db"},
        "offline_store": {"type": "file"},
        "entity_key_serialization_version": 3,
        "recsys": {
            "user": "user",
            "item": "item",
            "catalogue": ITEM_VIEW,
            "models": "models",
            "bundles": "bundles",
            "keep_bundles": 2,
            "recommenders": {RECOMMENDER: {"retrieval": {"model": RETRIEVAL, "index": index}}},
            "serving": {"address": "127.0.0.1:0", "metrics_address": None},
        },
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def _declare(folder: Path) -> None:
    from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
    from feast.types import Array as FeastArray
    from feast.types import Float32, Int64

    user, item = (Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64) for name in ("user", "item"))

    def source(view: str) -> FileSource:
        return FileSource(name=f"{view}_file", path=str(folder / f"{view}.parquet"), timestamp_field=_MOMENT)

    schemas = [
        [Field(name=f.name, dtype=Int64 if f.keys else Float32) for f in features]
        for features in (USER_FEATURES, ITEM_FEATURES)
    ]
    past = Field(name=HISTORY, dtype=FeastArray(Int64))
    pushed = PushSource(name=_PUSHED, batch_source=source(ITEM_VIEW))
    views = [
        FeatureView(name=USER_VIEW, entities=[user], schema=[*schemas[0], past], source=source(USER_VIEW)),
        FeatureView(name=ITEM_VIEW, entities=[item], schema=schemas[1], source=pushed),
    ]
    open_repo(folder).store.apply([user, item, *views])


def _items(folder: Path) -> Path:
    return folder / f"{ITEM_VIEW}.parquet"


def _table(ids: Array, columns: dict[str, Array], moment: datetime) -> pa.Table:
    moments = pa.array(np.full(len(ids), int(moment.timestamp() * 1e6)), pa.timestamp("us", "UTC"))
    # In the order that Feast appends rows in.
    return pa.table({_KEY: pa.array(ids), **{name: pa.array(columns[name]) for name in _NAMES}, _MOMENT: moments})


def latest(table: pa.Table) -> pa.Table:
    """The last row of each item, by ascending ids."""
    table = table.sort_by([(_KEY, "ascending"), (_MOMENT, "ascending")])
    ids = table[_KEY].to_numpy()
    return table.filter(pa.array(np.append(ids[1:] != ids[:-1], True)))


def _delete(path: Path, ids: Array) -> None:
    table = pq.read_table(path)
    kept = table.filter(pc.invert(pc.is_in(table[_KEY], pa.array(ids))))
    beside = path.with_suffix(".new")
    pq.write_table(kept, beside)
    os.replace(beside, path)


def _push(repo: Repo, ids: Array, features: pd.DataFrame) -> None:
    from feast.data_source import PushMode

    frame: Any = pd.DataFrame({_KEY: ids, **features, _MOMENT: pd.Timestamp.now("UTC").floor("us")})
    repo.store.push(_PUSHED, frame, to=PushMode.ONLINE_AND_OFFLINE)
