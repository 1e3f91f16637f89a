"""The k largest of many scores."""

from __future__ import annotations

import numpy as np

from feast_recsys.bundle.index.protocol import Rows, Vectors

# See leading. Wide enough that the k best seldom share a column, deep enough that the maxima are few beside the scores.
_COLUMNS, _COLUMNS_FOR_EACH, _DEPTH = 1024, 8, 8

# More than so many times as many as are wanted are looked at again.
_MANY = 4


def best(scores: Vectors, k: int) -> tuple[Rows, Vectors]:
    """Positions and scores of the k largest in each row of scores, at most all."""
    m = min(k, scores.shape[1])
    if len(scores) == 1:
        # A request mostly has one query, and what follows takes 40 us of the 80 that the k best of 10,000 take.
        only = top(scores[0], m)
        return only[None], np.asarray(scores[0].take(only)[None])
    rows = np.array([top(row, m) for row in scores], np.int64).reshape(len(scores), m)
    return rows, np.take_along_axis(scores, rows, axis=1)


def top(scores: Vectors, k: int) -> Rows:
    """Positions of the k largest, best first, the lower position first among equals."""
    if k == 0:
        return np.empty(0, np.int64)
    positions, _ = leading(scores, k)
    return positions[np.argsort(-scores[positions], kind="stable")[:k]]


def leading(scores: Vectors, k: int) -> tuple[Rows, float]:
    """Positions of the k largest and of some more, ascending, and a score that no other one exceeds.

    The scores are looked at as a matrix of many columns. The k-th largest of the columns' maxima is no more than the
    k-th largest score, and little less where the best ones are scattered, so that few others come along.

    Args:
        scores: [n]; -inf for what must not come back.
        k: At least 1, and no more than there are scores above -inf.
    """
    columns = max(_COLUMNS, _COLUMNS_FOR_EACH * k)
    depth = len(scores) // columns
    if depth < _DEPTH:
        return _leading_of_few(scores, k)
    maxima = scores[: depth * columns].reshape(depth, columns).max(axis=0)
    maxima.partition(columns - k)
    positions, bound = _above(scores, maxima[columns - k])
    if len(positions) <= _MANY * k:
        return positions, bound
    among, higher = _leading_of_few(scores[positions], k)
    return positions[among], max(bound, higher)


def _leading_of_few(scores: Vectors, k: int) -> tuple[Rows, float]:
    """The same by selection among all."""
    wanted = k + k // 4 + 8
    if wanted >= len(scores):
        return _above(scores, -np.inf)
    return _above(scores, np.partition(scores, len(scores) - wanted)[len(scores) - wanted])


def _above(scores: Vectors, bound: float) -> tuple[Rows, float]:
    """Positions of what is no less than a bound, but never of -inf."""
    if bound == -np.inf:
        return (scores > bound).nonzero()[0], bound
    return (scores >= bound).nonzero()[0], bound
