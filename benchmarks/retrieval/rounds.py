"""Contenders in rounds: each is asked the same block of queries before the next block comes.

Within a round all meet the same spell of a busy machine, so that ratios are taken there, and their median counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Rows

Times = npt.NDArray[np.float64]

_TRIED = 5  # queries that say how many of a block there is time for
_FEWEST = 4


@dataclass(frozen=True)
class Contender:
    """What is timed.

    Attributes:
        search: Answers the query of a number.
        prepare: Called before each block, and not timed.
    """

    search: Callable[[int], Rows]
    prepare: Callable[[], None]


@dataclass(frozen=True)
class Ratio:
    """Of two medians in the same rounds: their median over the rounds, and the quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes:
        times: By contender, for each round the microseconds of the block's queries, or of the first of them.
        processor: By contender, for each round the microseconds of processor time of a query.
        found: By contender, the answers to the queries that it was asked, by number.
        passes: Times that each query was asked.
    """

    times: Mapping[str, list[Times]]
    processor: Mapping[str, Times]
    found: Mapping[str, dict[int, Rows]]
    passes: int

    def by_query(self, name: str) -> Times:
        """Microseconds of each query, the middle one of its passes: others on the machine rarely hit two of three."""
        blocks = len(self.times[name]) // self.passes
        each = [np.concatenate(self.times[name][n * blocks : (n + 1) * blocks]) for n in range(self.passes)]
        return np.asarray(np.median(each, axis=0), np.float64)

    def ratio(self, name: str, to: str) -> Ratio:
        """The median time of one contender over that of another, of the queries that both were asked."""
        pairs = [(a[: len(b)], b[: len(a)]) for a, b in zip(self.times[name], self.times[to], strict=True)]
        low, median, high = np.percentile([np.median(a) / np.median(b) for a, b in pairs], (25, 50, 75))
        return Ratio(float(median), float(low), float(high))


def run(
    contenders: Mapping[str, Contender], queries: int, *, block: int = 50, passes: int = 3, longest: float = np.inf
) -> Rounds:
    """Times contenders after a pass that is not timed, which gives the answers.

    Args:
        contenders: By name.
        queries: Number of queries.
        block: Queries of a round.
        passes: Times that each query is asked.
        longest: Seconds that a block should take. A slow contender is asked the first few of a block only.
    """
    blocks = [range(start, min(start + block, queries)) for start in range(0, queries, block)]
    asked = {name: _affordable(contender, queries, block, longest) for name, contender in contenders.items()}
    found: dict[str, dict[int, Rows]] = {name: {} for name in contenders}
    for name, contender in contenders.items():
        contender.prepare()
        for numbers in blocks:
            # Answers may be views of memory that the next search overwrites.
            found[name] |= {number: contender.search(number).copy() for number in numbers[: asked[name]]}
    times: dict[str, list[Times]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    order, random = list(contenders), np.random.default_rng(0)
    for _ in range(passes):
        for numbers in blocks:
            random.shuffle(order)
            for name in order:
                taken, mine = _timed(contenders[name], numbers[: asked[name]])
                times[name].append(taken)
                processor[name].append(mine)
    return Rounds(times, {name: np.array(each) for name, each in processor.items()}, found, passes)


def quick(contender: Contender, numbers: range) -> float:
    """Median microseconds of some queries, the quickest of two runs each."""
    contender.prepare()
    return float(np.median(np.minimum(_timed(contender, numbers)[0], _timed(contender, numbers)[0])))


def _affordable(contender: Contender, queries: int, block: int, longest: float) -> int:
    taken = quick(contender, range(min(_TRIED, queries))) / 1e6
    return int(min(max(longest / taken, min(_FEWEST, block)), block))


def _timed(contender: Contender, numbers: range) -> tuple[Times, float]:
    """Microseconds of each query, and of processor time for a query on average."""
    contender.prepare()
    contender.search(numbers[0])  # what the others have driven out of the caches
    taken, search = np.empty(len(numbers)), contender.search
    began = time.thread_time_ns()
    for place, number in enumerate(numbers):
        start = time.perf_counter_ns()
        search(number)
        taken[place] = time.perf_counter_ns() - start
    return taken / 1000, (time.thread_time_ns() - began) / 1000 / len(numbers)
