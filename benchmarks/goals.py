"""The figures to reach, each held against what was measured in this run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from benchmarks.contenders import HANDWRITTEN, NAIVE, NAIVE_FROZEN, OURS, OURS_TWO, OURS_WHOLE
from benchmarks.rounds import ratio

Result = Mapping[str, Any]
MIB = 2**20


def goals(result: Result) -> list[dict[str, Any]]:
    """All goals, in order; `reached` is None where the run did not measure what is needed."""
    return [
        {"goal": name, "wanted": f"{sign} {wanted:g}{unit}", "value": value, "text": text, "reached": reached}
        for name, sign, wanted, unit, value, text in _measured(result)
        for reached in [None if value is None else value <= wanted if sign == "<=" else value >= wanted]
    ]


def _measured(result: Result) -> Iterator[tuple[str, str, float, str, float | None, str]]:
    small = min((cell["items"] for cell in result["cells"]), default=0)
    large = max((cell["items"] for cell in result["cells"]), default=0)

    def rank(store: str, n: int, concurrency: int) -> Result | None:
        return _cell(result, store, small, "Rank", n, concurrency)

    yield ("Rank(500), Redis: throughput over the naive peer's", ">=", 45, "x", *_rates(rank("redis", 500, 32), NAIVE))
    better = ("Rank(500), Redis: throughput over the better naive peer's", ">=", 20.0, "x")
    yield (*better, *_rates(rank("redis", 500, 32), NAIVE_FROZEN))
    whole = ("Rank(500), Redis, whole graph: p50 over the hand-written server's", "<=", 1.1, "x")
    yield (*whole, *_latencies(rank("redis", 500, 1), HANDWRITTEN, split=False))
    split = ("Rank(500), Redis, split graph: p50 over the hand-written server's", "<=", 1.0, "x")
    yield (*split, *_latencies(rank("redis", 500, 1), HANDWRITTEN, split=True))
    yield ("Rank(100), Redis: throughput over the naive peer's", ">=", 14, "x", *_rates(rank("redis", 100, 32), NAIVE))
    retrieve = _call(result, "redis", small, "Retrieve", 1)
    yield ("Retrieve, 100,000 items: p50 over the sum of its floors", "<=", 1.35, "x", *_floors(retrieve))
    yield (
        "Rank(500), SQLite: throughput over the naive peer's",
        ">=",
        40,
        "x",
        *_rates(rank("sqlite", 500, 32), NAIVE),
    )
    yield ("two workers: throughput over one's", ">=", 1.8, "x", *_workers(rank("redis", 500, 32)))
    yield ("second worker: private bytes", "<=", 150, " MiB", *_second_worker(result, large))
    yield ("start to ready, 1,000,000 items", "<=", 10, " s", *_start(result.get("start")))
    yield ("bundle swap under load: p99 over the steady state's", "<=", 1.5, "x", *_swap(result.get("swap")))
    yield ("bundle swap under load: failed calls", "<=", 0, "", *_failed(result.get("swap")))
    yield ("Rank(500), Redis, concurrency 1: p99 over p50", "<=", 2, "x", *_tail(rank("redis", 500, 1)))


def _cell(result: Result, store: str, items: int, call: str, n: int, concurrency: int) -> Result | None:
    for cell in result["cells"]:
        have = (cell["store"], cell["items"], cell["call"], cell["candidates"], cell["concurrency"])
        if have == (store, items, call, n, concurrency):
            return cell  # type: ignore[no-any-return]  # plain JSON
    return None


def _call(result: Result, store: str, items: int, call: str, concurrency: int) -> Result | None:
    sizes = {cell["candidates"] for cell in result["cells"] if cell["call"] == call}
    return _cell(result, store, items, call, min(sizes), concurrency) if sizes else None


def _rates(cell: Result | None, other: str) -> tuple[float | None, str]:
    if cell is None:
        return None, ""
    value, low, high = ratio(_rounds(cell, OURS, "rate"), _rounds(cell, other, "rate"))
    return value, f"{low:.1f} to {high:.1f}"


def _latencies(cell: Result | None, other: str, *, split: bool) -> tuple[float | None, str]:
    """Of the server with or without a split ranker: it is "ours" alone where there is no split to compare with."""
    if cell is None:
        return None, ""
    is_split = OURS_WHOLE in cell["rows"]
    if split and not is_split:
        return None, "the ranker is not split"
    who = OURS_WHOLE if is_split and not split else OURS
    value, low, high = ratio(_rounds(cell, who, "p50"), _rounds(cell, other, "p50"))
    return value, f"{low:.2f} to {high:.2f}"


def _floors(cell: Result | None) -> tuple[float | None, str]:
    if cell is None or "floors_sum" not in cell:
        return None, ""
    value, low, high = ratio(_rounds(cell, OURS, "p50"), cell["floors_sum"])
    return value, f"{low:.2f} to {high:.2f}; {cell['items']:,} items"


def _workers(cell: Result | None) -> tuple[float | None, str]:
    """Two workers share one core with the load generator: what counts is what they answer in a second of CPU time.

    With cores of their own each would be as busy as the one worker is on its core, so twice the answers per CPU second
    of two over those of one is the ratio of throughputs that a load generator on cores of its own would see.
    """
    if cell is None or OURS_TWO not in cell["rows"]:
        return None, "needs `serve --workers`"
    value, low, high = ratio(_rounds(cell, OURS_TWO, "per_cpu"), _rounds(cell, OURS, "per_cpu"))
    return 2 * value, f"{2 * low:.2f} to {2 * high:.2f}; twice the ratio of answers per CPU second"


def _second_worker(result: Result, items: int) -> tuple[float | None, str]:
    for entry in result["memory"]:
        processes = entry["processes"]
        if entry["items"] == items and {OURS, OURS_TWO} <= set(processes):
            two, one = (sum(p["private"] for p in processes[name]) for name in (OURS_TWO, OURS))
            return (two - one) / MIB, f"{two / MIB:.0f} of two, {one / MIB:.0f} of one; {items:,} items"
    return None, "needs `serve --workers`"


def _tail(cell: Result | None) -> tuple[float | None, str]:
    if cell is None:
        return None, ""
    row = cell["rows"][OURS]
    return row["p99_ms"] / row["p50_ms"], f"{row['p99_ms']:.2f} ms over {row['p50_ms']:.2f} ms"


def _start(start: Result | None) -> tuple[float | None, str]:
    if start is None:
        return None, ""
    return start["seconds"], f"{_spread(start['rounds'], ' s')}; {start['items']:,} items"


def _swap(swap: Result | None) -> tuple[float | None, str]:
    return (None, "") if swap is None else (swap["ratio"], f"{_spread(swap['ratios'], '')}; {swap['items']:,} items")


def _failed(swap: Result | None) -> tuple[float | None, str]:
    return (None, "") if swap is None else (swap["failed"], f"of {sum(s['calls'] for s in swap['swaps']):,}")


def _rounds(cell: Result, name: str, what: str) -> list[float]:
    values: list[float] = cell["rows"][name]["rounds"][what]
    return values


def _spread(values: list[float], unit: str) -> str:
    return f"{np.min(values):.2f} to {np.max(values):.2f}{unit}"
