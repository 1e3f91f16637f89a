"""Made vectors for timing indexes: clusters, and queries that look for what lies in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.index.protocol import Vectors

DIMENSION = 64

# Items of one cluster, and how far they lie from its centre: item towers put a genre's items together, not upon each
# other. Queries lie wider, since a user wants more than one thing.
_ITEMS_OF_A_CLUSTER, _SPREAD, _QUERY_SPREAD = 200, 0.35, 0.5
_AT_A_TIME = 65_536


@dataclass(frozen=True)
class Made:
    """Vectors of one seed.

    Attributes:
        items: [n, d] float32; with `bias`, the last column is one.
        queries: [m, d] float32, with ones in the bias column.
    """

    items: Vectors
    queries: Vectors


def clustered(
    n: int, *, queries: int, dimension: int = DIMENSION, seed: int = 0, bias: float = 0.0, unit: bool = True
) -> Made:
    """Items in clusters of 200 on average, with queries near the centres of some.

    Args:
        n: Number of items.
        queries: Number of queries.
        dimension: Width, the bias column included.
        seed: Of everything.
        bias: Standard deviation of a bias column, which takes the last place; 0 for none.
        unit: Whether items and queries have unit length before the bias is put to them.
    """
    random = np.random.default_rng(seed)
    width = dimension - (bias > 0)
    centres = random.standard_normal((max(1, n // _ITEMS_OF_A_CLUSTER), width), np.float32)
    items = np.empty((n, dimension), np.float32)
    for start in range(0, n, _AT_A_TIME):
        part = items[start : start + _AT_A_TIME, :width]
        part[:] = _around(centres, len(part), _SPREAD, random, unit=unit)
    asked = np.ones((queries, dimension), np.float32)
    asked[:, :width] = _around(centres, queries, _QUERY_SPREAD, random, unit=unit)
    if bias > 0:
        items[:, width] = bias * random.standard_normal(n, np.float32)
    return Made(items, asked)


def _around(centres: Vectors, n: int, spread: float, random: np.random.Generator, *, unit: bool) -> Vectors:
    vectors = centres[random.integers(0, len(centres), n)]
    vectors = vectors + np.float32(spread) * random.standard_normal(vectors.shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if unit else vectors
