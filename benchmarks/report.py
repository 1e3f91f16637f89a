"""Prints a result: one table of all cells, memory, goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contenders import ECHO, HANDWRITTEN, NAIVE, OURS, OURS_TWO, OURS_WHOLE
from benchmarks.rounds import ratio
from rich.console import Console
from rich.table import Table

MIB = 2**20
WIDTH = 172
SATURATED = 0.9  # share of its core above which the load generator, not the server, may set the pace

Result = Mapping[str, Any]


def print_report(result: Result, console: Console | None = None) -> None:
    """Prints all of it."""
    out = console or Console(width=WIDTH)
    facts, pace, world = result["machine"], result["pace"], result["world"]
    out.print(
        f"{facts['processor']}, {facts['cores']} cores, {facts['gflops']:.0f} GFLOPS on one, "
        f"load {facts['load_average']:.1f} at the start; commit {facts['commit']}{'+' if facts['changed'] else ''}",
        highlight=False,
    )
    out.print(
        f"Servers on one core, load generator and Redis on another. {pace['rounds']} interleaved rounds of "
        f"{pace['seconds']:g} s: p50 and rates are medians of rounds, p99 is of all calls together.\n"
        f"{world['users']:,} users; candidates from the {world['pool']:,} items that the online store holds (only the "
        f"naive peer reads them). All gave the same scores within {result['largest_difference']:.1e}.",
        highlight=False,
    )
    out.print(_cells(result["cells"]))
    out.print(_memory(result["memory"]))
    out.print(_goals(result["goals"]))


def _cells(cells: Sequence[Result]) -> Table:
    table = Table(title="Every contender in every cell", title_justify="left")
    table.add_column("who", no_wrap=True)
    for name in (
        "p50 ms",
        "p99 ms",
        "calls/s",
        "per CPU s",
        "rate / naive",
        "p50 / hand",
        "p50 / floors",
        "split floors",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        table.add_section()
        call = f"{cell['call']}({cell['candidates']})"
        table.add_row(
            f"[bold]{cell['store']}, {cell['items']:,} items, {call}, concurrency {cell['concurrency']}[/bold]"
        )
        for name, row in cell["rows"].items():
            table.add_row(*_row(cell, name, row))
        for name, floor in cell["floors"].items():
            table.add_row(f"  floor: {name}", f"{floor['p50_ms']:.3f}")
    return table


def _row(cell: Result, name: str, row: Result) -> list[str]:
    rows = cell["rows"]
    over_naive = _ratio(row, rows.get(NAIVE), "rate", 1) if name != ECHO else ""
    over_hand = _ratio(row, rows.get(HANDWRITTEN), "p50", 2) if name in (OURS, OURS_WHOLE, OURS_TWO) else ""
    over_floors = _over(row, cell.get("floors_sum")) if name != ECHO else ""
    over_split = _over(row, cell.get("floors_sum_split")) if name == OURS else ""
    rate = f"{row['rate']:,.0f}" + ("*" if row["load_busy"] > SATURATED else "")
    who = f"  {name}" + (f" [red]{row['failed']} failed[/red]" if row["failed"] else "")
    return [
        who, f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", rate, f"{row['per_cpu_second']:,.0f}",
        over_naive, over_hand, over_floors, over_split,
    ]  # fmt: skip


def _ratio(row: Result, other: Result | None, what: str, digits: int) -> str:
    if other is None or other is row:
        return ""
    value, low, high = ratio(row["rounds"][what], other["rounds"][what])
    return f"{value:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _over(row: Result, floors: Sequence[float] | None) -> str:
    return "" if floors is None else f"{ratio(row['rounds']['p50'], floors)[0]:.2f}"


def _memory(places: Sequence[Result]) -> Table:
    table = Table(title="Memory after the load, MiB", title_justify="left")
    for name in ("where", "who"):
        table.add_column(name)
    for name in ("processes", "private", "PSS", "RSS of the largest"):
        table.add_column(name, justify="right")
    for place in places:
        table.add_section()
        for who, processes in place["processes"].items():
            private, proportional = (sum(p[k] for p in processes) / MIB for k in ("private", "proportional"))
            largest = max(p["resident"] for p in processes) / MIB
            where = f"{place['store']}, {place['items']:,} items"
            numbers = (len(processes), f"{private:,.0f}", f"{proportional:,.0f}", f"{largest:,.0f}")
            table.add_row(where, who, *map(str, numbers))
    return table


def _goals(goals: Sequence[Result]) -> Table:
    table = Table(title="Figures to reach", title_justify="left")
    for name in ("figure", "wanted", "measured", "", "rounds"):
        table.add_column(name)
    marks = {True: "[green]reached[/green]", False: "[red]not reached[/red]", None: "not measured"}
    for goal in goals:
        value = "" if goal["value"] is None else f"{goal['value']:.2f}"
        table.add_row(goal["goal"], goal["wanted"], value, marks[goal["reached"]], goal["text"])
    return table
