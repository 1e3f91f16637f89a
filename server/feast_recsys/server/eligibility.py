"""Which items of the catalogue may come back: filter, excluded ids and seen items as one mask."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.bundle.snapshot import UNKNOWN_ROW, Snapshot
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.requests import Eligibility


def named_in_request(
    eligibility: Eligibility, snapshot: Snapshot, filters: FilterCache, metrics: Metrics
) -> Allowed | None:
    """The items that pass the filter and are not excluded by id; None if all do.

    Raises:
        InvalidArgument: the filter names an unknown feature or does not fit it.
    """
    allow = None
    if eligibility.filter is not None:
        allow, known = filters.allowed(eligibility.filter)
        metrics.filter_found(known)
        if allow.count == len(snapshot):
            allow = None
    if eligibility.exclude_item_ids:
        allow = without(allow, snapshot.rows(eligibility.exclude_item_ids), len(snapshot))
    return allow


def without(allow: Allowed | None, rows: Rows, n: int) -> Allowed | None:
    """What is allowed less some rows; UNKNOWN_ROW is no row. None stands for all n."""
    rows = rows[rows != UNKNOWN_ROW]
    if not len(rows):
        return allow
    return all_but(rows, n) if allow is None else allow.without(rows)


def seen_rows(columns: Iterable[Column], snapshot: Snapshot, user: int) -> Rows:
    """Rows of the items in one row of list columns; items outside the catalogue give UNKNOWN_ROW."""
    parts = [snapshot.rows_of_keys(column[user]) for column in columns if column.valid[user]]
    return np.concatenate([np.empty(0, np.int64), *parts])
