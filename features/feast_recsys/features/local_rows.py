"""Rows of local Parquet sources, read with Arrow alone.

Feast's file store reads and sorts all columns of a source, whatever is asked for: 17 s for 100,000 rows with lists.
What an incremental run needs is a few columns of a few rows. The rules are Feast's own: both ends of a range count, and
of several rows of one key the one with the latest event time does, then that which was created last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from feast_recsys.features.repo import Repo

_FILE_STORE = "feast.infra.offline_stores.dask"


@dataclass(frozen=True)
class LocalRows:
    """A source that is a local Parquet file, or a folder of such.

    Attributes:
        path: Where it is.
        keys: Its key columns. All names are the file's own, before Feast maps them.
        moment: Column of event times.
        created: Column of the times of creation, None if there is none.
    """

    path: Path
    keys: tuple[str, ...]
    moment: str
    created: str | None

    def latest(self, features: Sequence[str], start: datetime | None, end: datetime) -> pa.Table:
        """The last row of each key in a range of event times.

        Args:
            features: Columns to read besides keys and times.
            start: Beginning, included, with a time zone; None for no limit.
            end: End, included, with a time zone.

        Returns:
            Keys, features and times; in no particular order.

        Raises:
            OSError, pyarrow.ArrowException: the files can't be read, or lack a column.
        """
        times = [self.moment, *([self.created] if self.created is not None else [])]
        return self._last(self.between([*features, *times], start, end), times)

    def between(self, columns: Sequence[str], start: datetime | None, end: datetime) -> pa.Table:
        """Keys and the named columns of all rows in a range; see `latest`."""
        rows = ds.dataset(self.path, format="parquet")
        kind = rows.schema.field(self.moment).type
        within = pc.field(self.moment) <= _scalar(end, kind)
        if start is not None:
            within &= pc.field(self.moment) >= _scalar(start, kind)
        return rows.to_table([*dict.fromkeys([*self.keys, *columns])], filter=within)

    def _last(self, table: pa.Table, times: Sequence[str]) -> pa.Table:
        keys = table.select(list(self.keys))
        if len(self.keys) == 1 and pc.count_distinct(keys.column(0)).as_py() == len(table):
            return table
        order = pc.sort_indices(table, [(name, "ascending") for name in (*self.keys, *times)])
        ordered = keys.take(order)
        last = np.ones(len(table), np.bool_)
        differs = np.zeros(max(len(table) - 1, 0), np.bool_)
        for column in ordered.columns:
            whole = column.combine_chunks()
            differs |= pc.not_equal(whole[1:], whole[:-1]).fill_null(True).to_numpy(zero_copy_only=False)
        last[:-1] = differs
        return table.take(order.filter(pa.array(last)))


def local_path(repo: Repo, view: Any) -> Path | None:
    """The local Parquet file, or folder of such, behind a feature view; None for any other source."""
    options = getattr(view.batch_source, "file_options", None)  # only file sources have them
    if options is None or urlparse(options.uri).scheme not in ("", "file"):
        return None
    if options.file_format is not None and options.file_format.to_proto().WhichOneof("format") != "parquet_format":
        return None
    return repo.path / str(urlparse(options.uri).path)


def local_rows(repo: Repo, view: Any, join_keys: Sequence[str]) -> LocalRows | None:
    """How to read a feature view's source here; None where only Feast can.

    Args:
        repo: The repository.
        view: A feature view with a batch source.
        join_keys: Its join keys.
    """
    path = local_path(repo, view)
    if path is None or not path.exists() or type(repo.store.provider.offline_store).__module__ != _FILE_STORE:
        return None
    source = view.batch_source
    original = {new: old for old, new in (source.field_mapping or {}).items()}
    moment, created = source.timestamp_field, source.created_timestamp_column
    rows = LocalRows(
        path,
        tuple(original.get(name, name) for name in join_keys),
        original.get(moment, moment),
        original.get(created, created) or None,
    )
    try:
        kind = ds.dataset(path, format="parquet").schema.field(rows.moment).type
    except (OSError, KeyError, pa.ArrowException):
        return None  # Feast says what is wrong with it
    return rows if pa.types.is_timestamp(kind) else None


def _scalar(moment: datetime, kind: pa.TimestampType) -> pa.Scalar:
    """A moment as a column of that type has it; times without a zone are UTC, as Feast takes them."""
    utc = moment.astimezone(timezone.utc)
    wide = pa.scalar(utc if kind.tz is not None else utc.replace(tzinfo=None), pa.timestamp("us", kind.tz))
    return wide if kind.unit == "ns" else wide.cast(kind, safe=False)
