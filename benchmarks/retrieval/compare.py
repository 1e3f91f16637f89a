"""Searches without a filter: ours, the library calls inside them, and the libraries each at its cheapest."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from benchmarks.retrieval.builds import Builds, Cost
from benchmarks.retrieval.choice import chosen, wish
from benchmarks.retrieval.libraries import OURS, PACKAGES, Opened, Setting, exact, installed, open_built, settings
from benchmarks.retrieval.rounds import Contender, Ratio, Rounds, run
from benchmarks.retrieval.tuning import Tuned, contender, tune
from benchmarks.retrieval.worlds import Truth, World, share_of, truth_of
from threadpoolctl import threadpool_limits

from feast_recsys.bundle.index.entry import EXACT, IndexEntry
from feast_recsys.bundle.index.library import one_thread
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.bundle.index.spec import KINDS, IndexSpec
from feast_recsys.jobs.recall import interval

CHOSEN, EXACT_SEARCH = "chosen", "exact search"


@dataclass(frozen=True)
class Plan:
    """What is measured, and how.

    Attributes:
        world: Items and queries.
        builds: Where builds come from.
        k: Number of items.
        recall: What is to be reached.
        kinds: Of ours and of the libraries that they call, or other libraries' names; empty for all.
        passes: Times that each query is asked.
        keep_choice: Whether an earlier choice is taken though the code has changed.
        links: Of graphs; empty for all that are tried.
    """

    world: World
    builds: Builds
    k: int = 100
    recall: float = 0.99
    kinds: tuple[str, ...] = ()
    passes: int = 3
    keep_choice: bool = False
    links: tuple[int, ...] = ()

    def wants(self, setting: Setting) -> bool:
        """Whether a build is to be measured."""
        named = not self.kinds or bool({setting.build.kind, setting.build.library} & set(self.kinds))
        return named and (not self.links or setting.build.parameters.get("links", self.links[0]) in self.links)


@dataclass(frozen=True)
class Row:
    """A contender, and whom its time is compared with.

    Attributes:
        name: Which of the rows it is.
        setting: What is searched, and how.
        cost: Of its build; None for exact search, which has none.
        bare: Name of the row with the library call that it is compared with.
    """

    name: str
    setting: Setting
    cost: Cost | None
    bare: str | None = None


def unfiltered(plan: Plan) -> dict[str, Any]:
    """Measures everything without a filter; what the file of results keeps of it."""
    world, say = plan.world, plan.builds.say
    with one_thread_each():
        entry = choice_of(plan)
        missing = [library for library in PACKAGES if not installed(library)]
        for library in missing:
            say(f"{library} is left out: {PACKAGES[library]} is not installed")
        tried = [
            setting
            for library in PACKAGES
            if library not in missing
            for setting in settings(library, *world.items.shape)
            if plan.wants(setting)
        ]
        tuned = tune(world, truth_of(world, world.tuning, plan.k), plan.builds, tried, plan.k, plan.recall)
        rows = [*_ours(plan, entry, tuned), *_libraries(tuned)]
        truth = truth_of(world, world.asked, plan.k)
        # One and the same search may stand in several rows; it is timed once.
        named = {str(row.setting): row for row in reversed(rows)}
        contenders = {row.name: _contender(plan, row.setting) for row in named.values()}
        measured = run(contenders, len(world.asked), passes=plan.passes)
    return {
        "recall": plan.recall,
        "k": plan.k,
        "items": len(world.items),
        "dimension": world.items.shape[1],
        "tuning": len(world.tuning),
        "asked": len(world.asked),
        "choice": {"spec": entry.spec.document(), "why": entry.why},
        "missing": missing,
        "rows": _documents(plan, rows, named, truth, measured),
    }


def choice_of(plan: Plan) -> IndexEntry:
    """What our measurement chooses."""
    kinds = [kind for kind in plan.kinds if kind in KINDS]
    settings_ = wish(plan.recall, plan.k, kinds)
    return chosen(plan.world, plan.builds.folder, settings_, keep=plan.keep_choice, say=plan.builds.say)


def one_thread_each() -> ExitStack:
    """Inside, NumPy and FAISS compute with one thread."""
    stack = ExitStack()
    stack.enter_context(threadpool_limits(1))
    if installed(OURS):
        one_thread()
    return stack


def recall_document(shares: Collection[float], k: int) -> dict[str, float]:
    """Mean of the queries' recalls and its interval, for the results."""
    mean, low, high = interval(np.array(list(shares), np.float64), k)
    return {"recall": round(mean, 5), "low": round(low, 5), "high": round(high, 5)}


