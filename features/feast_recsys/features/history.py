"""Point-in-time joins of one feature view: the values that were known at given moments.

Two ways lead to the same result. `join_by_feast` asks the offline store's `get_historical_features`, which is where a
warehouse should do the work. `join_here` reads the history of the view and joins it in this process: Feast's
embedded file store merges every moment of a key with every row of that key before it filters, and drops rows.
For 59,000 moments over 49,000 lists of 50 that took 31 s and 1.4 GB; here it takes 0.5 s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.canonical import canonical, spread
from feast_recsys.features.feast_api import FileSource, OnDemandFeatureView, ParquetFormat, RetrievalJob, ValueType
from feast_recsys.features.plan import Slot, StalePolicy
from feast_recsys.features.repo import EntityKey, Repo
from feast_recsys.features.schema import KINDS, ValueKind

Moments = npt.NDArray[np.int64]
"""Nanoseconds since 1970, UTC."""

_EVENT_TIMESTAMP = "event_timestamp"
_ROW = "recsys_row"
_EXACT_AS_FLOAT = 2.0**53


@dataclass(frozen=True)
class Request:
    """Features of one view for n pairs of a key and a moment.

    Attributes:
        view: The feature view as Feast caches it.
        slots: The features.
        key: The key of the view's entity.
        keys: [n] int64, or objects that are str.
        moments: [n] int64 nanoseconds.
        stale: What the server does with values older than the view's ttl.
    """

    view: Any
    slots: tuple[Slot, ...]
    key: EntityKey
    keys: Array
    moments: Moments
    stale: StalePolicy


def join_here(repo: Repo, request: Request) -> dict[str, Column]:
    """Pulls the history of the view and finds, for each pair, the last row at or before the moment.

    Rows of one key and moment are told apart by the source's created timestamp; the last one counts.

    Returns:
        Columns of n rows by reference, with the statuses that the online store would have given at the moment,
        values older than the ttl included.

    Raises:
        InvalidRepository: the source can't be read, or its types differ from the declared ones.
    """
    view, key = request.view, request.key
    history = _pull_all(repo, request)
    key_kind = KINDS[ValueType.STRING if key.dtype is DType.STRING else ValueType.INT64]
    owners = canonical(history[key.join_key], key_kind, f"{view.name}:{key.join_key}")
    times = _nanoseconds(history[_EVENT_TIMESTAMP], view.name)
    has_created = "created" in history.column_names
    created = _nanoseconds(history["created"], view.name) if has_created else np.zeros_like(times)
    codes, known = pd.factorize(owners.values)
    codes = np.where(owners.valid, codes, -1).astype(np.int64)
    asked = pd.Index(known).get_indexer(pd.Index(request.keys)).astype(np.int64)
    rows = _as_of(codes, times, created, asked, request.moments)
    found = rows >= 0
    rows = rows[found]
    age = request.moments[found] - times[rows]
    ttl = view.ttl.total_seconds() * 1e9 if view.ttl else 0.0
    stale = (age > ttl) if ttl else np.zeros(len(rows), np.bool_)
    return {
        slot.reference: spread(
            _dated(canonical(history[slot.feature], slot.kind, slot.reference).take(rows), times[rows], stale, request),
            found,
        )
        for slot in request.slots
    }


def join_by_feast(
    repo: Repo, request: Request, *, chunk: int, progress: Callable[[int], None] | None = None
) -> dict[str, Column]:
    """Asks Feast's `get_historical_features` for each pair once.

    One view at a time and distinct pairs only: Feast's file store drops rows that share key and moment, and
    a row for which one of several views has nothing.

    Args:
        repo: The repository.
        request: What to join.
        chunk: Distinct pairs in one call of Feast; all pairs of a key lie side by side.
        progress: Called with the number of pairs done so far, out of n.

    Returns:
        Columns of n rows by reference. Feast gives no event times here, so timestamps are 0, and rows in which all
        features are null count as NOT_FOUND. Values older than the ttl are kept or left out as the server
        would; for on-demand views Feast always leaves them out.

    Raises:
        InvalidRepository: the offline store fails, loses digits of integers, or answers what was not asked.
    """
    # Feast warns of nanoseconds and drops them. Rounding down never lets a later value in.
    request = replace(request, moments=request.moments // 1000 * 1000)
    first, inverse = _distinct(request.keys, request.moments)
    found = np.zeros(len(first), np.bool_)
    parts: dict[str, list[Column]] = {slot.reference: [] for slot in request.slots}
    for start in range(0, len(first), chunk):
        pairs = first[start : start + chunk]
        table = _ask_feast(repo, request, pairs, start)
        rows = np.asarray(table[_ROW].to_numpy(), np.int64)
        if len(np.unique(rows)) != len(rows) or not np.isin(rows, np.arange(start, start + len(pairs))).all():
            raise InvalidRepository(
                f"the offline store answered rows of {request.view.name!r} that were not asked, or twice",
                field=request.view.name,
            )
        order = np.argsort(rows, kind="stable")
        found[rows] = True
        for slot in request.slots:
            values = table[slot.full_name]
            _check_digits(values, slot)
            parts[slot.reference].append(canonical(values, slot.kind, slot.reference).take(order))
        if progress is not None:
            progress((start + len(pairs)) * len(request.keys) // len(first))
    joined = {reference: Column.concatenate(p) for reference, p in parts.items()}
    some = np.any([column.valid for column in joined.values()], axis=0)
    found[found] = some
    kept = np.flatnonzero(some)
    return {reference: spread(column.take(kept), found).take(inverse) for reference, column in joined.items()}


def _as_of(codes: Array, times: Moments, created: Moments, asked: Array, moments: Moments) -> npt.NDArray[np.int64]:
    """For each pair the row of the history that was last at the moment, -1 where there is none."""
    order = np.lexsort((created, times, codes))
    scale = np.unique(np.concatenate([times, moments]))
    # Key and time in one number, so that one binary search finds both.
    history = codes[order] * len(scale) + np.searchsorted(scale, times[order])
    wanted = asked * len(scale) + np.searchsorted(scale, moments)
    at = np.searchsorted(history, wanted, side="right") - 1
    candidates = order[np.maximum(at, 0)] if len(order) else np.zeros(len(asked), np.int64)
    hit = (at >= 0) & (asked >= 0)
    hit[hit] = codes[candidates[hit]] == asked[hit]
    return np.where(hit, candidates, -1)


def _distinct(keys: Array, moments: Moments) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of the distinct pairs, sorted by key and moment, and each pair's place among them."""
    codes, _ = pd.factorize(keys, sort=True)
    scale, ranks = np.unique(moments, return_inverse=True)
    _, first, inverse = np.unique(codes * len(scale) + ranks, return_index=True, return_inverse=True)
    return first, inverse


