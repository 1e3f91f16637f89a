"""Exact scores for what an approximate search found, and its order."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Rows, Vectors

FEWEST_CODES = 64
"""Codes are compared as if at least so many items were wanted: the few best are often not those of the best codes."""


def rescored(vectors: Vectors, query: npt.NDArray[np.float32], rows: Rows, m: int) -> tuple[Rows, Vectors]:
    """The m best of some rows by exact inner products.

    Args:
        vectors: [n, d] float32.
        query: [d] float32.
        rows: At least m different ones, in any order.
        m: How many come back.

    Returns:
        rows [m] and scores [m], best first, the lower row first among equals.
    """
    # In the order of the rows, for the sake of equal scores and of the memory that they lie in.
    ordered = np.sort(rows)
    scores = vectors.take(ordered, axis=0) @ query
    chosen = np.argsort(-scores, kind="stable")[:m]
    return ordered[chosen], np.asarray(scores[chosen], np.float32)


def in_order(rows: Rows, scores: Vectors) -> tuple[Rows, Vectors]:
    """Rows [m] whose scores [m] descend already, the lower row first among equals."""
    if not np.count_nonzero(scores[1:] == scores[:-1]):
        return rows, scores
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
