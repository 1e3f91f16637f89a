"""Time and recall of searches: one query at a time, one thread, contenders in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.index.protocol import Rows, Vectors

Search = Callable[[Vectors], Rows]
"""[1, d] float32 to [m] int64 rows."""


@dataclass(frozen=True)
class Timed:
    """One contender.

    Attributes:
        recall: Mean share of the due rows that it found.
        p50: Median microseconds of a query.
        p99: The 99th percentile.
        fastest: Median over queries of each one's fastest round; steadier than p50 on a busy machine.
    """

    recall: float
    p50: float
    p99: float
    fastest: float

    def __str__(self) -> str:
        return f"recall {self.recall:.4f}  p50 {self.p50:7.1f}  p99 {self.p99:7.1f}  fastest {self.fastest:7.1f} us"


def time_in_turns(
    contenders: Mapping[str, Search], queries: Vectors, due: Sequence[Rows], *, rounds: int = 5
) -> dict[str, Timed]:
    """Times contenders that answer the same queries.

    The rounds of all contenders are mixed, so that a busy spell of the machine hits each of them. The first round
    warms up and is not counted.

    Args:
        contenders: By name.
        queries: [m, d] float32.
        due: The rows that exact search finds for each query, to count recall with.
        rounds: Counted ones.
    """
    taken = {name: np.empty((rounds, len(queries))) for name in contenders}
    found = dict.fromkeys(contenders, 0.0)
    for round_ in range(-1, rounds):
        for name, search in contenders.items():
            for number in range(len(queries)):
                query = queries[number : number + 1]
                start = time.perf_counter_ns()
                rows = search(query)
                stop = time.perf_counter_ns()
                if round_ < 0:
                    found[name] += len(np.intersect1d(rows, due[number])) / max(1, len(due[number]))
                else:
                    taken[name][round_, number] = (stop - start) / 1000
    return {
        name: Timed(
            found[name] / len(queries),
            float(np.median(times)),
            float(np.percentile(times, 99)),
            float(np.median(times.min(axis=0))),
        )
        for name, times in taken.items()
    }
