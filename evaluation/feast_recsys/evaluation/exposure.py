"""Which items a recommender shows at all, and how evenly. Both are about all users' lists together.

x_i is the number of lists that hold item i among their first k, n the size of the catalogue.
"""

from __future__ import annotations

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Rows, Values


def exposures(ranked: Rows, items: int, k: int) -> Rows:
    """[n] int64, x_i: how many lists hold each item among their first k.

    Args:
        ranked: [U, K] int64 items, best first; -1 where a list is shorter.
        items: n.
        k: Cut, from 1 to K.

    Raises:
        InvalidArgument: k is out of range, or an item is outside the catalogue.
    """
    if not 1 <= k <= ranked.shape[1]:
        raise InvalidArgument(f"k must lie in 1..{ranked.shape[1]}, the length of the lists, not {k}", field="k")
    shown = ranked[:, :k]
    if shown.max(initial=-1) >= items:
        raise InvalidArgument(f"the lists hold items beyond the catalogue of {items}", field="ranked")
    return np.bincount(shown[shown >= 0], minlength=items).astype(np.int64)


def coverage(counts: Rows) -> float:
    """Catalogue coverage@k: share of the items with x_i > 0; 0 for an empty catalogue."""
    return float((counts > 0).mean()) if len(counts) else 0.0


def gini(counts: Rows) -> float:
    """Gini coefficient of exposure: sum over i of (2 i - n - 1) x_(i) / (n sum of x), x_(1) <= ... <= x_(n).

    0 where all items are shown equally often, (n - 1) / n where one item has it all. NaN if nothing is shown.
    """
    n, total = len(counts), int(counts.sum())
    if not total:
        return float("nan")
    ordered = np.sort(counts).astype(np.float64)
    return float(((2 * np.arange(1, n + 1) - n - 1) @ ordered) / (n * total))


def lorenz(counts: Rows, points: int = 50) -> Values:
    """Lorenz curve: the share of all exposure that the least shown items have.

    Args:
        counts: [n] x_i, not all 0.
        points: Number of steps.

    Returns:
        [points + 1] float64, at shares 0, 1 / points, ..., 1 of the items; NaN if nothing is shown.
    """
    if not counts.sum():
        return np.full(points + 1, np.nan)
    shares = np.concatenate([[0.0], np.cumsum(np.sort(counts))]) / counts.sum()
    found: Values = np.interp(np.linspace(0, len(counts), points + 1), np.arange(len(counts) + 1), shares)
    return found
