"""Largest inner product as nearest neighbour, and other metrics as inner product.

Clusters and graphs want a distance, and an inner product is none: an item may be nearer to others than to itself. One
more column, sqrt(M^2 - |x|^2) with M the greatest length, gives all items the same length, and then the nearest to
[q, 0] is the one with the largest inner product with q (Bachrach et al. 2014).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from feast_recsys.bundle.index.protocol import Vectors

Metric = Literal["inner_product", "cosine", "l2"]


def of_equal_length(vectors: Vectors) -> tuple[Vectors, float]:
    """Vectors with one more column, so that all are equally long.

    Args:
        vectors: [n, d] float32.

    Returns:
        [n, d + 1] float32 and their length; 1 if all are zero.
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    longest = float(squares.max(initial=0.0)) or 1.0
    last = np.sqrt(np.maximum(longest - squares, 0.0))
    return np.concatenate([vectors, last[:, None].astype(np.float32)], axis=1), float(np.sqrt(longest))


def items_for(vectors: Vectors, metric: Metric) -> Vectors:
    """Item vectors whose inner products with `queries_for` are in the order of a metric.

    Args:
        vectors: [n, d] float32.
        metric: `cosine` makes rows unit vectors, zero rows stay; `l2` adds a column -|x|^2 / 2, so that the inner
            product is (|q|^2 - |q - x|^2) / 2.

    Returns:
        [n, d] float32, or [n, d + 1] for `l2`.
    """
    if metric == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)
    if metric == "l2":
        halves = -0.5 * np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        return np.concatenate([vectors, halves[:, None].astype(np.float32)], axis=1)
    return vectors


def queries_for(queries: Vectors, metric: Metric) -> Vectors:
    """Queries to go with `items_for`: [B, d] float32, or [B, d + 1] with ones for `l2`.

    A query's length does not change its order, so `cosine` leaves it.
    """
    if metric == "l2":
        return np.concatenate([queries, np.ones((len(queries), 1), np.float32)], axis=1)
    return queries
