"""The matrix: which cells there are, and how each place of it is set up, checked and measured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.contenders import (
    ECHO,
    HANDWRITTEN,
    NAIVE,
    NAIVE_FROZEN,
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
from benchmarks.traffic import rank_traffic, retrieve_traffic
from benchmarks.verify import same_ranks, same_retrieval
from benchmarks.world import World

MANY = 32
Say = Callable[[str], None]


@dataclass(frozen=True)
class Question:
    """What one cell asks, and whom.

    Attributes:
        candidates: Size of Rank; None for Retrieve.
        concurrency: Requests at the same time.
        who: Contenders that have turns, those that are left out of the place aside.
    """

    candidates: int | None
    concurrency: int
    who: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What to measure at one place.

    Attributes:
        store: Online store.
        items: Size of the catalogue.
        questions: The cells, in their order.
        held: Contenders of which only memory is wanted.
    """

    store: str
    items: int
    questions: tuple[Question, ...]
    held: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of Rank, each once."""
        return tuple(dict.fromkeys(q.candidates for q in self.questions if q.candidates is not None))

    def contenders(self, world: World) -> list[str]:
        """Who must be there: the whole graph only beside a split one, on the smallest catalogue."""
        left_out = set()
        if not workers_supported():
            left_out.add(OURS_TWO)
        if not world.is_split or self.items != min(world.size.catalogues):
            left_out.add(OURS_WHOLE)
        wanted = {name for q in self.questions for name in q.who} | set(self.held)
        return [name for name in (*RANKERS, ECHO) if name in wanted - left_out]

    def with_candidates(self, sizes: tuple[int, ...]) -> Plan:
        """The same with other sizes of Rank."""
        first = self.sizes[0]
        ranks = [replace(q, candidates=n) for n in sizes for q in self.questions if q.candidates == first]
        return replace(self, questions=(*ranks, *(q for q in self.questions if q.candidates is None)))


def quick_plans(catalogues: tuple[int, ...]) -> list[Plan]:
    """A few minutes: what the goals need, and nobody where it tells nothing."""
    small, *larger = catalogues
    retrieve = Question(None, 1, (OURS, ECHO))
    plans = [
        Plan(
            "redis",
            small,
            (
                Question(500, 1, (OURS, OURS_WHOLE, NAIVE, NAIVE_FROZEN, HANDWRITTEN, ECHO)),
                Question(500, MANY, (OURS, OURS_WHOLE, OURS_TWO, NAIVE, NAIVE_FROZEN, HANDWRITTEN, ECHO)),
                Question(100, MANY, (OURS, NAIVE, HANDWRITTEN)),
                retrieve,
            ),
        ),
        Plan("sqlite", small, (Question(500, MANY, (OURS, NAIVE, HANDWRITTEN)),)),
    ]
    return plans + [Plan("redis", n, (Question(500, 1, (OURS, ECHO)), retrieve), (OURS_TWO,)) for n in larger]


def thorough_plans(catalogues: tuple[int, ...]) -> list[Plan]:
    """What the goals need, with everybody in each cell."""
    small, *larger = catalogues
    plans = [_everybody("redis", small, (100, 500), (1, MANY)), _everybody("sqlite", small, (500,), (1, MANY), False)]
    return plans + [_everybody("redis", items, (500,), (1,)) for items in larger]


def full_plans(catalogues: tuple[int, ...]) -> list[Plan]:
    """All of it."""
    stores = ("redis", "sqlite")
    return [_everybody(s, n, (50, 100, 500, 1000), (1, MANY)) for n in catalogues for s in stores]


def _everybody(
    store: str, items: int, sizes: tuple[int, ...], concurrency: tuple[int, ...], retrieve: bool = True
) -> Plan:
    """Peers only rank; a second worker has nothing to do at concurrency 1."""
    calls: tuple[int | None, ...] = (*sizes, None) if retrieve else sizes
    questions = []
    for candidates in calls:
        for n in concurrency:
            alone = (OURS,) if n == 1 else (OURS, OURS_TWO)
            rankers = tuple(name for name in RANKERS if n > 1 or name != OURS_TWO)
            questions.append(Question(candidates, n, (*(alone if candidates is None else rankers), ECHO)))
    return Plan(store, items, tuple(questions), (OURS_TWO,))


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
        names = plan.contenders(world)
        say(f"{plan.store}, {plan.items:,} items: starting {', '.join(names)} ...")
        contenders = start(names, place, loader, stack)
        paths = [place.configuration, world.ranker, world.encoders, world.bundle(plan.items)]
        floors = Floors(world.logs, stack, [cores.server], place.environment, paths)
        ranks = {n: rank_traffic(world, n) for n in plan.sizes}
        retrieval = retrieve_traffic(world)
        difference = max(same_ranks(contenders, loader, traffic) for traffic in ranks.values())
        difference = max(difference, same_retrieval(contenders, loader, floors, retrieval.path))
        cells = []
        for question in plan.questions:
            traffic = retrieval if question.candidates is None else ranks[question.candidates]
            cell = Cell(plan.store, plan.items, traffic, question.concurrency)
            say(f"measuring {cell.title} ...")
            turns = {name: c for name, c in contenders.items() if name in question.who}
            cells.append(measure(cell, turns, loader, floors if question.concurrency == 1 else None, pace))
        for contender in contenders.values():  # all workers have answered before their memory is read
            loader.run(contender.address, max(ranks.values(), key=lambda t: t.candidates), MANY, WARM_UP)
        held = {name: [asdict(memory(pid)) for pid in c.pids()] for name, c in contenders.items()}
        where = {"store": plan.store, "items": plan.items}
        return {"cells": cells, "memory": {**where, "processes": held}, "difference": difference}
