"""Which items have new rows: what an incremental run has to read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.canonical import canonical
from feast_recsys.features.feast_api import OnDemandFeatureView, ValueType
from feast_recsys.features.local_rows import local_rows
from feast_recsys.features.repo import EntityKey, Repo
from feast_recsys.features.schema import KINDS, entities_of, get_view, split

_BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)


def ids_between(repo: Repo, view: Any, key: EntityKey, start: datetime | None, end: datetime) -> Array:
    """The ids with a row in a range of event times, both ends included.

    Args:
        repo: The repository.
        view: A feature view of that key alone, with a batch source.
        key: Of items.
        start: Beginning, with a time zone; None for no limit.
        end: End, with a time zone.

    Returns:
        [n] int64, or objects that are str; ascending, each once.

    Raises:
        InvalidRepository: the source can't be read, or has rows without an id.
    """
    try:
        values = _keys(repo, view, key, start, end)
    except Exception as error:  # offline stores raise whatever their drivers raise
        raise InvalidRepository(
            f"reading the ids of feature view {view.name!r} failed: {type(error).__name__}: {error}", field=view.name
        ) from error
    if not pa.types.is_floating(values.type):  # whose NaN is a missing id, not a value
        values = pc.unique(values)
        values = values.take(pc.sort_indices(values))
    kind = KINDS[ValueType.STRING if key.dtype is DType.STRING else ValueType.INT64]
    column = canonical(values, kind, f"{view.name}:{key.join_key}")
    if not column.valid.all() or (key.dtype is DType.STRING and len(column) and column.values[0] == ""):
        raise InvalidRepository(
            f"feature view {view.name!r} has rows without {key.join_key!r}; drop them from its source", field=view.name
        )
    return column.values if _ascending(column.values) else np.unique(column.values)


def changed_ids(
    repo: Repo, references: Sequence[str], key: EntityKey, start: datetime, end: datetime
) -> tuple[Array, tuple[str, ...]]:
    """The ids that got a row of any of the features' views, or of the views that on-demand ones are made of.

    Args:
        repo: The repository.
        references: Item features.
        key: Of items.
        start: Beginning of the range, included, with a time zone.
        end: End, included.

    Returns:
        The ids, ascending, each once; and the views of which nobody can tell, because they have no batch source or
        are of other entities too.

    Raises:
        InvalidRepository: see `ids_between`.
    """
    views = {view.name: view for reference in references for view in _stored(repo, split(reference)[0])}
    unknown = tuple(
        name
        for name, view in views.items()
        if view.batch_source is None or entities_of(repo, view) != (key.entity,)
    )  # fmt: skip
    found = [ids_between(repo, view, key, start, end) for name, view in views.items() if name not in unknown]
    return (np.unique(np.concatenate(found)) if found else np.empty(0, key.dtype.numpy)), unknown


def _keys(repo: Repo, view: Any, key: EntityKey, start: datetime | None, end: datetime) -> pa.Array:
    local = local_rows(repo, view, [key.join_key])
    if local is not None:
        return local.between([], start, end).column(local.keys[0]).combine_chunks()
    source = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    join_key = original.get(key.join_key, key.join_key)
    moment, created = source.timestamp_field, source.created_timestamp_column
    store = repo.store
    job = store.provider.offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=[join_key],
        # Feast's file store reads all columns where none is named.
        feature_name_columns=[original.get(field.name, field.name) for field in view.features[:1]],
        timestamp_field=original.get(moment, moment),
        created_timestamp_column=original.get(created, created) or None,
        start_date=start or _BEGINNING,
        end_date=end,
    )
    return job.to_arrow()[join_key].combine_chunks()


def _stored(repo: Repo, name: str) -> Iterator[Any]:
    """The view, or those that an on-demand view is made of."""
    view = get_view(repo, name)
    if not isinstance(view, OnDemandFeatureView):
        yield view
        return
    for source in view.source_feature_view_projections.values():
        yield from _stored(repo, source.name)


def _ascending(values: Array) -> bool:
    return bool((values[1:] > values[:-1]).all())
