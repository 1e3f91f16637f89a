"""Choices made by measurement: python -m benchmarks.experiments {transport,threads,peers,calls,onnx,split}."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from benchmarks.contenders import HANDWRITTEN, NAIVE_FROZEN, Contender, Cores, Place, command
from benchmarks.floors import Parts
from benchmarks.load import Loader
from benchmarks.matrix import MANY
from benchmarks.peers.common import session
from benchmarks.peers.engine import TRANSPORTS
from benchmarks.processes import ROOT, Child, pin, start_redis
from benchmarks.repository import REDIS_VARIABLE
from benchmarks.rounds import Cell, Pace, measure
from benchmarks.traffic import rank_traffic, read
from benchmarks.world import Size, World, build
from rich.console import Console
from rich.table import Table

THREADS = (1, 2, 4, 8, 16)
SETTLE = 1.0  # before threads are pinned
Commands = Mapping[str, Sequence[str]]


def transport(place: Place) -> Commands:
    """Sync grpcio against grpc.aio, with the real engine."""
    return {name: [*_engine(place), "--transport", name] for name in TRANSPORTS}


def threads(place: Place) -> Commands:
    """Threads of our server."""
    return {f"{n} threads": [*_engine(place), "--threads", str(n)] for n in THREADS}


def peers(place: Place) -> Commands:
    """Threads of the peers, so that they are given what suits them best."""
    names = (NAIVE_FROZEN, HANDWRITTEN)
    return {f"{name}, {n} threads": command(name, place, "--threads", str(n)) for name in names for n in (1, 4, 8, 16)}


def calls(place: Place) -> Commands:
    """One `get_online_features` for user and candidates, or two."""
    return {f"naive peer, {n} calls": command(NAIVE_FROZEN, place, "--calls", str(n)) for n in (1, 2)}


SERVERS: Mapping[str, Callable[[Place], Commands]] = {
    "transport": transport, "threads": threads, "peers": peers, "calls": calls
}  # fmt: skip


def onnx_settings(parts: Parts, place: Place, requests: Sequence[bytes]) -> Mapping[str, Callable[[], object]]:
    """Threads inside ONNX Runtime, and whether they spin; on both cores."""
    path = place.world.ranker / "ranker.onnx"
    feed, output = parts.rank_feed(requests[0])
    variants = {}
    for count in (1, 2):
        for spinning in (False, True):
            ready = session(path, threads=count, spinning=spinning)
            variants[f"{count} threads, {'' if spinning else 'not '}spinning"] = _run(ready, feed, output)
    return variants


def split_graphs(parts: Parts, place: Place, requests: Sequence[bytes]) -> Mapping[str, Callable[[], object]]:
    """The whole graph, user and cross part in two sessions, and the two merged into one."""
    feed, output = parts.rank_feed(requests[0])
    variants = {"whole graph": _run(session(place.world.ranker / "ranker.onnx"), feed, output)}
    split = parts.split_feed(requests[0])
    if split is None:
        return variants
    variants["user and cross part, two sessions"] = split.two_sessions
    if split.user is not None:
        merged = _merge(split.user, split.cross, split.passed)
        variants["user and cross part merged, one session"] = _run(merged, split.feed, output, prefixed=True)
    return variants


ONNX: Mapping[str, Callable[..., Mapping[str, Callable[[], object]]]] = {"onnx": onnx_settings, "split": split_graphs}


def main(arguments: list[str] | None = None) -> int:
    """Runs one experiment, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("what", nargs="*", choices=[*SERVERS, *ONNX], help="which; all by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=500)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench")
    options = parser.parse_args(arguments)
    size = Size(options.users, options.pool, (options.items,))
    world = build(options.work, size, say=lambda text: print(text, file=sys.stderr))
    pace = Pace(options.rounds, options.seconds)
    for name in options.what or [*SERVERS, *ONNX]:
        with ExitStack() as stack:
            place = _place(world, options.items, stack)
            os.sched_setaffinity(0, place.cores.both)
            if name in SERVERS:
                _compare_servers(SERVERS[name], place, options.candidates, pace, stack)
            else:
                _compare_graphs(ONNX[name], place, options.candidates, pace)
    return 0


