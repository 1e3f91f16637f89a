"""Rounds: A B C, A B C, ... so that whatever disturbs the machine disturbs all alike, and ratios hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from benchmarks.contenders import ECHO, Contender
from benchmarks.floors import ONNX_SPLIT, RANK_FLOORS, RETRIEVE_FLOORS, Floors
from benchmarks.load import Loader
from benchmarks.traffic import Traffic

WARM_UP = 0.3
FLOOR_SHARE = 0.2  # of a round's seconds, for each floor


@dataclass(frozen=True)
class Pace:
    """How long and how often.

    Attributes:
        rounds: Times that each contender has its turn, and starts of a server.
        seconds: Length of a turn.
        swaps: Swaps of a bundle under load.
        steady: Seconds of load before each swap.
    """

    rounds: int
    seconds: float
    swaps: int = 2
    steady: float = 5.0


QUICK = Pace(4, 1.0)
THOROUGH = Pace(5, 1.5, swaps=4, steady=8.0)


@dataclass
class Row:
    """One contender in one cell; lists have one element a round.

    Attributes:
        p50: Median latency in seconds.
        rate: Calls that succeeded, a second.
        per_cpu: Calls that succeeded, per CPU second of the server's processes.
        latencies: Of all rounds together, for the 99th percentile.
        failed: Calls that failed.
        busy: Share of a core that the load generator used, at most.
    """

    p50: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    per_cpu: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    busy: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """For the report."""
        return {
            "p50_ms": float(np.median(self.p50)) * 1e3,
            "p99_ms": float(np.percentile(self.latencies, 99)) * 1e3,
            "calls": len(self.latencies),
            "rate": float(np.median(self.rate)),
            "per_cpu_second": float(np.median(self.per_cpu)),
            "failed": self.failed,
            "load_busy": self.busy,
            "rounds": {"p50": self.p50, "rate": self.rate, "per_cpu": self.per_cpu},
        }


@dataclass(frozen=True)
class Cell:
    """One place in the matrix.

    Attributes:
        store: Online store.
        items: Size of the catalogue.
        traffic: What is asked.
        concurrency: Requests at the same time.
    """

    store: str
    items: int
    traffic: Traffic
    concurrency: int

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.store}, {self.items:,} items, {self.traffic.name}, concurrency {self.concurrency}"


def measure(
    cell: Cell, contenders: Mapping[str, Contender], loader: Loader, floors: Floors | None, pace: Pace
) -> dict[str, Any]:
    """Measures one cell.

    Args:
        cell: What to measure.
        contenders: By name, in the order of their turns.
        loader: Sends the requests.
        floors: Measured in the same rounds; None for none.
        pace: How long and how often.

    Returns:
        Rows by contender, floors by name, and the ratio to the sum of floors where there are floors.
    """
    rows = {name: Row() for name in contenders}
    wanted = RANK_FLOORS if cell.traffic.method == "Rank" else RETRIEVE_FLOORS
    parts: dict[str, list[float]] = {name: [] for name in wanted if floors is not None and name in floors.names}
    for contender in contenders.values():
        loader.run(contender.address, cell.traffic, cell.concurrency, min(WARM_UP, pace.seconds))
    for _ in range(pace.rounds):
        for name, contender in contenders.items():
            _turn(rows[name], cell, contender, loader, pace.seconds)
        for name, medians in parts.items():
            assert floors is not None
            medians.append(float(np.median(floors.run(name, cell.traffic.path, FLOOR_SHARE * pace.seconds))))
    result: dict[str, Any] = {
        "store": cell.store,
        "items": cell.items,
        "call": cell.traffic.method,
        "candidates": cell.traffic.candidates,
        "concurrency": cell.concurrency,
        "rows": {name: row.to_dict() for name, row in rows.items()},
        "floors": {name: {"p50_ms": float(np.median(m)) * 1e3, "rounds": m} for name, m in parts.items()},
    }
    if parts and ECHO in rows:
        echo = rows[ECHO].p50
        whole = [[*echo], *(m for name, m in parts.items() if name != ONNX_SPLIT)]
        result["floors_sum"] = _sum(whole)
        if ONNX_SPLIT in parts:
            result["floors_sum_split"] = _sum([[*echo], parts[ONNX_SPLIT], *(parts[n] for n in wanted[2:])])
    return result


def ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the ratios round by round."""
    values = np.array(above) / np.array(below)
    return float(np.median(values)), float(values.min()), float(values.max())


def _turn(row: Row, cell: Cell, contender: Contender, loader: Loader, seconds: float) -> None:
    before = contender.cpu()
    load = loader.run(contender.address, cell.traffic, cell.concurrency, seconds)
    used = contender.cpu() - before
    row.failed += load.failed
    if not len(load.latencies):
        raise RuntimeError(f"{contender.name} answered nothing: {cell.title}: {'; '.join(load.errors)}")
    row.p50.append(float(np.median(load.latencies)))
    row.rate.append(len(load.latencies) / load.seconds)
    row.per_cpu.append(len(load.latencies) / max(used, 0.01))  # the kernel counts in steps of 10 ms
    row.latencies.extend(load.latencies.tolist())
    row.busy = max(row.busy, load.busy)


def _sum(parts: Sequence[Sequence[float]]) -> list[float]:
    """Sums round by round."""
    return np.sum(np.array(parts), axis=0).tolist()  # type: ignore[no-any-return]  # a list of floats
