"""An index by the metric of a model, over one that looks for the largest inner product; see `reduction`."""

from __future__ import annotations

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import (
    INNER_PRODUCT,
    Metric,
    items_for,
    negative_squares,
    queries_for,
    scores_for,
)


class MetricIndex:
    """Takes the model's own queries, gives its own item vectors back, and scores by its metric.

    Args:
        inner: Over `items_for` of the vectors.
        vectors: [n, d] float32, the model's own; may be memory-mapped.
        metric: `cosine` or `l2`.
    """

    def __init__(self, inner: Index, vectors: Vectors, metric: Metric) -> None:
        self.inner, self._vectors, self._metric = inner, vectors, metric

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
        """See Index.search; scores are those of `reduction.scores_for`."""
        rows, products = self.inner.search(queries_for(queries, self._metric), k, allow)
        if self._metric == "l2":
            squares = np.empty(rows.shape, np.float32)
            for found, query, row in zip(squares, queries, rows, strict=True):
                found[:] = negative_squares(query, self._vectors[row])
            return _ordered(rows, squares)
        if products.size and products[:, 0].max() <= 1.0 and products[:, -1].min() >= -1.0:
            return rows, products  # cosines as they are, which is nearly always
        return _ordered(rows, scores_for(products, queries, self._metric))


def by_metric(inner: Index, vectors: Vectors, metric: Metric) -> Index:
    """An index by a metric.

    Args:
        inner: Over `items_for` of the vectors.
        vectors: [n, d] float32, the model's own.
        metric: With `inner_product` the index is `inner` itself.
    """
    return inner if metric == INNER_PRODUCT else MetricIndex(inner, vectors, metric)


def underlying(index: Index) -> Index:
    """What looks for the largest inner product behind an index of a bundle."""
    return index.inner if isinstance(index, MetricIndex) else index


def search_vectors(vectors: Vectors, metric: Metric) -> Vectors:
    """Item vectors as an index takes them.

    Args:
        vectors: [n, d] float32, finite.
        metric: The model's.

    Returns:
        See `items_for`.

    Raises:
        ValueError: a vector is too long for its square to be a float32; names its row.
    """
    made = items_for(vectors, metric)
    finite = np.isfinite(made[:, -1]) if metric == "l2" else np.ones(len(made), np.bool_)
    if not finite.all():
        raise ValueError(f"row {int(np.argmin(finite))} is too long for metric {metric}")
    return made


def _ordered(rows: Rows, scores: Vectors) -> tuple[Rows, Vectors]:
    """Best first, the lower row first among equals: rounding may have changed who comes before whom."""
    steps = np.diff(scores, axis=1)
    if not ((steps > 0) | ((steps == 0) & (np.diff(rows, axis=1) < 0))).any():
        return rows, scores
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
