"""The least effort that reaches a recall, by the same rule for all: the lower end of a 95 % interval over queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from benchmarks.retrieval.builds import Builds, Cost
from benchmarks.retrieval.libraries import Opened, Setting, open_built
from benchmarks.retrieval.rounds import Contender, quick
from benchmarks.retrieval.worlds import Truth, World, shares

from feast_recsys.bundle.index.ivf_files import lists_for
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.bundle.index.scann import leaves_for
from feast_recsys.jobs.recall import interval

_WIDEST = 6400  # breadth of a search of a graph
_FINE = 16  # efforts closer than a 16th are not told apart
_TIMED, _MEASURED = 200, 500


@dataclass(frozen=True)
class Tuned:
    """The cheapest search of a build that reaches the recall.

    Attributes:
        setting: With its effort.
        cost: Of the build.
        microseconds: Median time of a query.
    """

    setting: Setting
    cost: Cost
    microseconds: float


def least_effort(reaches: Callable[[int], bool], first: int, most: int) -> int | None:
    """The least effort that reaches what is wanted, to a 16th; None if not even the most does.

    Args:
        reaches: Whether an effort does; more is no worse.
        first: Effort to begin with, the least that is of use.
        most: The largest.
    """
    below, effort = first - 1, min(first, most)
    while not reaches(effort):
        if effort >= most:
            return None
        below, effort = effort, min(2 * effort, most)
    while effort - below > max(1, effort // _FINE):
        middle = (below + effort) // 2
        if reaches(middle):
            effort = middle
        else:
            below = middle
    return effort


def most_effort(setting: Setting, n: int) -> int:
    """The effort of a build that looks at everything, or for a graph as good as that."""
    kind, parameters = setting.build.kind, setting.build.parameters
    if kind == "hnsw":
        return min(_WIDEST, max(n, 100))
    if kind == "scann":
        return leaves_for(n, int(parameters["leaves"]))
    return lists_for(n, int(parameters["lists"]))


def tune(world: World, truth: Truth, builds: Builds, tried: Iterable[Setting], k: int, recall: float) -> list[Tuned]:
    """The cheapest search of each kind of each library that reaches a recall, the quickest of its builds.

    Args:
        world: Items, and the queries that parameters are chosen with.
        truth: Of these queries.
        builds: Where builds come from.
        tried: Builds and what of their searches is fixed.
        k: Number of items.
        recall: What the lower end of the interval must reach.
    """
    best: dict[tuple[str, str], Tuned] = {}
    for setting in tried:
        found = _cheapest(world, truth, builds, setting, k, recall)
        if found is None:
            builds.say(f"{setting.build}: {recall} is out of reach")
            continue
        builds.say(f"{found.setting}: {found.microseconds:.0f} us")
        key = setting.build.library, setting.build.kind
        if key not in best or found.microseconds < best[key].microseconds:
            best[key] = found
    return list(best.values())


def _cheapest(world: World, truth: Truth, builds: Builds, setting: Setting, k: int, recall: float) -> Tuned | None:
    folder, cost = builds.get(setting)
    opened = open_built(setting, world.items, folder)
    queries = world.tuning[:_MEASURED]

    def reaches(effort: int) -> bool:
        opened.prepare(effort)
        found = shares(world, truth, queries, lambda number: opened.search(queries[number : number + 1], k))
        return interval(found, k)[1] >= recall

    effort = least_effort(reaches, setting.effort, most_effort(setting, len(world.items)))
    if effort is None:
        return None
    searched = contender(opened, effort, lambda number: opened.search(queries[number : number + 1], k))
    return Tuned(replace(setting, effort=effort), cost, quick(searched, range(min(_TIMED, len(queries)))))


def contender(opened: Opened, effort: int, search: Callable[[int], Rows]) -> Contender:
    """An opened index at an effort."""
    return Contender(search, lambda: opened.prepare(effort))
