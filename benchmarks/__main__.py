"""`make bench`: our server, its peers and the floors, on this machine, in one run. See --help."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.estimate import estimate
from benchmarks.goals import goals
from benchmarks.lifecycle import bundle_swap, start_to_ready
from benchmarks.machine import machine
from benchmarks.matrix import Plan, full_plans, measure_place, quick_plans, thorough_plans
from benchmarks.processes import ROOT
from benchmarks.report import print_report
from benchmarks.rounds import QUICK, THOROUGH, Pace
from benchmarks.world import Size, build, facts


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 1 if a call failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    matrix = parser.add_mutually_exclusive_group()
    matrix.add_argument("--thorough", action="store_true", help="everybody in each cell, longer turns: 15 minutes")
    matrix.add_argument("--full", action="store_true", help="the whole matrix: both stores, 50 to 1000 candidates")
    parser.add_argument("--rounds", type=int, help=f"turns of each contender {_paces('rounds')}")
    parser.add_argument("--seconds", type=float, help=f"length of a turn {_paces('seconds')}")
    parser.add_argument("--catalogues", type=_numbers, default=(100_000, 1_000_000), metavar="N,N", help="items")
    parser.add_argument("--candidates", type=_numbers, metavar="N,N", help="sizes of Rank, instead of the matrix's")
    parser.add_argument("--stores", type=lambda text: tuple(text.split(",")), metavar="NAME,NAME", help="only these")
    parser.add_argument("--users", type=int, default=5_000, help="users in the online store [%(default)s]")
    parser.add_argument("--pool", type=int, default=20_000, help="items in the online store [%(default)s]")
    parser.add_argument("--no-lifecycle", action="store_true", help="leave out start-up and bundle swap")
    parser.add_argument("--swaps", type=int, help=f"bundle swaps under load {_paces('swaps')}")
    parser.add_argument("--steady", type=float, help=f"seconds before each swap {_paces('steady')}")
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
    pace, plans = _pace(options), _plans(options)
    world = build(options.work, size, say=_say)
    there = {plan: plan.contenders(world) for plan in plans}
    _say(estimate(plans, there, pace, lifecycle=not options.no_lifecycle).text(pace))
    result: dict[str, Any] = {
        "machine": machine(),
        "world": facts(size),
        "pace": asdict(pace),
        "cells": [],
        "memory": [],
    }
    differences = []
    for plan in plans:
        measured = measure_place(world, plan, pace, _say)
        result["cells"] += measured["cells"]
        result["memory"].append(measured["memory"])
        differences.append(measured["difference"])
    result["largest_difference"] = max(differences)
    if not options.no_lifecycle:
        largest = size.catalogues[-1]
        result["start"] = start_to_ready(world, largest, pace.rounds, _say)
        result["swap"] = bundle_swap(world, largest, pace.swaps, pace.steady, _say)
    result["goals"] = goals(result)
    return result


def _plans(options: argparse.Namespace) -> list[Plan]:
    chosen = full_plans if options.full else thorough_plans if options.thorough else quick_plans
    plans = [plan for plan in chosen(options.catalogues) if not options.stores or plan.store in options.stores]
    return [plan.with_candidates(options.candidates) for plan in plans] if options.candidates else plans


def _pace(options: argparse.Namespace) -> Pace:
    given = {field.name: getattr(options, field.name) for field in fields(Pace)}
    chosen = {name: value for name, value in given.items() if value is not None}
    return replace(THOROUGH if options.full or options.thorough else QUICK, **chosen)


def _paces(name: str) -> str:
    return f"[{getattr(QUICK, name):g}; thorough and full: {getattr(THOROUGH, name):g}]"


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.replace("_", "").split(","))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
