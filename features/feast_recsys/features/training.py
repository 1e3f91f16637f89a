"""Training data: features as they were at given moments, and the interactions that give the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import OnDemandFeatureView
from feast_recsys.features.history import Moments, Request, join_by_feast, join_here
from feast_recsys.features.interactions import Interactions, read_interactions
from feast_recsys.features.plan import Slot
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import entities_of, get_field, get_view, kind_of, split

__all__ = ["EVENT_TIMESTAMP", "Interactions", "point_in_time", "read_interactions"]

EVENT_TIMESTAMP = "event_timestamp"

_FILE_STORES = frozenset({"dask", "file"})


def point_in_time(
    repo: Repo,
    references: Sequence[str],
    rows: pa.Table | pd.DataFrame,
    *,
    how: Literal["auto", "local", "feast"] = "auto",
    chunk: int = 50_000,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Column]:
    """The values that the online store would have given at the moment of each row.

    Feast joins at or before the moment; shift the moments of labels back (by a second, say) so that features can't
    hold the label's own event. The views' `recsys.serving.stale` policy decides on values older than the ttl, as in
    the server: `serve` keeps them, the others leave them without a value.

    Args:
        repo: The repository.
        references: `view:feature`, of users, items, or both.
        rows: n rows with the join keys of these views as columns and `event_timestamp`, a timestamp with time
            zone. They may repeat and come in any order; other columns are ignored.
        how: `feast` joins by the offline store's `get_historical_features`; `local` pulls each view's history
            and joins it here; `auto` is `local` for Feast's file store, `feast` for any other. On-demand views always
            go through Feast.
        chunk: Distinct pairs of key and moment in one call of `get_historical_features`.
        progress: Called with the work done and the total, n for each view.

    Returns:
        By reference, in the order given, a column of n rows, row i for row i.

    Raises:
        InvalidArgument: a column of `rows` is missing, of another type, or holds nulls; or a moment has no time zone.
        InvalidRepository: a view or feature does not exist or is not supported, or its source can't be read.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
    wanted = tuple(dict.fromkeys(references))
    by_view: dict[str, list[str]] = {}
    for reference in wanted:
        by_view.setdefault(split(reference)[0], []).append(reference)
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    moments = _moments(table)
    if how == "auto":
        how = "local" if repo.store.config.offline_store.type in _FILE_STORES else "feast"
    total = len(by_view) * len(moments)
    columns: dict[str, Column] = {}
    for number, (name, group) in enumerate(by_view.items()):
        done = number * len(moments)
        request = _request(repo, name, group, table, moments)
        if not len(moments):
            columns |= {s.reference: Column.absent(s.kind.dtype, 0, is_list=s.kind.is_list) for s in request.slots}
        elif how == "local" and not isinstance(request.view, OnDemandFeatureView):
            columns |= join_here(repo, request)
        else:
            columns |= join_by_feast(repo, request, chunk=chunk, progress=_shifted(progress, done, total))
        if progress is not None:
            progress(done + len(moments), total)
    for reference, column in columns.items():
        if len(column) != len(moments):
            raise InvalidRepository(f"{reference}: {len(column)} values for {len(moments)} rows", field=reference)
    return {reference: columns[reference] for reference in wanted}


def _request(repo: Repo, name: str, references: Sequence[str], table: pa.Table, moments: Moments) -> Request:
    view = get_view(repo, name)
    slots = []
    for reference in references:
        _, feature, full_name = split(reference)
        slots.append(Slot(reference, feature, full_name, kind_of(get_field(view, reference), reference)))
    key = _key_of(repo, view)
    stale = repo.settings.serving.stale.get(name, "serve")
    return Request(view, tuple(slots), key, _keys(table, key), moments, stale)


def _key_of(repo: Repo, view: Any) -> EntityKey:
    entities = entities_of(repo, view)
    for side, entity in ((Side.USER, repo.settings.user), (Side.ITEM, repo.settings.item)):
        if entities == (entity,):
            return entity_key(repo, side)
    raise InvalidRepository(
        f"feature view {view.name!r} belongs to {list(entities) or 'no entity'}; only views of exactly one of the "
        f"entities {repo.settings.user!r} (user) and {repo.settings.item!r} (item) are supported",
        field=view.name,
    )


def _keys(table: pa.Table, key: EntityKey) -> Array:
    values = _column(table, key.join_key)
    have, text = values.type, key.dtype is DType.STRING
    if pa.types.is_dictionary(have):
        have = have.value_type
    fits = pa.types.is_string(have) or pa.types.is_large_string(have) if text else pa.types.is_integer(have)
    if not fits:
        raise InvalidArgument(
            f"column {key.join_key!r} holds {values.type}; ids of {key.entity!r} are {key.dtype.value}",
            field=key.join_key,
        )
    return np.asarray(values.cast(pa.string() if text else pa.int64()).to_numpy())


def _moments(table: pa.Table) -> Moments:
    values = _column(table, EVENT_TIMESTAMP)
    if not pa.types.is_timestamp(values.type) or values.type.tz is None:
        raise InvalidArgument(
            f"column {EVENT_TIMESTAMP!r} holds {values.type}; give timestamps with a time zone, such as UTC",
            field=EVENT_TIMESTAMP,
        )
    try:
        return np.asarray(values.cast(pa.timestamp("ns", "UTC")).cast(pa.int64()).to_numpy())
    except pa.ArrowInvalid as error:
        raise InvalidArgument(f"column {EVENT_TIMESTAMP!r}: {error}", field=EVENT_TIMESTAMP) from error


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise InvalidArgument(f"the rows have no column {name!r}; they have {table.column_names}", field=name)
    if table[name].null_count:
        raise InvalidArgument(f"column {name!r} holds nulls; drop those rows", field=name)
    return table[name]


def _shifted(progress: Callable[[int, int], None] | None, done: int, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda more: progress(done + more, total)
