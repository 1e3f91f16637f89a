"""How much of exact search an index finds, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors

# Queries searched at a time: exact search holds a score for each of these and every item.
_BLOCK = 16

# Two-sided 95 %.
_Z = 1.959964


@dataclass(frozen=True)
class Truth:
    """Exact answers to some queries.

    Attributes:
        queries: [q, d].
        rows: [q, m] the best rows.
        scores: [q, m] their inner products, best first.
    """

    queries: Vectors
    rows: Rows
    scores: Vectors

    @property
    def k(self) -> int:
        """Number of items for each query."""
        return int(self.rows.shape[1])


def exact_answers(vectors: Vectors, queries: Vectors, k: int) -> Truth:
    """What exact search finds.

    Args:
        vectors: [n, d] float32.
        queries: [q, d] float32.
        k: Number of items wanted, at least 1; at most n come.
    """
    rows, scores = search_all(ExactIndex(vectors), queries, k, block=_BLOCK)
    return Truth(queries, rows, scores)


def search_all(index: Index, queries: Vectors, k: int, *, block: int = 1) -> tuple[Rows, Vectors]:
    """Rows and scores of many queries, one at a time, as a server asks, or some."""
    blocks = [index.search(queries[at : at + block], k) for at in range(0, max(len(queries), 1), block)]
    return np.concatenate([rows for rows, _ in blocks]), np.concatenate([scores for _, scores in blocks])


def recalls(truth: Truth, rows: Rows, scores: Vectors) -> npt.NDArray[np.float64]:
    """[q] the share of each query's exact answer that was found; another item of the same score counts as well.

    Args:
        truth: Exact answers.
        rows: [q, m] rows found, each once.
        scores: [q, m] their exact inner products.
    """
    level = truth.scores[:, -1:]
    # The order of summation differs from library to library.
    slack = 1e-6 * np.abs(truth.scores).max(axis=1, keepdims=True)
    hits = scores >= level - slack
    for query in np.flatnonzero(~hits.all(axis=1)):
        hits[query] |= np.isin(rows[query], truth.rows[query])
    return np.asarray(hits.sum(axis=1) / truth.k, np.float64)


def interval(shares: npt.NDArray[np.float64], k: int) -> tuple[float, float, float]:
    """Mean of the queries' recalls, and the ends of its 95 % confidence interval.

    Wilson's score interval, which stays inside 0 and 1 and keeps its width near 1. The k items of a query are found or
    missed together, so that q queries are worth fewer than q * k independent trials (Kish's design effect): as many as
    would make the binomial variance the observed one, at least q.

    Args:
        shares: [q] recalls, q at least 1.
        k: Number of items behind each.
    """
    q, mean = len(shares), float(shares.mean())
    variance = float(shares.var(ddof=1)) if q > 1 else mean * (1 - mean)
    trials = float(q * k)
    if variance > 0:
        trials = min(max(q * mean * (1 - mean) / variance, q), trials)
    centre = (mean + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z / (1 + _Z**2 / trials) * math.sqrt(mean * (1 - mean) / trials + _Z**2 / (4 * trials**2))
    # The rounding of numbers must not put the mean outside.
    return mean, min(max(centre - half, 0.0), mean), max(min(centre + half, 1.0), mean)
