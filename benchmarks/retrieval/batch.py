"""BatchRetrieve against as many calls of Retrieve: our server on one core, on either store. See --help.

Each size of batch and the single calls for the same users take turns, so that a busy spell of the machine hits both.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
from benchmarks.contenders import OURS, Cores, Place, start
from benchmarks.content import user_ids
from benchmarks.load import Loader
from benchmarks.processes import ROOT, start_redis
from benchmarks.world import Size, World, build

from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

TOP_K = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints milliseconds for each user."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval.batch", description=__doc__)
    parser.add_argument("--items", type=int, default=100_000, help="size of the catalogue [%(default)s]")
    parser.add_argument("--users", type=int, default=2_000, help="users in the online store [%(default)s]")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 4, 16, 64], help="users of a batch [%(default)s]")
    parser.add_argument("--rounds", type=int, default=30, help="turns of each size [%(default)s]")
    parser.add_argument("--stores", nargs="+", default=["redis", "sqlite"], help="[%(default)s]")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "bench-batch", help="where the world is kept")
    options = parser.parse_args(arguments)
    world = build(options.work, Size(options.users, 1_000, (options.items,)), options.stores)
    print(
        f"{options.items:,} items, top {TOP_K}, one core; median milliseconds for each user of {options.rounds} turns"
    )
    print(f"{'store':8} {'users':>6} {'single':>8} {'batch':>8} {'ratio':>6}")
    for store in options.stores:
        for size, (single, batch) in measure(world, store, options.items, options.sizes, options.rounds).items():
            print(f"{store:8} {size:6} {single:8.3f} {batch:8.3f} {batch / single:6.2f}", flush=True)
    return 0


def measure(world: World, store: str, items: int, sizes: Sequence[int], rounds: int) -> dict[int, tuple[float, float]]:
    """Median milliseconds for each user by size of batch: with a call for each, and with one for all."""
    cores, random = Cores.choose(), np.random.default_rng(11)
    with ExitStack() as stack:
        _, address = (
            start_redis(world.folder("redis"), world.logs, stack, [cores.load]) if store == "redis" else (0, "")
        )
        loader = Loader(world.logs, stack, [cores.load])
        server = start([OURS], Place(world, store, items, address, cores), loader, stack)[OURS]
        channel = stack.enter_context(grpc.insecure_channel(server.address))
        stub, taken = RecommenderServiceStub(channel), {}
        for size in sizes:
            times = []
            for _ in range(rounds + 2):
                users = [str(user) for user in random.choice(user_ids(world.size.users), size, replace=False)]
                times.append((_milliseconds(_one_by_one, stub, users), _milliseconds(_at_once, stub, users)))
            single, batch = np.median(np.array(times[2:]), axis=0) / size
            taken[size] = float(single), float(batch)
    return taken


def _one_by_one(stub: RecommenderServiceStub, users: Sequence[str]) -> None:
    for user in users:
        stub.Retrieve(pb.RetrieveRequest(user_id=user, top_k=TOP_K))


def _at_once(stub: RecommenderServiceStub, users: Sequence[str]) -> None:
    stub.BatchRetrieve(pb.BatchRetrieveRequest(user_ids=users, top_k=TOP_K))


def _milliseconds(
    call: Callable[[RecommenderServiceStub, Sequence[str]], None], stub: RecommenderServiceStub, users: Sequence[str]
) -> float:
    start = time.perf_counter()
    call(stub, users)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    sys.exit(main())
