"""Which entities there are: the ids that the offline store holds of a feature view."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.canonical import canonical
from feast_recsys.features.feast_api import OnDemandFeatureView, ValueType
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.views import KINDS, entities_of, find_view, get_view, split

_BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)


def latest_ids(repo: Repo, view: Any, key: EntityKey, as_of: datetime) -> Array:
    """The ids that a feature view has rows of.

    Args:
        repo: The repository.
        view: A feature view with a batch source.
        key: One of its keys.
        as_of: End of the range, with a time zone.

    Returns:
        [n] int64, or objects that are str; ascending, each once. Rows without an id are passed over.

    Raises:
        InvalidRepository: the offline store can't be read, or the ids are of another type.
    """
    source = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    join_key = original.get(key.join_key, key.join_key)
    moment, created = source.timestamp_field, source.created_timestamp_column
    # Feast's file store reads all columns where none is named.
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
            f"reading the ids of feature view {view.name!r} failed: {type(error).__name__}: {error}", field=view.name
        ) from error
    kind = KINDS[ValueType.STRING if key.dtype is DType.STRING else ValueType.INT64]
    column = canonical(values, kind, f"{view.name}:{key.join_key}")
    there = column.valid & (column.values != "") if key.dtype is DType.STRING else column.valid
    return np.unique(column.values[there])


def user_ids(repo: Repo, references: tuple[str, ...], as_of: datetime, *feature_services: str) -> Array:
    """The users of whom the offline store knows one of some features.

    Args:
        repo: The repository.
        references: Features of the user's side; those of other entities than the user say nothing of users.
        as_of: End of the range, with a time zone.
        feature_services: See `compile_plan`.

    Returns:
        [n] ids, ascending, each once; none if no view of the user's alone has a batch source.

    Raises:
        InvalidRepository: see `latest_ids`.
    """
    key = entity_key(repo, Side.USER)
    views: dict[str, Any] = {}
    for reference in references:
        named = find_view(repo, split(reference)[0], *feature_services)
        for view in _stored(repo, named.view):
            if entities_of(repo, view) == (key.entity,) and view.batch_source is not None:
                views[view.name] = view
    found = [latest_ids(repo, view, key, as_of) for view in views.values()]
    return np.unique(np.concatenate(found)) if found else np.empty(0, key.dtype.numpy)


def _stored(repo: Repo, view: Any) -> list[Any]:
    """The view, or those that an on-demand view is made of."""
    if not isinstance(view, OnDemandFeatureView):
        return [view]
    return [get_view(repo, source.name) for source in view.source_feature_view_projections.values()]
