"""Start-up and the swap of a bundle under load, with the largest catalogue and Redis."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.bundles import twin
from benchmarks.contenders import OURS, Cores, Place, command, start
from benchmarks.load import Load, Loader
from benchmarks.matrix import Say
from benchmarks.processes import Child, start_redis
from benchmarks.traffic import Traffic, rank_traffic, read
from benchmarks.world import World

from feast_recsys.bundle.store import current, history, point
from feast_recsys.v1 import recommender_service_pb2 as pb

CANDIDATES = 500
SWAP_SECONDS = 60.0
SETTLE = 1.0  # after the new bundle answers, the old one is let go


def start_to_ready(world: World, items: int, times: int, say: Say) -> dict[str, Any]:
    """Seconds from the start of the process until health says SERVING; files are in the page cache, all cores free."""
    cores = Cores.choose()
    taken = []
    with ExitStack() as stack:
        _, address = start_redis(world.folder("redis"), world.logs, stack, [cores.load])
        place = Place(world, "redis", items, address, cores)
        loader = Loader(world.logs, stack, [cores.load])
        for _ in range(times):
            say(f"starting with {items:,} items ...")
            child = Child("start", command(OURS, place), world.logs, place.environment)
            try:
                taken.append(loader.ready(child.listening()) - child.started)
            finally:
                child.stop()
    return {"items": items, "seconds": float(np.median(taken)), "rounds": taken}


def bundle_swap(world: World, items: int, swaps: int, steady: float, say: Say) -> dict[str, Any]:
    """Latencies of a closed loop of Rank, in the seconds before each swap and while it happens.

    A swap is from the moment in which the pointer changes until a second after the new bundle answers. The load runs at
    concurrency 1: what is compared are latencies. The server may use all cores, as one that verifies a bundle would.
    """
    cores = Cores.choose()
    root = world.bundles(items)
    first = str(current(root))
    others = [name for name in history(root) if name != first]
    second = others[0] if others else twin(root, first)
    traffic = rank_traffic(world, min(CANDIDATES, world.size.pool))
    with ExitStack() as stack:
        _, address = start_redis(world.folder("redis"), world.logs, stack, [cores.load])
        place = Place(world, "redis", items, address, cores)
        loader = Loader(world.logs, stack, [cores.load])
        probe = Loader(world.logs, stack, [cores.load], "probe")
        server = start([OURS], place, loader, stack)[OURS]
        stack.callback(point, root, first)
        measured = []
        loader.run(server.address, traffic, 1, steady / 2)
        for number in range(swaps):
            say(f"swap {number + 1} of {swaps} under load ...")
            wanted = second if number % 2 == 0 else first
            measured.append(_one_swap(root, wanted, server.address, loader, probe, traffic, steady))
    ratios = [m["swap_p99_ms"] / m["steady_p99_ms"] for m in measured]
    return {
        "items": items,
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
        "failed": sum(m["failed"] for m in measured),
        "swaps": measured,
    }


def _one_swap(
    root: Path, wanted: str, address: str, loader: Loader, probe: Loader, traffic: Traffic, steady: float
) -> dict[str, Any]:
    seconds = steady + SWAP_SECONDS
    loader.begin(address, traffic, 1, seconds)
    time.sleep(steady)
    began = time.monotonic()
    point(root, wanted)
    request = pb.RankRequest.FromString(read(traffic.path)[0])
    del request.item_ids[1:]
    while pb.RankResponse.FromString(probe.call(address, "Rank", request.SerializeToString())).info.bundle_id != wanted:
        if time.monotonic() - began > SWAP_SECONDS:
            raise TimeoutError(f"bundle {wanted} is not in service after {SWAP_SECONDS:.0f} s")
        time.sleep(0.1)
    answered = time.monotonic()
    time.sleep(SETTLE)
    loader.interrupt()
    load = loader.end(seconds)
    swap = _between(load, began, answered + SETTLE)
    return {
        "steady_p50_ms": float(np.median(_between(load, 0.0, began))) * 1e3,
        "steady_p99_ms": float(np.percentile(_between(load, 0.0, began), 99)) * 1e3,
        "swap_p50_ms": float(np.median(swap)) * 1e3,
        "swap_p99_ms": float(np.percentile(swap, 99)) * 1e3,
        "swap_longest_ms": float(swap.max()) * 1e3,
        "swap_seconds": answered - began,
        "calls": len(load.latencies),
        "failed": load.failed,
    }


def _between(load: Load, begin: float, end: float) -> npt.NDArray[np.float64]:
    """Latencies of the calls that ended in that time."""
    return load.latencies[(load.ends > begin) & (load.ends <= end)]
