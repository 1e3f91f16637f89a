"""The features of every item that exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.canonical import canonical
from feast_recsys.features.feast_api import FeatureView, ValueType
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import KINDS, entities_of, get_view

_BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Catalogue:
    """n items and their features.

    Attributes:
        ids: [n] int64, or objects that are str; ascending, each once.
        columns: By reference, n rows in the order of `ids`.
    """

    ids: Array
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.ids)


def read_catalogue(
    repo: Repo,
    references: Sequence[str],
    as_of: datetime,
    *,
    chunk: int = 5_000,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Reads all items: which there are from the offline store, their features back from the online store.

    The online store can't be enumerated, and keeps items that are gone; reading features back through it
    gives exactly what serving would see, and proves that materialization wrote it.

    Args:
        repo: The repository.
        references: Item features, `view:feature`.
        as_of: Items whose first row in the catalogue view is later do not exist yet. With a time zone.
        chunk: Items in one read of the online store.
        progress: Called with the number of items done and the total.

    Raises:
        InvalidArgument: `as_of` has no time zone.
        InvalidRepository: the catalogue view does not exist, is not of the item entity, has rows without an id or
            can't be read; and what `compile_plan` raises.
        OnlineStoreUnavailable, StaleFeature: see `OnlineReader.read`.
    """
    if as_of.tzinfo is None:
        raise InvalidArgument("as_of has no time zone; give one in UTC", field="as_of")
    reader = OnlineReader(repo, compile_plan(repo, references, Side.ITEM))
    ids = _read_ids(repo, as_of)
    keys: list[int | str] = ids.tolist()
    parts = []
    for start in range(0, len(keys), chunk):
        parts.append(reader.read(keys[start : start + chunk]))
        if progress is not None:
            progress(min(start + chunk, len(keys)), len(keys))
    if not parts:
        return Catalogue(ids, reader.read([]))
    return Catalogue(ids, {reference: Column.concatenate([p[reference] for p in parts]) for reference in parts[0]})


def _read_ids(repo: Repo, as_of: datetime) -> Array:
    key = entity_key(repo, Side.ITEM)
    view = _catalogue_view(repo, key)
    source = view.batch_source
    if source is None:
        raise InvalidRepository(f"catalogue view {view.name!r} has no batch source; give it one", field=view.name)
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    join_key = original.get(key.join_key, key.join_key)
    moment, created = source.timestamp_field, source.created_timestamp_column
    # Without any feature Feast's file store carries all of them along: 20 s for 50,000 rows with lists.
    features = [original.get(field.name, field.name) for field in view.features[:1]]
    store = repo.store
    try:
        job = store.provider.offline_store.pull_latest_from_table_or_query(
            config=store.config,
            data_source=source,
            join_key_columns=[join_key],
            feature_name_columns=features,
            timestamp_field=original.get(moment, moment),
            created_timestamp_column=original.get(created, created) or None,
            start_date=_BEGINNING,
            end_date=as_of,
        )
        values: pa.ChunkedArray = job.to_arrow()[join_key]
    except Exception as error:  # offline stores raise whatever their drivers raise
        raise InvalidRepository(
            f"reading the ids of catalogue view {view.name!r} failed: {type(error).__name__}: {error}", field=view.name
        ) from error
    kind = KINDS[ValueType.STRING if key.dtype is DType.STRING else ValueType.INT64]
    column = canonical(values, kind, f"{view.name}:{key.join_key}")
    if not column.valid.all() or (key.dtype is DType.STRING and (column.values == "").any()):
        raise InvalidRepository(
            f"catalogue view {view.name!r} has rows without {key.join_key!r}; drop them from its source",
            field=view.name,
        )
    return np.unique(column.values)


def _catalogue_view(repo: Repo, key: EntityKey) -> FeatureView:
    view = get_view(repo, repo.settings.catalogue)
    if not isinstance(view, FeatureView) or entities_of(repo, view) != (key.entity,):
        raise InvalidRepository(
            f"catalogue view {repo.settings.catalogue!r} must be a feature view of exactly the entity {key.entity!r}",
            field="recsys.catalogue",
        )
    return view
