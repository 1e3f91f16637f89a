"""An index by the metric of a model, over one that looks for the largest inner product; see `reduction`."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import (
    INNER_PRODUCT,
    Centre,
    Metric,
    centre_for,
    items_for,
    negative_squares,
    queries_for,
    scores_for,
)

# Of an inner product of float32, as a share of the lengths that go in.
_ROUNDING = 1e-6

# With squares of such numbers single precision can be summed up; see `kinds.build_index`.
_LONGEST = 1e14

# Items asked for beside those wanted by distance; times as many where that does not settle it; and the number from
# which on the distances of all are computed instead.
_SPARE, _WIDER, _WIDEST = 8, 4, 2_048

_BLOCK = 65_536  # items whose distances are computed at a time


@dataclass(frozen=True)
class Searched:
    """Item vectors as an index takes them.

    Attributes:
        vectors: See `items_for`.
        metric: The model's.
        centre: [d] float32 from which places are taken; None for zero.
    """

    vectors: Vectors
    metric: Metric = INNER_PRODUCT
    centre: Centre = None

    @property
    def spare(self) -> int:
        """Items that the index is asked for beside those wanted."""
        return _SPARE if self.metric == "l2" else 0

    def queries(self, queries: Vectors) -> Vectors:
        """The model's own queries [B, d] as the index takes them, see `queries_for`."""
        return np.ascontiguousarray(queries_for(queries, self.metric, self.centre))


class MetricIndex:
    """Takes the model's own queries, gives its own item vectors back, and scores by its metric.

    Args:
        inner: Over `items_for` of the vectors.
        vectors: [n, d] float32, the model's own; may be memory-mapped.
        metric: `cosine` or `l2`.
        centre: [d] float32 that the index was made with; None for zero.
    """

    def __init__(self, inner: Index, vectors: Vectors, metric: Metric, centre: Centre = None) -> None:
        self.inner, self._vectors, self._metric, self._centre = inner, vectors, metric, centre

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self._vectors.shape[1])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return self._vectors[rows]

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search; scores are cosines, or `reduction.negative_squares`."""
        asked = queries_for(queries, self._metric, self._centre)
        if self._metric == "l2":
            return self._nearest(queries, asked, min(k, len(self)), allow)
        rows, products = self.inner.search(asked, k, allow)
        if products.size and products[:, 0].max() <= 1.0 and products[:, -1].min() >= -1.0:
            return rows, products  # cosines as they are, which is nearly always
        return _ordered(rows, scores_for(products, queries, self._metric))

    def _nearest(self, queries: Vectors, asked: Vectors, k: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        """The nearest by distance itself, of a few more than are wanted by products, which have fewer digits."""
        wide = k + _SPARE
        rows, products = self.inner.search(asked, wide, allow)
        m = min(k, rows.shape[1])
        nearest, squares = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        for n, query in enumerate(queries if m else ()):
            found, last = rows[n], products[n, -1]
            nearest[n], squares[n] = self._by_distance(query, found, m)
            wider = wide
            while len(found) == wider and not _settled(asked[n], last, squares[n, -1]):
                if wider >= _WIDEST:
                    nearest[n], squares[n] = self._among_all(query, m, allow)
                    break
                wider *= _WIDER
                more = self.inner.search(asked[n : n + 1], wider, allow)
                found, last = more[0][0], more[1][0, -1]
                nearest[n], squares[n] = self._by_distance(query, found, m)
        return nearest, squares

    def _by_distance(self, query: npt.NDArray[np.float32], rows: Rows, m: int) -> tuple[Rows, Vectors]:
        squares = negative_squares(query, self._vectors.take(rows, axis=0))
        order = np.lexsort((rows, -squares))[:m]
        return rows[order], squares[order]

    def _among_all(self, query: npt.NDArray[np.float32], m: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        """The nearest of all that are allowed, by distance."""
        rows = np.arange(len(self)) if allow is None else allow.rows
        best = rows[:0], np.empty(0, np.float32)
        for start in range(0, len(rows), _BLOCK):
            some = np.concatenate([best[0], rows[start : start + _BLOCK]])
            best = self._by_distance(query, some, m)
        return best


def _settled(asked: npt.NDArray[np.float32], last: np.float32, worst: np.float32) -> bool:
    """Whether no item beyond the last product can be nearer than the worst that was found, whatever rounding did."""
    length = sqrt(float(asked[:-1] @ asked[:-1]))
    unsure = _ROUNDING * (2.0 * length + sqrt(-float(worst))) ** 2
    return length**2 - 2.0 * float(last) - unsure >= -float(worst)


def by_metric(inner: Index, vectors: Vectors, metric: Metric, centre: Centre = None) -> Index:
    """An index by a metric.

    Args:
        inner: Over `items_for` of the vectors.
        vectors: [n, d] float32, the model's own.
        metric: With `inner_product` the index is `inner` itself.
        centre: That of `items_for`.
    """
    return inner if metric == INNER_PRODUCT else MetricIndex(inner, vectors, metric, centre)


def underlying(index: Index) -> Index:
    """What looks for the largest inner product behind an index of a bundle."""
    return index.inner if isinstance(index, MetricIndex) else index


def search_vectors(vectors: Vectors, metric: Metric, before: Centre = None) -> Searched:
    """Item vectors as an index takes them.

    Args:
        vectors: [n, d] float32, finite.
        metric: The model's.
        before: The centre of an earlier run; see `centre_for` for when it is kept.

    Raises:
        ValueError: a vector is too long for sums of its squares in single precision; names its row.
    """
    centre = centre_for(vectors, metric, before)
    made = items_for(vectors, metric, centre)
    if not (np.abs(made).max(initial=0.0) <= _LONGEST):
        raise ValueError(f"row {int(np.abs(vectors).max(axis=1).argmax())} is too long for metric {metric}")
    return Searched(made, metric, centre)


def _ordered(rows: Rows, scores: Vectors) -> tuple[Rows, Vectors]:
    """Best first, the lower row first among equals: rounding may have changed who comes before whom."""
    steps = np.diff(scores, axis=1)
    if not ((steps > 0) | ((steps == 0) & (np.diff(rows, axis=1) < 0))).any():
        return rows, scores
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
