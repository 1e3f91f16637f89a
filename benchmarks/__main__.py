"""`make bench`: our server, its peers and the floors, on this machine, in one run. See --help."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.goals import goals
from benchmarks.lifecycle import bundle_swap, start_to_ready
from benchmarks.machine import machine
from benchmarks.matrix import default_plans, full_plans, measure_place
from benchmarks.processes import ROOT
from benchmarks.report import print_report
from benchmarks.rounds import Pace
from benchmarks.world import Size, build, facts


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 1 if a call failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the whole matrix: both stores, 50 to 1000 candidates")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender [%(default)s]")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn [%(default)s]")
    parser.add_argument("--catalogues", type=_numbers, default=(100_000, 1_000_000), metavar="N,N", help="items")
    parser.add_argument("--candidates", type=_numbers, metavar="N,N", help="sizes of Rank, instead of the matrix's")
    parser.add_argument("--stores", type=lambda text: tuple(text.split(",")), metavar="NAME,NAME", help="only these")
    parser.add_argument("--users", type=int, default=5_000, help="users in the online store [%(default)s]")
    parser.add_argument("--pool", type=int, default=20_000, help="items in the online store [%(default)s]")
    parser.add_argument("--no-lifecycle", action="store_true", help="leave out start-up and bundle swap")
    parser.add_argument("--swaps", type=int, default=4, help="bundle swaps under load [%(default)s]")
    parser.add_argument("--steady", type=float, default=8.0, help="seconds before each swap [%(default)s]")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench", help="where the world is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="where the JSON goes")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are stopped, too
    result = run(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_report(result)
    print(f"written to {os.path.relpath(path)}")
    return 0 if not any(row["failed"] for cell in result["cells"] for row in cell["rows"].values()) else 1


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measures what the options say."""
    size = Size(options.users, options.pool, options.catalogues)
    world = build(options.work, size, say=_say)
    plans = (full_plans if options.full else default_plans)(size.catalogues)
    pace = Pace(options.rounds, options.seconds)
    result: dict[str, Any] = {
        "machine": machine(),
        "world": facts(size),
        "pace": {"rounds": pace.rounds, "seconds": pace.seconds},
        "cells": [],
        "memory": [],
    }
    differences = []
    for plan in plans:
        if options.stores and plan.store not in options.stores:
            continue
        if options.candidates:
            plan = replace(plan, candidates=options.candidates)
        measured = measure_place(world, plan, pace, _say)
        result["cells"] += measured["cells"]
        result["memory"].append(measured["memory"])
        differences.append(measured["difference"])
    result["largest_difference"] = max(differences)
    if not options.no_lifecycle:
        largest = size.catalogues[-1]
        result["start"] = start_to_ready(world, largest, pace.rounds, _say)
        result["swap"] = bundle_swap(world, largest, options.swaps, options.steady, _say)
    result["goals"] = goals(result)
    return result


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace("_", "").split(","))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