def ratio_document(ratio: Ratio) -> list[float]:
    """Median and quartiles, for the results."""
    return [round(value, 3) for value in (ratio.median, ratio.low, ratio.high)]


def times_document(measured: Rounds, name: str) -> dict[str, float]:
    """Times of one contender, for the results; its rate is that of processor time, whoever else uses the core."""
    taken = measured.by_query(name)
    p50, p99 = np.percentile(taken, (50, 99))
    return {
        "queries": len(measured.found[name]),
        "p50": round(float(p50), 1),
        "p99": round(float(p99), 1),
        "per_second": round(1e6 / float(np.median(measured.processor[name])), 1),
    }


def _ours(plan: Plan, entry: IndexEntry, tuned: Iterable[Tuned]) -> Iterable[Row]:
    """What was chosen, and each kind at its cheapest; after each the library call that it is compared with."""
    kinds = {f"our {one.setting.build.kind}": one.setting for one in tuned if one.setting.build.library == OURS}
    for name, setting in {CHOSEN: Setting.of(entry.spec), **kinds}.items():
        if setting.build.kind == EXACT:
            yield Row(name, setting, None)
            continue
        bare = setting.bare()
        bare_name = f"{name}, bare call" if bare is not None and installed(bare.build.library) else None
        yield Row(name, setting, plan.builds.get(setting)[1], bare_name)
        if bare is not None and bare_name is not None:
            yield Row(bare_name, bare, plan.builds.get(bare)[1])


def _libraries(tuned: Iterable[Tuned]) -> Iterable[Row]:
    for one in tuned:
        if one.setting.build.library != OURS:
            name = one.setting.build.library
            name = f"{name} {one.setting.build.kind}" if name == "faiss" else name
            yield Row(name, one.setting, one.cost)
    yield Row(EXACT_SEARCH, Setting.of(IndexSpec(EXACT, {}, {})), None)


def opened_for(plan: Plan, setting: Setting) -> Opened:
    """Opens a build, or exact search."""
    if setting.build.kind == EXACT:
        return exact(plan.world.items)
    return open_built(setting, plan.world.items, plan.builds.get(setting)[0])


def _contender(plan: Plan, setting: Setting) -> Contender:
    opened, queries = opened_for(plan, setting), plan.world.asked

    def search(number: int) -> Rows:
        return opened.search(queries[number : number + 1], plan.k)

    return contender(opened, setting.effort, search)


def _documents(
    plan: Plan, rows: list[Row], named: dict[str, Row], truth: Truth, measured: Rounds
) -> list[dict[str, Any]]:
    """A document for each row; those with the same setting have the same figures."""
    timed = {row.name: named[str(row.setting)].name for row in rows}
    rivals = [row.name for row in rows if row.setting.build.library != OURS and ", " not in row.name]
    reaching = {}
    for name in set(timed.values()):
        found = measured.found[name]
        shares = [share_of(plan.world, truth, plan.world.asked, n, answer) for n, answer in found.items()]
        reaching[name] = recall_document(shares, plan.k)
    fastest = min(rivals, key=lambda name: float(np.median(measured.by_query(timed[name]))), default=None)
    documents = []
    for row in rows:
        name = timed[row.name]
        document: dict[str, Any] = {
            "name": row.name,
            "setting": row.setting.document(),
            "cost": asdict(row.cost) if row.cost is not None else None,
            **reaching[name],
            **times_document(measured, name),
        }
        if row.bare is not None:
            document["over_bare"] = ratio_document(measured.ratio(name, timed[row.bare]))
        if fastest is not None:
            document["over_fastest"] = ratio_document(measured.ratio(name, timed[fastest]))
        documents.append({**document, "fastest": row.name == fastest})
    return documents