def _place(world: World, items: int, stack: ExitStack) -> Place:
    cores = Cores.choose()
    _, address = start_redis(world.folder("redis"), world.logs, stack, [cores.load])
    os.environ[REDIS_VARIABLE] = address
    stack.callback(os.environ.pop, REDIS_VARIABLE)
    return Place(world, "redis", items, address, cores)


def _compare_servers(
    make: Callable[[Place], Commands], place: Place, candidates: int, pace: Pace, stack: ExitStack
) -> None:
    loader = Loader(place.world.logs, stack, [place.cores.load])
    contenders = {}
    for name, line in make(place).items():
        child = Child(f"experiment-{name.replace(' ', '-')}", line, place.world.logs, place.environment)
        stack.callback(child.stop)
        contenders[name] = Contender(name, child, child.listening())
        loader.ready(contenders[name].address)
        time.sleep(SETTLE)
        pin(contenders[name].pids(), [place.cores.server])
    traffic = rank_traffic(place.world, candidates)
    table = Table(title=f"{make.__doc__} {traffic.name}, Redis", title_justify="left")
    table.add_column("concurrency 1 and 32", no_wrap=True)
    for concurrency in (1, MANY):
        for what in ("p50 ms", "p99 ms", "calls/s", "per CPU s"):
            table.add_column(f"{what}, {concurrency}", justify="right", no_wrap=True)
    rows: dict[str, list[str]] = {name: [name] for name in contenders}
    for concurrency in (1, MANY):
        cell = Cell(place.store, place.items, traffic, concurrency)
        for name, row in measure(cell, contenders, loader, None, pace)["rows"].items():
            rows[name] += [f"{row['p50_ms']:.3f}", f"{row['p99_ms']:.3f}", f"{row['rate']:,.0f}"]
            rows[name].append(f"{row['per_cpu_second']:,.0f}")
    for texts in rows.values():
        table.add_row(*texts)
    Console(width=172).print(table)


def _compare_graphs(
    make: Callable[..., Mapping[str, Callable[[], object]]], place: Place, candidates: int, pace: Pace
) -> None:
    world = place.world
    parts = Parts(place.configuration, world.ranker, world.encoders, world.bundle(place.items))
    variants = make(parts, place, read(rank_traffic(world, candidates).path))
    if make is split_graphs:  # the other one is about threads
        os.sched_setaffinity(0, [place.cores.server])
    for work in variants.values():
        _median(work, SETTLE / 5)
    gc.collect()
    gc.freeze()
    medians: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(pace.rounds):
        for name, work in variants.items():
            medians[name].append(_median(work, pace.seconds / 5))
    table = Table(title=f"{make.__doc__} Rank({candidates}), ONNX Runtime alone", title_justify="left")
    for column in ("", "p50 ms", "smallest", "largest"):
        table.add_column(column, justify="right" if column else "left")
    for name, values in medians.items():
        table.add_row(name, *(f"{value * 1e3:.3f}" for value in (np.median(values), min(values), max(values))))
    Console(width=110).print(table)


def _median(work: Callable[[], object], seconds: float) -> float:
    taken: list[float] = []
    stop = time.perf_counter() + seconds
    work()
    while (began := time.perf_counter()) < stop or not taken:
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def _run(
    ready: ort.InferenceSession, feed: Mapping[str, Any], output: str, *, prefixed: bool = False
) -> Callable[[], object]:
    names = [node.name for node in ready.get_inputs()]
    given = {name: feed[name.partition("/")[2] if prefixed else name] for name in names}
    outputs = [node.name for node in ready.get_outputs() if node.name.rpartition("/")[2] == output]
    return lambda: ready.run(outputs, given)


def _merge(user: Path, cross: Path, passed: Sequence[str]) -> ort.InferenceSession:
    merged = onnx.compose.merge_models(
        onnx.load(str(user)),
        onnx.load(str(cross)),
        io_map=[(name, name) for name in passed],
        prefix1="user/",
        prefix2="cross/",
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(merged.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _engine(place: Place) -> list[str]:
    return [sys.executable, "-m", "benchmarks.peers.engine", str(place.configuration)]


if __name__ == "__main__":
    sys.exit(main())
