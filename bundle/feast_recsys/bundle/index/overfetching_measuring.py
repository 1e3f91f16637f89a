"""How deep an index without filters can be asked, with which effort and for how long, measured on real queries."""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np

from feast_recsys.bundle.index.exact import GATHER_SHARE, ExactIndex
from feast_recsys.bundle.index.overfetching import OverfetchingIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.switching import Switching
from feast_recsys.bundle.index.top import best

_NORMAL = 1.96  # of a 95 % interval
_ASKED = 64  # queries
_BLOCK = 8  # queries whose scores over all items are held at once
_DEEPEST, _SHARE = 32_768, 0.1  # deeper, and for more of all items, exact search is quicker
_MORE = 1.4  # times the effort that fell short
_NO_EFFORT = 2**31 - 1  # stands for an effort that is not to be had, and takes longer than anything


@dataclass(frozen=True)
class _Tried:
    """One effort at one depth: lower ends of the intervals of recall, of all items and of the last, and nanoseconds."""

    all: float
    last: float
    taken: float


def measure(index: OverfetchingIndex, queries: Vectors, k: int, recall: float) -> Switching:
    """The least effort, about, for each depth that is quicker than exact search of everything.

    Args:
        index: An opened index.
        queries: [q, d] float32, of real users, q at least 1. The first are asked.
        k: Number of items.
        recall: What the lower end of a 95 % interval over the queries must reach.

    Returns:
        At least the effort for k items. Deeper than the last depth, nothing is as good as exact search.
    """
    n, asked, depth = len(index), queries[:_ASKED], min(k, len(index))
    wanted, effort, tail = depth, index.effort, index.effort
    due = _due(index.vectors, asked, max(depth, min(int(_SHARE * n), _DEEPEST)))
    exact = _exact_ns(index.vectors, asked, depth)
    depths: list[int] = []
    efforts: list[int] = []
    tails: list[int] = []
    taken: list[float] = []
    while depth <= due.shape[1]:

        def tried(effort: int, depth: int = depth) -> _Tried:
            return _try(index, asked, due, depth, wanted, effort)

        found = tried(effort)
        while found.all < recall and found.taken < exact and effort < index.most_effort:
            effort = _more(effort, index)
            found = tried(effort)
        if depths and (found.all < recall or found.taken >= exact):
            break
        last, tail = found, max(effort, tail)
        if effort < tail < _NO_EFFORT:
            last = tried(tail)
        while last.last < recall and tail < _NO_EFFORT:
            # What takes longer than exact search will not be asked for: how much longer does not matter.
            enough = last.taken < exact and tail < index.most_effort
            tail = _more(tail, index) if enough else _NO_EFFORT
            last = tried(tail) if enough else last
        depths.append(depth)
        efforts.append(effort)
        tails.append(tail)
        taken.append(found.taken)
        depth *= 2
    costs = {"gathered_ns": exact / (GATHER_SHARE * n), "scored_ns": exact / n}
    return Switching(tuple(depths), tuple(efforts), tuple(tails), searched_ns=tuple(taken), codes=(), **costs)


def _more(effort: int, index: OverfetchingIndex) -> int:
    return min(ceil(_MORE * effort), index.most_effort)


def _try(index: OverfetchingIndex, queries: Vectors, due: Rows, depth: int, wanted: int, effort: int) -> _Tried:
    found, times = np.empty((2, len(queries))), []
    for n, (query, mine) in enumerate(zip(queries, due, strict=True)):
        began = time.thread_time_ns()
        rows, _ = index.nearest(query, depth, effort)
        times.append(time.thread_time_ns() - began)
        there = np.isin(mine[:depth], rows, assume_unique=True)
        found[:, n] = there.mean(), there[depth - wanted :].mean()
    low = found.mean(axis=1) - _NORMAL * found.std(axis=1) / sqrt(len(queries))
    return _Tried(float(low[0]), float(low[1]), float(np.median(times)))


def _due(vectors: Vectors, queries: Vectors, depth: int) -> Rows:
    """[q, depth] what exact search finds."""
    parts = [best(queries[at : at + _BLOCK] @ vectors.T, depth)[0] for at in range(0, len(queries), _BLOCK)]
    return np.concatenate(parts)


def _exact_ns(vectors: Vectors, queries: Vectors, k: int) -> float:
    """Nanoseconds of processor time of an exact search of everything."""
    exact, times = ExactIndex(vectors), []
    for n in range(min(len(queries), _BLOCK)):
        began = time.thread_time_ns()
        exact.search_anew(queries[n : n + 1], k)
        times.append(time.thread_time_ns() - began)
    return float(np.median(times))
