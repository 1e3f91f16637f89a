"""Exact scores for what an approximate search found, and its order."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.top import leading

_ROUNDING = 2e-6  # of two inner products of float32, as a share of the lengths that go in

_SIFTED = 8  # more than so many times those wanted are not sorted: of 4,000 that saves a third of the time

FEWEST_CODES = 100
"""Codes are compared as if at least so many items were wanted, and as many as when recall was measured: those of a
cluster are much alike, so that the few best of it are not those of the few best codes."""


def products(vectors: Vectors, query: npt.NDArray[np.float32]) -> Vectors:
    """[m] inner products of [m, d] vectors with a query [d], each by itself.

    A product of matrices sums in an order that depends on where a vector stands and beside how many: equal items would
    get scores that differ in the last digit, and other ones the next time.
    """
    return np.asarray(np.vecdot(vectors, query), np.float32)


def settled(
    scores: Vectors, query: npt.NDArray[np.float32], k: int, vectors_of: Callable[[Rows], Vectors]
) -> tuple[Rows, Vectors]:
    """The k best by scores that may be off in their last digits, in an order that depends on the vectors alone.

    Args:
        scores: [n] inner products from a product of matrices; -inf for what must not come back.
        query: [d].
        k: Items wanted, no more than may come back.
        vectors_of: Gives the vectors at some positions.

    Returns:
        positions [k] and scores [k], best first, the lower position first among equals.
    """
    if k == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    found, bound = leading(scores, k)
    vectors = vectors_of(found)
    chosen, exact = _best(products(vectors, query), k)
    # The length of all of them together: it takes less time than the longest one's. A vector that is a thousand times
    # as long as those found may be off by more.
    unsure = np.float32(_ROUNDING * sqrt(float(query @ query) * float(np.vdot(vectors, vectors))))
    if exact[-1] - unsure <= bound and len(found) < len(scores):
        found = ((scores >= exact[-1] - unsure) & (scores > -np.inf)).nonzero()[0]
        chosen, exact = _best(products(vectors_of(found), query), k)
    return found[chosen], exact


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
    if len(rows) > _SIFTED * m:
        scores = products(vectors.take(rows, axis=0), query)
        some, _ = leading(scores, m)
        order = np.lexsort((rows[some], -scores[some]))[:m]
        return rows[some[order]], scores[some[order]]
    # In the order of the rows, for the sake of equal scores and of the memory that they lie in.
    ordered = np.sort(rows)
    chosen, scores = _best(products(vectors.take(ordered, axis=0), query), m)
    return ordered[chosen], scores


def _best(scores: Vectors, m: int) -> tuple[Rows, Vectors]:
    """Positions [m] and scores [m] of the m largest, best first, the lower position first among equals."""
    chosen = (-scores).argsort(kind="stable")[:m]
    return chosen, np.asarray(scores[chosen], np.float32)


def in_order(rows: Rows, scores: Vectors) -> tuple[Rows, Vectors]:
    """Rows [m] whose scores [m] descend already, the lower row first among equals."""
    if not np.count_nonzero(scores[1:] == scores[:-1]):
        return rows, scores
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
