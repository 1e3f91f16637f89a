"""What an incremental materialization costs beside a full one, and whether retrieval knows of what it brought.

usage: python -m benchmarks.retrieval.incremental [--items 1000000] [--changed 1000] [--new 10] [--gone 10] [--rounds 3]

A full run, then rounds: some items change, come and go, and an incremental run publishes that. Items come and change by
a push through Feast, and go from the offline store, both outside the time that is measured; a server then looks for
each new item, and for each that is gone. Exits with 1 if it misses one or finds one that is gone.

The shop is kept in the cache; with --again its full run is not repeated, and the rounds go on where the last ended.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from benchmarks.machine import machine
from benchmarks.processes import ROOT
from benchmarks.retrieval.cases import table
from benchmarks.retrieval.results import keep
from benchmarks.retrieval.shop import RECOMMENDER, Change, build, change

from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.pipeline import materialize
from feast_recsys.jobs.report import Mode
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1 import recommender_service_pb2_grpc as pb_grpc

CACHE = ROOT / ".cache" / "bench-incremental"
RESULTS = ROOT / "benchmarks" / "results" / "incremental"
GOAL = 0.05

_FULL = "full.json"
_LIKE = 20  # items asked for that are like another; the two have the same vector
_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Run:
    """One materialization.

    Attributes:
        seconds: On the clock.
        cpu_seconds: Of this process, all its threads.
        steps: Seconds by the name of the step; more than one of a name are added up.
        counts: What the steps counted, by `step: count`.
    """

    seconds: float
    cpu_seconds: float
    steps: Mapping[str, float]
    counts: Mapping[str, int]


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs all, keeps and prints the figures; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(None if arguments is None else list(arguments))
    if not 0 <= options.gone <= options.changed or 2 * options.changed + options.new > options.items:
        parser.error("--gone must not exceed --changed, and --items must be at least twice --changed plus --new")
    folder = options.cache / str(options.items)
    full = _full(folder, options.items, again=options.again)
    rounds: list[Run] = []
    wrong: list[str] = []
    # Other items than last time in a shop that goes on.
    first = len(list(folder.glob("round-*.json")))
    for number in range(first, first + options.rounds):
        _say(f"round {number - first + 1} of {options.rounds} ...")
        happened = change(
            open_repo(folder), changed=options.changed, new=options.new, gone=options.gone, seed=number
        )  # fmt: skip
        rounds.append(run(folder, "incremental"))
        (folder / f"round-{number}.json").write_text(json.dumps(asdict(rounds[-1]), indent=1), encoding="utf-8")
        wrong += violations(folder, happened)
    figures = {
        "items": options.items, "changed": options.changed, "new": options.new, "gone": options.gone,
        "ratio": _ratio(full, rounds, "seconds"), "cpu_ratio": _ratio(full, rounds, "cpu_seconds"),
        "full": asdict(full), "incremental": [asdict(each) for each in rounds],
        "looked_for": options.rounds * (options.new + options.gone), "wrong": wrong, "machine": machine(),
    }  # fmt: skip
    keep(options.out, f"{options.items}-{options.changed}", "runs", figures)
    print(report(figures))
    return 1 if wrong else 0


def run(folder: Path, mode: Mode) -> Run:
    """Materializes a shop up to now."""
    began, worked = time.monotonic(), time.process_time()
    summary = materialize(open_repo(folder), mode=mode)
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - worked
    steps: dict[str, float] = {}
    for step in summary.steps:
        steps[step.name] = round(steps.get(step.name, 0.0) + step.seconds, 3)
    counts = {f"{step.name}: {name}": count for step in summary.steps for name, count in step.counts.items()}
    return Run(round(seconds, 3), round(cpu_seconds, 3), steps, counts)


def violations(folder: Path, happened: Change) -> list[str]:
    """What Retrieve does not know of a change that was published: items like a new one's model, and like the heir of
    one that is gone, by a server that has just started.

    Raises:
        TimeoutError: the server does not get ready.
    """
    server = Server(open_repo(folder))
    server.start()
    try:
        if not server.wait_until_ready(_READY_SECONDS):
            raise TimeoutError(f"no bundle of {folder} in service after {_READY_SECONDS:.0f} s")
        with grpc.insecure_channel(server.address) as channel:
            stub = pb_grpc.RecommenderServiceStub(channel)
            pairs = zip(happened.new.tolist(), happened.new_models.tolist(), strict=True)
            wrong = [f"new item {new} is not found" for new, model in pairs if str(new) not in _like(stub, model)]
            left = zip(happened.gone.tolist(), happened.heirs.tolist(), strict=True)
            return wrong + [f"item {gone} is still found" for gone, heir in left if str(gone) in _like(stub, heir)]
    finally:
        server.stop(0)


def report(figures: Mapping[str, Any]) -> str:
    """A table of seconds by step, and the ratios."""
    full, rounds = figures["full"], figures["incremental"]
    lines = [["step", "full, s", "incremental, s", "share"]]
    names = dict.fromkeys([*full["steps"], *(name for each in rounds for name in each["steps"])])
    for name in names:
        once = full["steps"].get(name)
        times = [each["steps"][name] for each in rounds if name in each["steps"]]
        lines.append(_line(name, once, float(np.median(times)) if times else None))
    for name, of in (("all", "seconds"), ("all, CPU", "cpu_seconds")):
        lines.append(_line(name, full[of], float(np.median([each[of] for each in rounds]))))
    changes = f"{figures['changed']:,} changed, {figures['new']} new, {figures['gone']} gone"
    verdict = "reached" if figures["ratio"] <= GOAL else "missed"
    return "\n".join(
        [
            f"{figures['items']:,} items, {changes}; median of {len(rounds)} incremental runs",
            table(lines),
            f"{100 * figures['ratio']:.2f} % of a full run (goal {100 * GOAL:g} %: {verdict}); "
            f"{figures['looked_for']} new and gone items looked for by Retrieve, {len(figures['wrong'])} wrong",
            *figures["wrong"][:5],
        ]
    )


def _full(folder: Path, items: int, *, again: bool) -> Run:
    """Of a fresh shop; the one before, if that is wanted and there is one."""
    kept = folder / _FULL
    if again and kept.is_file():
        return Run(**json.loads(kept.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)
    _say(f"making {folder} ...")
    build(folder, items)
    _say("full run ...")
    full = run(folder, "full")
    kept.write_text(json.dumps(asdict(full), indent=1), encoding="utf-8")
    return full


def _like(stub: pb_grpc.RecommenderServiceStub, item: int) -> set[str]:
    reply = stub.Retrieve(pb.RetrieveRequest(recommender=RECOMMENDER, seed_item_ids=[str(item)], top_k=_LIKE))
    return set(reply.item_ids)


def _ratio(full: Run, rounds: Sequence[Run], of: str) -> float:
    once: float = getattr(full, of)
    return round(float(np.median([getattr(each, of) for each in rounds])) / once, 5)


def _line(name: str, full: float | None, incremental: float | None) -> list[str]:
    share = f"{100 * incremental / full:.2f} %" if full and incremental is not None else ""
    return [name, *("" if each is None else f"{each:.2f}" for each in (full, incremental)), share]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000, help="[%(default)s]")
    parser.add_argument("--changed", type=int, default=1_000, help="items with other features [%(default)s]")
    parser.add_argument("--new", type=int, default=10, help="items that come [%(default)s]")
    parser.add_argument("--gone", type=int, default=10, help="items that go, at most as many as change [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="incremental runs [%(default)s]")
    parser.add_argument("--again", action="store_true", help="go on with the shop of the last time")
    parser.add_argument("--cache", type=Path, default=CACHE, help="[.cache/bench-incremental]")
    parser.add_argument("--out", type=Path, default=RESULTS, help="[benchmarks/results/incremental]")
    return parser


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
