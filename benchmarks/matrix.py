"""The matrix: which cells there are, and how each place of it is set up, checked and measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.contenders import (
    ECHO,
    OURS,
    OURS_TWO,
    OURS_WHOLE,
    RANKERS,
    Cores,
    Place,
    start,
    workers_supported,
)  # fmt: skip
from benchmarks.floors import Floors
from benchmarks.load import Loader
from benchmarks.processes import memory, start_redis
from benchmarks.rounds import WARM_UP, Cell, Pace, measure
from benchmarks.traffic import Traffic, rank_traffic, retrieve_traffic
from benchmarks.verify import same_ranks, same_retrieval
from benchmarks.world import World

MANY = 32
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure at one place.

    Attributes:
        store: Online store.
        items: Size of the catalogue.
        candidates: Sizes of Rank.
        concurrency: Requests at the same time.
        retrieve: Whether Retrieve is measured, too.
    """

    store: str
    items: int
    candidates: tuple[int, ...]
    concurrency: tuple[int, ...]
    retrieve: bool


def default_plans(catalogues: tuple[int, ...]) -> list[Plan]:
    """A few minutes: what the goals need."""
    small = catalogues[0]
    plans = [
        Plan("redis", small, (100, 500), (1, MANY), True),
        Plan("sqlite", small, (500,), (1, MANY), False),
    ]
    return plans + [Plan("redis", items, (500,), (1,), True) for items in catalogues[1:]]


def full_plans(catalogues: tuple[int, ...]) -> list[Plan]:
    """All of it."""
    stores = ("redis", "sqlite")
    return [Plan(s, n, (50, 100, 500, 1000), (1, MANY), True) for n in catalogues for s in stores]


def measure_place(world: World, plan: Plan, pace: Pace, say: Say) -> dict[str, Any]:
    """Starts everything, checks that all give the same answers, and measures all cells of a place.

    Returns:
        `cells`, `memory` by contender, and the largest difference of a score.

    Raises:
        Disagreement: two contenders answer differently; nothing was timed.
        Died, TimeoutError: a process did not start.
    """
    cores = Cores.choose()
    with ExitStack() as stack:
        address = None
        if plan.store == "redis":
            _, address = start_redis(world.folder("redis"), world.logs, stack, [cores.load])
        place = Place(world, plan.store, plan.items, address, cores)
        loader = Loader(world.logs, stack, [cores.load])
        names = _names(world, plan)
        say(f"{plan.store}, {plan.items:,} items: starting {', '.join(names)} ...")
        contenders = start(names, place, loader, stack)
        paths = [place.configuration, world.ranker, world.encoders, world.bundle(plan.items)]
        floors = Floors(world.logs, stack, [cores.server], place.environment, paths)
        ranks = {n: rank_traffic(world, n) for n in plan.candidates}
        retrieval = retrieve_traffic(world)
        difference = max(same_ranks(contenders, loader, traffic) for traffic in ranks.values())
        difference = max(difference, same_retrieval(contenders, loader, floors, retrieval.path))
        cells = []
        for traffic in [*ranks.values(), *([retrieval] if plan.retrieve else [])]:
            for concurrency in plan.concurrency:
                cell = Cell(plan.store, plan.items, traffic, concurrency)
                say(f"measuring {cell.title} ...")
                turns = {name: c for name, c in contenders.items() if _takes_part(name, traffic, concurrency)}
                cells.append(measure(cell, turns, loader, floors if concurrency == 1 else None, pace))
        for contender in contenders.values():  # all workers have answered before their memory is read
            loader.run(contender.address, max(ranks.values(), key=lambda t: t.candidates), MANY, WARM_UP)
        held = {name: [asdict(memory(pid)) for pid in c.pids()] for name, c in contenders.items()}
        where = {"store": plan.store, "items": plan.items}
        return {"cells": cells, "memory": {**where, "processes": held}, "difference": difference}


def _names(world: World, plan: Plan) -> list[str]:
    """Who is there: the whole graph only beside a split one, on the smallest catalogue."""
    left_out = set()
    if not workers_supported():
        left_out.add(OURS_TWO)
    if not world.is_split or plan.items != min(world.size.catalogues):
        left_out.add(OURS_WHOLE)
    return [name for name in (*RANKERS, ECHO) if name not in left_out]


def _takes_part(name: str, traffic: Traffic, concurrency: int) -> bool:
    """Peers only rank; a second worker has nothing to do at concurrency 1."""
    if name == OURS_TWO:
        return concurrency > 1
    return traffic.method == "Rank" or name in (OURS, ECHO)
