"""What users did with items, read from the file that the settings name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Side
from feast_recsys.features.repo import EntityKey, Repo, entity_key

_FIELD = "recsys.interactions"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Interactions:
    """n interactions, sorted by time and then by item.

    Attributes:
        users: [n] int64, or objects that are str: the ids of the user entity.
        items: [n] likewise for items.
        timestamps: [n] int64, unix seconds.
        labels: [n] float32; 1 where the settings name no label column.
        positive: [n] bool, whether the label counts as a like.
    """

    users: Array
    items: Array
    timestamps: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float32]
    positive: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.timestamps)


def read_interactions(repo: Repo) -> Interactions:
    """Reads the interactions that `recsys.interactions` names.

    Timestamps without a time zone count as UTC, as in Feast's own sources.

    Raises:
        InvalidSettings: there is no such setting, file or column (says which columns there are), a column is of
            another type than the settings or the entity say, or holds nulls.
        InvalidRepository: see `entity_key`.
    """
    settings = repo.settings.interactions
    if settings is None:
        raise InvalidSettings(f"training needs `{_FIELD}` with the path of a Parquet file", field=_FIELD)
    path = repo.resolve(settings.path)
    user, item = entity_key(repo, Side.USER), entity_key(repo, Side.ITEM)
    wanted = [user.join_key, item.join_key, settings.timestamp, *([settings.label] if settings.label else [])]
    table = _read(path, wanted)
    users, items = _ids(table, user, path), _ids(table, item, path)
    timestamps = _seconds(table[settings.timestamp], settings.timestamp, path)
    labels = np.ones(len(timestamps), np.float32)
    if settings.label is not None:
        labels = _labels(table[settings.label], settings.label, path)
    positive = labels >= np.float32(settings.positive_from) if settings.label else np.ones(len(labels), np.bool_)
    # Users last, so that the order never depends on the file.
    order = np.lexsort((_ranks(users), _ranks(items), timestamps))
    return Interactions(users[order], items[order], timestamps[order], labels[order], positive[order])


def interacting_users(repo: Repo) -> Array:
    """The users of the interactions that `recsys.interactions` names: [n] ids, ascending, each once.

    Raises:
        InvalidSettings, InvalidRepository: see `read_interactions`.
    """
    settings = repo.settings.interactions
    if settings is None:
        raise InvalidSettings(f"`{_FIELD}` is not set; give it the path of a Parquet file", field=_FIELD)
    path, user = repo.resolve(settings.path), entity_key(repo, Side.USER)
    return np.unique(_ids(_read(path, [user.join_key]), user, path))


def _read(path: Path, columns: list[str]) -> pa.Table:
    if not path.exists():
        raise InvalidSettings(f"{path} ({_FIELD}.path) does not exist; create it", field=f"{_FIELD}.path")
    try:
        known = pq.ParquetDataset(path).schema.names
        for name in columns:
            if name not in known:
                raise InvalidSettings(f"{path} has no column {name!r}; it has {', '.join(known)}", field=_FIELD)
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise InvalidSettings(f"{path} ({_FIELD}.path) is no Parquet file: {error}", field=f"{_FIELD}.path") from error
    for name in columns:
        if table[name].null_count:
            raise InvalidSettings(f"{path}: column {name!r} holds nulls; drop those rows", field=_FIELD)
    return table


def _ids(table: pa.Table, key: EntityKey, path: Path) -> Array:
    values = table[key.join_key]
    have = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if key.dtype is DType.STRING and (pa.types.is_string(have) or pa.types.is_large_string(have)):
        return np.asarray(values.cast(pa.string()).to_numpy(), object)
    if key.dtype is DType.INT64 and pa.types.is_integer(have):
        return np.asarray(values.cast(pa.int64()).to_numpy(), np.int64)
    raise InvalidSettings(
        f"{path}: column {key.join_key!r} holds {values.type}, but ids of entity {key.entity!r} are {key.dtype.value}; "
        "store them as that",
        field=_FIELD,
    )


def _seconds(values: pa.ChunkedArray, name: str, path: Path) -> npt.NDArray[np.int64]:
    if not pa.types.is_timestamp(values.type):
        raise InvalidSettings(
            f"{path}: column {name!r} holds {values.type}, not timestamps", field=f"{_FIELD}.timestamp"
        )
    return np.asarray(values.cast(pa.int64()).to_numpy() // _PER_SECOND[values.type.unit], np.int64)


def _labels(values: pa.ChunkedArray, name: str, path: Path) -> npt.NDArray[np.float32]:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if not any(is_kind(values.type) for is_kind in kinds):
        raise InvalidSettings(f"{path}: column {name!r} holds {values.type}, not numbers", field=f"{_FIELD}.label")
    return np.asarray(values.to_numpy(), np.float32)


def _ranks(ids: Array) -> npt.NDArray[np.int64]:
    ranks: npt.NDArray[np.int64] = np.unique(ids, return_inverse=True)[1]
    return ranks
