"""Items in an order that is the same for everybody, liked most or largest by a feature; and those hardly liked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.features.interactions import Interactions

SECONDS_PER_DAY = 86_400
Counts = npt.NDArray[np.int64]


def likes(interactions: Interactions, ids: Array, as_of: int, days: float | None = None) -> Counts:
    """How often each item was liked.

    Args:
        interactions: All there are.
        ids: [n] ids of the catalogue, ascending; likes of others don't count.
        as_of: Unix seconds; likes after it don't count.
        days: Only likes of so many days before `as_of` count; None counts all.

    Returns:
        [n] int64.
    """
    counted = interactions.positive & (interactions.timestamps <= as_of)
    if days is not None:
        counted &= interactions.timestamps > as_of - days * SECONDS_PER_DAY
    items = interactions.items[counted]
    if not len(ids):
        return np.zeros(0, np.int64)
    rows = np.minimum(np.searchsorted(ids, items), len(ids) - 1)
    return np.bincount(rows[ids[rows] == items], minlength=len(ids)).astype(np.int64)


def most_liked(counts: Counts) -> tuple[Rows, Vectors]:
    """Rows of the items that were liked, the most liked first and equal ones by row, and how often: [m] float32."""
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(-counts[rows], kind="stable")]
    return rows, counts[rows].astype(np.float32)


def largest(column: Column) -> tuple[Rows, Vectors]:
    """Rows of the items that have a value, the largest first and equal ones by row, and the values: [m] float32."""
    usable = column.valid & np.isfinite(column.values)
    rows = np.flatnonzero(usable)
    # From behind, because whole numbers have no negative of the smallest.
    backwards = rows[::-1]
    rows = backwards[np.argsort(column.values[backwards], kind="stable")][::-1]
    return np.ascontiguousarray(rows), column.values[rows].astype(np.float32)


def cold(counts: Counts, below: int) -> Rows:
    """Rows of the items that were liked less often than `below`, ascending."""
    return np.flatnonzero(counts < below)
