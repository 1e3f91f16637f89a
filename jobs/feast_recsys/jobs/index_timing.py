"""How long one query takes."""

from __future__ import annotations

import time

import numpy as np
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.index.protocol import Index, Vectors

_QUERIES, _ROUNDS = 64, 3

# A round of slow searches ends early: exact search of 10,000,000 items takes 0.1 s.
_LONGEST_ROUND = 1.0


def microseconds(index: Index, queries: Vectors, k: int) -> float:
    """Mean time of one query on one thread, as a server with several workers asks.

    Of each query the quickest of three runs counts, because whatever else the machine does only adds; and the mean over
    queries, because some may take a longer way than others.

    Args:
        index: To be measured, warmed up here.
        queries: [q, d] float32, q at least 1.
        k: Number of items wanted.
    """
    chosen = [np.ascontiguousarray(queries[i : i + 1]) for i in range(min(len(queries), _QUERIES))]
    with threadpool_limits(1):
        index.search(chosen[0], k)
        rounds = [_round(index, chosen, k) for _ in range(_ROUNDS)]
    shortest = min(map(len, rounds))
    return round(float(np.mean(np.min([times[:shortest] for times in rounds], axis=0))), 1)


def _round(index: Index, queries: list[Vectors], k: int) -> list[float]:
    times: list[float] = []
    begin = time.perf_counter()
    for query in queries:
        start = time.perf_counter()
        index.search(query, k)
        end = time.perf_counter()
        times.append(1e6 * (end - start))
        if end - begin > _LONGEST_ROUND:
            break
    return times