def _dated(column: Column, times: Moments, stale: Array, request: Request) -> Column:
    """Adds event times and staleness."""
    status = np.where(stale & column.valid, FieldStatus.OUTSIDE_MAX_AGE, column.status).astype(np.uint8)
    valid = column.valid if request.stale == "serve" else column.valid & ~stale
    return Column(column.dtype, column.values, status, valid, times // 10**9, column.offsets)


def _pull_all(repo: Repo, request: Request) -> pa.Table:
    """The view's rows up to the last moment: join key, event_timestamp, created (if there is one), features."""
    source = request.view.batch_source
    if source is None:
        raise InvalidRepository(
            f"feature view {request.view.name!r} has no batch source to train from; give it one",
            field=request.view.name,
        )
    mapping: dict[str, str] = dict(source.field_mapping or {})
    original = {new: old for old, new in mapping.items()}
    columns = {name: original.get(name, name) for name in (request.key.join_key, *(s.feature for s in request.slots))}
    moment, created = source.timestamp_field, source.created_timestamp_column
    columns[_EVENT_TIMESTAMP] = original.get(moment, moment)
    if created:
        columns["created"] = original.get(created, created)
    file = _parquet_file(repo, source)
    if file is not None:
        table = _run(request, lambda: _read_keys(file, list(dict.fromkeys(columns.values())), request, columns))
    else:
        table = _run(request, lambda: _pull_through_store(repo, request, columns).to_arrow())
    return pa.table({name: table[column] for name, column in columns.items()})


def _read_keys(file: str, names: list[str], request: Request, columns: Mapping[str, str]) -> pa.Table:
    """The rows of the request's keys. In a file that is sorted by key, whole row groups are never read."""
    key = columns[request.key.join_key]
    kind = pq.ParquetDataset(file).schema.field(key).type
    if kind not in (pa.int64(), pa.string(), pa.large_string()):
        return pq.read_table(file, columns=names)
    keys = pa.array(pd.unique(pd.Series(request.keys))).cast(kind)
    ends = pc.min_max(keys)
    # The statistics of row groups tell about ranges only.
    wanted = (pc.field(key) >= ends["min"]) & (pc.field(key) <= ends["max"]) & pc.field(key).isin(keys)
    return pq.read_table(file, columns=names, filters=wanted)


def _parquet_file(repo: Repo, source: Any) -> str | None:
    """Path of a source that is Parquet on this machine. Reading 49,000 lists of 50 takes Feast 5 s, Arrow 0.1 s."""
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        return None
    path = source.get_uri_for_file_path(repo.store.config.repo_path, source.path)
    return path if Path(path).exists() else None


def _pull_through_store(repo: Repo, request: Request, columns: Mapping[str, str]) -> RetrievalJob:
    store = repo.store
    return store.provider.offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=request.view.batch_source,
        join_key_columns=[columns[request.key.join_key]],
        feature_name_columns=[columns[slot.feature] for slot in request.slots],
        timestamp_field=columns[_EVENT_TIMESTAMP],
        created_timestamp_column=columns.get("created"),
        end_date=datetime.fromtimestamp(int(request.moments.max()) // 10**9 + 1, timezone.utc),
    )


def _ask_feast(repo: Repo, request: Request, pairs: Array, start: int) -> pa.Table:
    store = repo.store
    references = [slot.reference for slot in request.slots]
    entities = pd.DataFrame(
        {
            request.key.join_key: request.keys[pairs],
            _EVENT_TIMESTAMP: pd.to_datetime(request.moments[pairs], unit="ns", utc=True),
            _ROW: np.arange(start, start + len(pairs)),
        }
    )
    if isinstance(request.view, OnDemandFeatureView):
        return _run(
            request, lambda: store.get_historical_features(entities, references, full_feature_names=True).to_arrow()
        )
    table = request.view.with_projection(request.view.projection)
    if request.stale == "serve":
        table.ttl = timedelta(0)
    return _run(
        request,
        lambda: store.provider.get_historical_features(
            store.config, [table], references, entities, store.registry, store.project, True
        ).to_arrow(),
    )


def _run(request: Request, read: Callable[[], pa.Table]) -> pa.Table:
    try:
        return read()
    except Exception as error:  # offline stores raise whatever their drivers raise
        raise InvalidRepository(
            f"reading the history of feature view {request.view.name!r} failed: {type(error).__name__}: {error}",
            field=request.view.name,
        ) from error


def _nanoseconds(values: pa.ChunkedArray, view: str) -> Moments:
    """Timestamps with or without time zone, UTC if without; the smallest number for null."""
    try:
        if not pa.types.is_timestamp(values.type):
            raise pa.ArrowInvalid(f"{values.type} is no timestamp")
        ticks = values.cast(pa.timestamp("ns", values.type.tz)).cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise InvalidRepository(f"timestamps of the source of feature view {view!r}: {error}", field=view) from error
    return np.asarray(ticks.fill_null(np.iinfo(np.int64).min).to_numpy(), np.int64)


def _check_digits(values: pa.ChunkedArray, slot: Slot) -> None:
    """Feast's file store turns integers to floats where a row has no match."""
    kind: ValueKind = slot.kind
    if kind.dtype is DType.INT64 and not kind.is_list and pa.types.is_floating(values.type):
        largest = np.nanmax(np.abs(values.to_numpy()), initial=0.0)
        if largest >= _EXACT_AS_FLOAT:
            raise InvalidRepository(
                f"the offline store returned {slot.reference} as floating point and lost digits of large integers; "
                "join with `how='local'`, or declare the feature as a string",
                field=slot.reference,
            )
