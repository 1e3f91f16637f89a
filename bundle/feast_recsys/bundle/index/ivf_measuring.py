"""What searches of inverted lists are planned by, measured on real queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import ExactIndex, Kept
from feast_recsys.bundle.index.ivf import IvfIndex
from feast_recsys.bundle.index.protocol import Vectors
from feast_recsys.bundle.index.switching import Switching
from feast_recsys.bundle.index.top import best

_NORMAL = 1.96  # of a 95 % interval
_BLOCK = 8  # queries whose scores over all items are held at once
_ASKED = 256  # queries that efforts are measured with
_TIMED = 64  # queries that are timed
_DEEPEST, _SHARE = 32_768, 0.1  # deeper, and for more of all items, exact search is quicker
_STEP = 2**0.25  # where a cluster ends, effort leaps from a few lists to a hundred
_CODED = 64  # queries whose codes are sorted
_DEEPEST_CODES, _CODES_FOR_EACH, _TIMES = 4_096, 16, 33  # down to where, how many for each item, and in how many steps
_FEW = 0.1  # share of the items that pass another filter that searches are timed with
_COMPARED = (500, 1), (4_000, 4)  # codes that are compared to see what one takes, or so many times those wanted
_GATHERED = 20_000  # rows that exact search is timed with


def measure(index: IvfIndex, queries: Vectors, k: int, recall: float) -> Switching:
    """Efforts by depth, and what looking costs.

    Args:
        index: An opened index.
        queries: [q, d] float32, of real users, q at least 1. The first few hundred are asked.
        k: Number of items.
        recall: What the lower end of a 95 % interval over the queries must reach.
    """
    depths = _depths(min(k, len(index)), len(index))
    if not index.inverted.exactly:
        # Lists and codes lose some each.
        recall = 1.0 - (1.0 - recall) / 2
    efforts, tails = _efforts(index, queries[:_ASKED], depths, recall)
    codes = () if index.inverted.exactly else _codes(index, queries[:_CODED], depths, recall)
    return _with_costs(Switching(tuple(depths), efforts, tails, codes=codes), index, queries[:_TIMED], k)


def _efforts(
    index: IvfIndex, queries: Vectors, depths: list[int], recall: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """For each depth the fewest lists that hold enough of all items down to it, and of the last ones."""
    lists, k = len(index.probing.sizes), depths[0]
    found: npt.NDArray[np.float64] = np.zeros((2, len(depths), lists))
    squares = np.zeros_like(found)
    for start in range(0, len(queries), _BLOCK):
        part = queries[start : start + _BLOCK]
        rows, _ = best(part @ index.vectors.T, depths[-1])
        for query, mine in zip(part, rows, strict=True):
            place = np.empty(lists, np.int64)
            place[index.probing.order(index.inverted.extended(query))] = np.arange(lists)
            places = place[index.lists[mine]]
            for n, depth in enumerate(depths):
                for tail, some in enumerate((places[:depth], places[depth - k : depth])):
                    share = np.cumsum(np.bincount(some, minlength=lists)) / len(some)
                    found[tail, n] += share
                    squares[tail, n] += share**2
    mean = found / len(queries)
    spread = np.sqrt(np.maximum(squares / len(queries) - mean**2, 0.0))
    low = mean - _NORMAL * spread / np.sqrt(len(queries))
    enough = np.argmax(low >= min(recall, 1.0 - 1e-9), axis=2) + 1
    efforts, tails = np.maximum.accumulate(enough, axis=1).tolist()
    return tuple(efforts), tuple(tails)


def _codes(index: IvfIndex, queries: Vectors, depths: list[int], recall: float) -> tuple[int, ...]:
    """For each depth how many of the best codes hold enough of the last items down to it.

    Deeper than some thousand items it is taken to be as many times the depth as there: many codes take long to sort.
    """
    counted = [depth for depth in depths if depth <= max(_DEEPEST_CODES, depths[0])]
    n, k, lists = len(index), depths[0], len(index.probing.sizes)
    wide = min(_CODES_FOR_EACH * counted[-1], n)
    # Times the depth, from which on a share of the items is found.
    times = np.geomspace(1.0, _CODES_FOR_EACH, _TIMES)
    found: npt.NDArray[np.float64] = np.zeros((len(queries), len(counted), _TIMES))
    place = np.full(n, n, np.int64)
    for at, query in enumerate(queries):
        mine = best(query[None] @ index.vectors.T, counted[-1])[0][0]
        rows = index.inverted.nearest(query, wide, lists).rows
        rows = rows[rows >= 0]
        place[rows] = np.arange(len(rows))
        for number, depth in enumerate(counted):
            places = np.sort(place[mine[depth - k : depth]])
            found[at, number] = np.searchsorted(places, times * depth) / k
        place[rows] = n
    low = found.mean(axis=0) - _NORMAL * found.std(axis=0) / np.sqrt(len(queries))
    low[:, -1] = 1.0
    enough = times[np.argmax(low >= recall, axis=1)]
    by_depth = [ceil(depth * float(share)) for depth, share in zip(counted, enough, strict=True)]
    by_depth += [ceil(depth * float(enough[-1])) for depth in depths[len(counted) :]]
    return tuple(np.minimum(np.maximum.accumulate(by_depth), n).tolist())


def _depths(k: int, n: int) -> list[int]:
    """k, and a fifth more each time, down to a tenth of all items."""
    depths = [k]
    while ceil(_STEP * depths[-1]) <= min(_SHARE * n, _DEEPEST):
        depths.append(ceil(_STEP * depths[-1]))
    return depths


def _with_costs(plan: Switching, index: IvfIndex, queries: Vectors, k: int) -> Switching:
    """The same with what everything costs, measured."""
    n, probing = len(index), index.probing
    random, m = np.random.default_rng(0), min(k, len(index))
    everything, few = Allowed(np.ones(n, np.bool_)), Allowed(random.random(n) < _FEW)
    # Many lists, since an item takes half of what it does in a few, and many are where the plan has to choose.
    lists = len(probing.sizes)
    low, high = max(probing.probes // 2, 1), min(max(4 * probing.probes, lists // 8), lists)
    fixed, all_pass = _line(*(_cost(index, queries, m, probes, everything) for probes in (low, high)))
    _, few_pass = _line(*(_cost(index, queries, m, probes, few) for probes in (low, high)))
    compared = max((all_pass - few_pass) / (1.0 - _FEW), 0.0)
    mask = np.zeros(n, np.bool_)
    mask[random.permutation(n)[: max(min(n // 10, _GATHERED), 1)]] = True
    some, exact = Allowed(mask), ExactIndex(index.vectors)
    kept = Kept(some.rows, index.vectors_of(some.rows))
    gathered = _median(lambda query: exact.search_anew(query, k, some), queries) / some.count
    together = _median(lambda query: exact.search_kept(query, k, some, kept), queries) / some.count
    scored = _median(lambda query: exact.search_anew(query, k), queries[:_BLOCK]) / n
    return replace(
        plan,
        scanned_ns=max(all_pass - compared, 0.05),
        compared_ns=compared,
        gathered_ns=gathered,
        scored_ns=scored,
        kept_ns=together,
        fixed_ns=max(fixed, 1_000.0),
        asked_ns=0.0 if index.inverted.exactly else _asked_ns(index, queries, m),
    )


def _asked_ns(index: IvfIndex, queries: Vectors, m: int) -> float:
    """What an item takes that is found by its code and compared exactly."""
    lists = max(len(index.probing.sizes) // 2, 1)
    few, many = (min(max(codes, m * times), len(index)) for codes, times in _COMPARED)

    def search(codes: int) -> float:
        inverted = index.inverted
        return _median(lambda query: inverted.finished(query[0], inverted.nearest(query[0], codes, lists), m), queries)

    return max((search(many) - search(few)) / max(many - few, 1), 1.0)


def _line(few: tuple[float, float], many: tuple[float, float]) -> tuple[float, float]:
    """Height at zero and slope of the line through two points."""
    slope = max((many[1] - few[1]) / max(many[0] - few[0], 1.0), 0.05)
    return few[1] - slope * few[0], slope


def _cost(index: IvfIndex, queries: Vectors, m: int, probes: int, allow: Allowed) -> tuple[float, float]:
    """Items looked at and nanoseconds of a search of some lists."""

    def search(query: Vectors) -> None:
        index.inverted.search(query[0], m, allow, index.probing.nearest(index.inverted.extended(query[0]), probes, m))

    wide = (index.inverted.extended(query) for query in queries)
    looked = [index.probing.sizes[index.probing.nearest(query, probes, m).keys].sum() for query in wide]
    return float(np.median(looked)), _median(search, queries)


def _median(search: Callable[[Vectors], object], queries: Vectors) -> float:
    """Nanoseconds of processor time of one query, so that whatever else runs on the machine counts little.

    All are asked twice: what is read for the first time comes from a file.
    """
    times = []
    for n in (*range(len(queries)), *range(len(queries))):
        began = time.thread_time_ns()
        search(queries[n : n + 1])
        times.append(time.thread_time_ns() - began)
    return float(np.median(times[len(queries) :]))
