"""Largest inner product as nearest neighbour, and other metrics as inner product.

Clusters and graphs want a distance, and an inner product is none: an item may be nearer to others than to itself. One
more column, sqrt(M^2 - |x|^2) with M the greatest length, gives all items the same length, and then the nearest to
[q, 0] is the one with the largest inner product with q (Bachrach et al. 2014).

The other way round every index here looks for the largest inner product, so cosine and Euclidean distance are brought
to that form: items by `items_for` when the bundle is made, queries by `queries_for` when they are asked, and the scores
back by `scores_for`. A distance becomes a difference of squares of lengths, which leaves few digits far from zero;
therefore places are taken from a centre of the items, which is kept as long as it is in their midst.
"""

from __future__ import annotations

from math import sqrt
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Vectors

Metric = Literal["inner_product", "cosine", "l2"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Centre = npt.NDArray[np.float32] | None

_MEDIANS = 16_384  # items of which the centre is the median
INNER_PRODUCT: Final[Metric] = "inner_product"


def of_equal_length(vectors: Vectors) -> tuple[Vectors, float]:
    """Vectors with one more column, so that all are equally long.

    Args:
        vectors: [n, d] float32.

    Returns:
        [n, d + 1] float32 and their length; 1 if all are zero.
    """
    squares = _squares(vectors)
    longest = float(squares.max(initial=0.0)) or 1.0
    last = np.sqrt(np.maximum(longest - squares, 0.0))
    return np.concatenate([vectors, last[:, None].astype(np.float32)], axis=1), float(np.sqrt(longest))


def width_of(dimension: int, metric: Metric) -> int:
    """Width of what `items_for` and `queries_for` make of vectors of that width."""
    return dimension + 1 if metric == "l2" else dimension


def centre_for(vectors: Vectors, metric: Metric, before: Centre = None) -> Centre:
    """What places are taken from.

    Args:
        vectors: [n, d] float32.
        metric: Only `l2` has a centre, and only where there are items.
        before: The centre of an earlier run, if there is one, [d] or of another width.

    Returns:
        `before` itself as long as it lies among the items, no farther from their middle than half of them. Or else
        their middle, [d] float32: of some of them, number by number, so that a few far away don't move it.
    """
    if metric != "l2" or not len(vectors):
        return None
    some = vectors[:: len(vectors) // _MEDIANS + 1]
    middle = np.median(some, axis=0).astype(np.float32)
    if before is not None and before.shape == middle.shape:
        from_middle = np.sqrt(_squares(some.astype(np.float64) - middle))
        if sqrt(float(np.sum((before.astype(np.float64) - middle) ** 2))) <= float(np.median(from_middle)):
            return before
    return middle


def items_for(vectors: Vectors, metric: Metric, centre: Centre = None) -> Vectors:
    """Item vectors whose inner products with `queries_for` are in the order of a metric.

    A row does not depend on the others, so that what is made of the same vector is the same in every run.

    Args:
        vectors: [n, d] float32.
        metric: `cosine` makes rows unit vectors, zero rows stay; `l2` adds a column -|x|^2 / 2, so that the inner
            product is (|q|^2 - |q - x|^2) / 2. `inner_product` gives the same array back.
        centre: [d] float32 from which places are taken with `l2`; None for zero.

    Returns:
        [n, d] float32, or [n, d + 1] for `l2`. The column of `l2` is infinite where |x| is greater than 2.6e19.
    """
    if metric == "cosine":
        return _units(vectors)
    if metric == "l2":
        places = _from(centre, vectors)
        with np.errstate(over="ignore"):
            halves = (-0.5 * _squares(places)).astype(np.float32)
        return np.concatenate([places, halves[:, None]], axis=1)
    return vectors


def queries_for(queries: Vectors, metric: Metric, centre: Centre = None) -> Vectors:
    """Queries to go with `items_for`: [B, d] float32, unit vectors for `cosine`, or [B, d + 1] with ones for `l2`."""
    if metric == "cosine":
        return _units(queries)
    if metric == "l2":
        return np.concatenate([_from(centre, queries), np.ones((len(queries), 1), np.float32)], axis=1)
    return queries


def scores_for(products: Vectors, queries: Vectors, metric: Metric, centre: Centre = None) -> Vectors:
    """Scores by a metric from inner products of `queries_for` and `items_for`.

    Args:
        products: [B, m] float32.
        queries: [B, d] float32, the model's own.
        metric: `l2` gives -|q - x|^2, which is a difference of larger numbers: it is off by up to about 1e-6 of
            (|q| + |x|)^2, taken from the centre. Where only few items are left, `negative_squares` has all digits.
        centre: As the items were made with.

    Returns:
        [B, m] float32, larger is better: the same for `inner_product`, in [-1, 1] for `cosine`, at most 0 for `l2`.
    """
    if metric == "cosine":
        return np.clip(products, np.float32(-1.0), np.float32(1.0))
    if metric == "l2":
        return np.minimum(2.0 * products - _squares(_from(centre, queries))[:, None], 0.0).astype(np.float32)
    return products


def score_all(queries: Vectors, vectors: Vectors, metric: Metric) -> Vectors:
    """[B, n] float32 scores of all items by a metric, from the model's own [B, d] queries and [n, d] item vectors."""
    centre = centre_for(vectors, metric)
    products = queries_for(queries, metric, centre) @ items_for(vectors, metric, centre).T
    return scores_for(products, queries, metric, centre)


def negative_squares(query: Vectors, items: Vectors) -> Vectors:
    """[m] float32: -|q - x|^2 of a [d] query and [m, d] items, as the definition has it.

    Single precision has all digits here: a difference is rounded once, and the sum of its squares has no signs.
    """
    apart = items - query
    return np.asarray(-np.einsum("ij,ij->i", apart, apart), np.float32)


def _from(centre: Centre, vectors: Vectors) -> Vectors:
    return vectors if centre is None else vectors - centre


def _squares(vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    squares: npt.NDArray[np.float64] = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return squares


def _units(vectors: Vectors) -> Vectors:
    # In double precision: squares of very small or large numbers are none in single precision.
    if len(vectors) == 1:
        only = vectors[0].astype(np.float64)
        return np.asarray((only / (sqrt(only.dot(only)) or 1.0)).astype(np.float32)[None])
    lengths = np.sqrt(_squares(vectors))[:, None]
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)
