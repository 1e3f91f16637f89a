"""Where each microsecond of a call goes: python -m benchmarks.profile.

Our server runs in this process. The steps of a call are timed one by one in the main thread, without the network; then
a load generator calls the same server over gRPC, and what is left of its time is gRPC's, the threads' and the
network's.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.contenders import ECHO, Cores, Place, start
from benchmarks.load import Loader
from benchmarks.peers.engine import engine_of
from benchmarks.processes import ROOT, start_redis
from benchmarks.repository import REDIS_VARIABLE, STORES
from benchmarks.traffic import Traffic, rank_traffic, read, retrieve_traffic
from benchmarks.world import Size, World, build
from rich.console import Console
from rich.table import Table

from feast_recsys.features.repo import open_repo
from feast_recsys.server import codec
from feast_recsys.server.app import Server
from feast_recsys.server.deadline import Deadline
from feast_recsys.v1 import recommender_service_pb2 as pb

WARM_UP = 50
Steps = dict[str, float]


class Recorder:
    """Stands in for the metrics of a server, and keeps what it is told of stages.

    Args:
        server: Its metrics hear of everything all the same.
    """

    def __init__(self, server: Server) -> None:
        self.steps: Steps = {}
        self._engine = engine_of(server)
        self._stage = server.metrics.stage
        server.metrics.stage = self._record  # type: ignore[method-assign]  # the purpose of this class

    def one(self, method: str, message: bytes) -> Steps:
        """Seconds of each step of one call."""
        self.steps = {}
        decode, query, engine, encode = self._functions(method)
        marks = [time.perf_counter()]

        def mark(value: Any) -> Any:
            marks.append(time.perf_counter())
            return value

        request = mark(decode(message))
        asked = mark(query(request))
        result = mark(engine(asked, Deadline()))
        mark(mark(encode(result)).SerializeToString())
        parsed, decoded, answered, encoded, written = np.diff(marks).tolist()
        inside = {f"engine: {name}": seconds for name, seconds in self.steps.items()}
        return {
            "request: bytes to message": parsed,
            "request: message to query": decoded,
            **inside,
            "engine: the rest (order, ids, info)": answered - sum(inside.values()),
            "reply: result to message": encoded,
            "reply: message to bytes": written,
        }

    def _functions(self, method: str) -> tuple[Callable[..., Any], ...]:
        if method == "Rank":
            return pb.RankRequest.FromString, codec.rank_query, self._engine.rank, codec.rank_response
        return pb.RetrieveRequest.FromString, codec.retrieve_query, self._engine.retrieve, codec.retrieve_response

    def _record(self, rpc: str, stage: str, seconds: float) -> None:
        self.steps[stage] = self.steps.get(stage, 0.0) + seconds
        self._stage(rpc, stage, seconds)


def profile(recorder: Recorder, traffic: Traffic, calls: int) -> Steps:
    """Median seconds of each step over many calls, in order."""
    requests = read(traffic.path)
    taken: list[Steps] = []
    for number in range(WARM_UP + calls):
        taken.append(recorder.one(traffic.method, requests[number % len(requests)]))
    return {name: float(np.median([steps[name] for steps in taken[WARM_UP:]])) for name in taken[-1]}


def main(arguments: list[str] | None = None) -> int:
    """Prints a table for each kind of call."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--store", choices=STORES, default="redis")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--candidates", type=lambda text: [int(n) for n in text.split(",")], default=[100, 500])
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench")
    options = parser.parse_args(arguments)
    size = Size(options.users, options.pool, (options.items,))
    world = build(options.work, size, say=lambda text: print(text, file=sys.stderr))
    traffics = [*(rank_traffic(world, n) for n in options.candidates), retrieve_traffic(world)]
    _profile_all(world, options, traffics)
    return 0


def _profile_all(world: World, options: argparse.Namespace, traffics: Sequence[Traffic]) -> None:
    cores = Cores.choose()
    with ExitStack() as stack:
        address = None
        if options.store == "redis":
            _, address = start_redis(world.folder("redis"), world.logs, stack, [cores.load])
            os.environ[REDIS_VARIABLE] = address
        place = Place(world, options.store, options.items, address, cores)
        loader = Loader(world.logs, stack, [cores.load])
        echo = start([ECHO], place, loader, stack)[ECHO]
        os.sched_setaffinity(0, [cores.server])
        server = Server(open_repo(place.configuration.parent, place.configuration))
        server.start()
        stack.callback(server.stop, 0)
        if not server.wait_until_ready(120):
            raise TimeoutError("the server has no bundle; its log says why")
        gc.collect()
        gc.freeze()
        gc.disable()
        recorder = Recorder(server)
        for traffic in traffics:
            steps = profile(recorder, traffic, options.calls)
            seen, bare = (
                float(np.median(loader.run(where, traffic, 1, options.seconds).latencies))
                for where in (server.address, echo.address)
            )
            _print(f"{traffic.name}, {options.store}, {options.items:,} items", steps, seen, bare)


def _print(title: str, steps: Steps, seen: float, bare: float) -> None:
    inside = sum(steps.values())
    table = Table(title=title, title_justify="left")
    for name in ("step", "us", "share"):
        table.add_column(name, justify="left" if name == "step" else "right")
    for name, seconds in steps.items():
        table.add_row(name, f"{seconds * 1e6:,.0f}", f"{seconds / seen:.1%}")
    table.add_section()
    table.add_row("all steps, in process", f"{inside * 1e6:,.0f}", f"{inside / seen:.1%}")
    table.add_row("gRPC, threads, network", f"{(seen - inside) * 1e6:,.0f}", f"{(seen - inside) / seen:.1%}")
    table.add_row("as the caller sees it, p50", f"{seen * 1e6:,.0f}", "100.0%")
    table.add_section()
    table.add_row("for comparison: the bare echo, p50", f"{bare * 1e6:,.0f}", f"{bare / seen:.1%}")
    Console(width=90).print(table)


if __name__ == "__main__":
    sys.exit(main())
