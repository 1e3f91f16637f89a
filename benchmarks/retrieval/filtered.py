"""Searches with a filter or exclusions: ours, exact search, and the filters that the libraries have themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from benchmarks.retrieval.compare import (
    CHOSEN,
    EXACT_SEARCH,
    Plan,
    one_thread_each,
    opened_for,
    ratio_document,
    recall_document,
    times_document,
)
from benchmarks.retrieval.filters import Case, cases
from benchmarks.retrieval.libraries import OURS, Opened, Ours, Setting, exact, installed, open_built
from benchmarks.retrieval.rounds import Contender, Rounds, quick, run
from benchmarks.retrieval.tuning import contender, least_effort, most_effort
from benchmarks.retrieval.worlds import World, share_of

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.entry import EXACT
from feast_recsys.bundle.index.kinds import measure_switching
from feast_recsys.bundle.index.protocol import Rows

UNFILTERED = "without a filter"
OVER_PASSING, IN_ONE_PLACE = "exact over what passes", "the same, in one place"

_FILTERING = ("faiss", "hnswlib")  # libraries whose Python packages have filters
_LONGEST = 0.2  # seconds of a block; slower contenders are asked fewer queries
_RAISED_ON = 100  # queries that a library's effort is raised with
_TIMED = 20


@dataclass(frozen=True)
class Known:
    """An opened index.

    Attributes:
        name: In the results.
        setting: What it is, with its effort.
        opened: To be searched.
    """

    name: str
    setting: Setting
    opened: Opened


def filtered(plan: Plan, before: Mapping[str, Any]) -> dict[str, Any]:
    """Measures every case; what the file of results keeps of it.

    Args:
        plan: What is measured.
        before: The results so far: they say which searches reach the recall without a filter.

    Raises:
        InvalidArgument: there are none for these items.
    """
    if "unfiltered" not in before:
        raise InvalidArgument("measure the part unfiltered first: it finds the parameters", field="parts")
    with one_thread_each():
        ours, libraries = _ours(plan, before["unfiltered"]["rows"]), _libraries(plan, before["unfiltered"]["rows"])
        found = []
        for case in cases(plan.world, plan.k, plan.builds.folder / "catalogue"):
            plan.builds.say(f"{case.title} ...")
            found.append(Measuring(plan, ours, libraries, case).measure())
    return {
        "recall": plan.recall,
        "k": plan.k,
        "items": len(plan.world.items),
        "asked": len(plan.world.asked),
        "settings": {known.name: str(known.setting) for known in [*ours, *libraries]},
        "cases": found,
    }


class Filtered:
    """Searches of one opened index in one case, by number of the query.

    A filter is made once, in the library's own form; exclusions are made with each search, as each request brings its
    own.

    Args:
        opened: The index.
        effort: Of its searches.
        case: What may come back.
        world: Items and queries.
        k: Number of items.
    """

    def __init__(self, opened: Opened, effort: int, case: Case, world: World, k: int) -> None:
        self._opened, self._effort, self._case = opened, effort, case
        self._queries, self._n, self._k = world.asked, len(world.items), min(k, case.passing)
        self._own: Any = None

    def prepare(self) -> None:
        """Sets the effort, and makes the filter if that has not been done."""
        self._opened.prepare(self._effort)
        if self._own is None and self._case.kept is not None:
            self._own = self._opened.own_filter(self._case.kept)

    def __call__(self, number: int) -> Rows:
        """Rows for a query."""
        query = self._queries[number : number + 1]
        if self._own is not None:
            return self._opened.filtered(query, self._k, self._own)
        allow = self._case.allow(number, self._n)
        if allow is None:
            return self._opened.search(query, self._k)
        return self._opened.filtered(query, self._k, self._opened.own_filter(allow))

    @property
    def contender(self) -> Contender:
        """To be timed."""
        return Contender(self, self.prepare)


@dataclass(frozen=True)
class Measuring:
    """One case over everything that is opened.

    Attributes:
        plan: What is measured.
        ours: Our indexes, the chosen one first.
        libraries: Indexes of libraries, with the effort that they need without a filter.
        case: What may come back.
    """

    plan: Plan
    ours: list[Known]
    libraries: list[Known]
    case: Case

    def measure(self) -> dict[str, Any]:
        """Figures of the case."""
        contenders = dict(self._contenders())
        measured = run(contenders, len(self.plan.world.asked), passes=self.plan.passes, longest=_LONGEST)
        return {
            "title": self.case.title,
            "passing": self.case.passing,
            "making": round(self.case.making, 1),
            "rows": [self._document(name, measured) for name in contenders],
        }

    def _contenders(self) -> Iterator[tuple[str, Contender]]:
        first, kept = self.ours[0], self.case.kept
        yield UNFILTERED, self._plain(first.opened, first.setting.effort)
        for known in self.ours:
            # A server takes a filter that lets everything pass for none.
            everything = kept is not None and kept.count == len(self.plan.world.items)
            effort = known.setting.effort
            yield known.name, self._plain(known.opened, effort) if everything else self._at(known, effort).contender
        yield EXACT_SEARCH, self._exact
        yield OVER_PASSING, self._over_passing.contender
        if kept is not None:
            yield IN_ONE_PLACE, self._plain(exact(self.plan.world.items.take(kept.rows, axis=0)), 1, kept.rows)
        for known in self.libraries:
            yield known.name, self._at(known, known.setting.effort).contender
            raised = self._raised(known)
            if raised is not None:
                yield f"{known.name}, effort {raised}", self._at(known, raised).contender

    def _raised(self, known: Known) -> int | None:
        """The effort with which a library reaches the recall, if it has to be more; None if it would take longer than
        exact search of everything."""
        slowest = quick(self._exact, range(_TIMED))

        def reaches(effort: int) -> bool:
            search = self._at(known, effort)
            search.prepare()
            numbers = range(min(_RAISED_ON, len(self.plan.world.asked)))
            return float(np.mean([self._share(number, search(number)) for number in numbers])) >= self.plan.recall

        def ends(effort: int) -> bool:
            return quick(self._at(known, effort).contender, range(_TIMED)) > slowest or reaches(effort)

        least, most = known.setting.effort, most_effort(known.setting, len(self.plan.world.items))
        raised = least_effort(ends, least, most)
        return raised if raised is not None and raised > least and reaches(raised) else None

    def _at(self, known: Known, effort: int) -> Filtered:
        return Filtered(known.opened, effort, self.case, self.plan.world, self.plan.k)

    def _plain(self, opened: Opened, effort: int, rows: Rows | None = None) -> Contender:
        """Search without a filter; with `rows`, of these."""
        queries, k = self.plan.world.asked, self.plan.k

        def search(number: int) -> Rows:
            found = opened.search(queries[number : number + 1], k)
            return found if rows is None else rows.take(found)

        return contender(opened, effort, search)

    @cached_property
    def _exact(self) -> Contender:
        return self._plain(exact(self.plan.world.items), 1)

    @property
    def _over_passing(self) -> Filtered:
        """Exact search that gathers what passes, or scores everything, whichever it takes for quicker."""
        kept = self.case.kept
        case = self.case if kept is None else Case(**{**vars(self.case), "kept": Allowed(kept.mask)})
        return Filtered(exact(self.plan.world.items), 1, case, self.plan.world, self.plan.k)

    def _share(self, number: int, rows: Rows) -> float:
        """Recall of one answer; what must not come back does not count."""
        rows = rows[rows >= 0]
        rows = rows[self._may_come(number, rows)]
        return share_of(self.plan.world, self.case.truth, self.plan.world.asked, number, rows)

    def _may_come(self, number: int, rows: Rows) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if self.case.excluded is not None:
            return np.isin(rows, self.case.excluded[number], invert=True)
        assert self.case.kept is not None
        return self.case.kept.mask.take(rows)

    def _document(self, name: str, measured: Rounds) -> dict[str, Any]:
        figures: dict[str, Any] = {"name": name, **times_document(measured, name)}
        if name != UNFILTERED:
            answers = measured.found[name]
            shares = [self._share(number, rows) for number, rows in answers.items()]
            figures |= recall_document(shares, self.plan.k)
            figures["wrong"] = sum(
                int(np.count_nonzero(~self._may_come(number, rows[rows >= 0]))) for number, rows in answers.items()
            )
            figures["fewest"] = min(int(np.count_nonzero(rows >= 0)) for rows in answers.values())
        for key, to in {
            "over_unfiltered": UNFILTERED,
            "over_exact": EXACT_SEARCH,
            "over_passing": OVER_PASSING,
        }.items():
            figures[key] = ratio_document(measured.ratio(name, to))
        if self.case.kept is not None:
            figures["over_one_place"] = ratio_document(measured.ratio(name, IN_ONE_PLACE))
        return figures


def _ours(plan: Plan, rows: list[dict[str, Any]]) -> list[Known]:
    """The index that was chosen; if that is exact search, the quickest of the others as well."""
    setting = next(Setting.from_document(row["setting"]) for row in rows if row["name"] == CHOSEN)
    found = [_with_plan(plan, "ours", setting)]
    if setting.build.kind == EXACT:
        other = _quickest(rows, lambda one: one.build.library == OURS and one.build.kind != EXACT)
        if other is not None:
            found.append(_with_plan(plan, f"our {other.build.kind}", other))
    return found


def _with_plan(plan: Plan, name: str, setting: Setting) -> Known:
    """One of ours, with what its filtered searches are planned by, measured as the job does it."""
    opened = opened_for(plan, setting)
    assert isinstance(opened, Ours)
    opened.prepare(setting.effort)
    switching = measure_switching(opened.index, plan.world.tuning, plan.k, plan.recall)
    if switching is not None:
        opened = open_built(setting, plan.world.items, plan.builds.get(setting)[0], switching)
    return Known(name, setting, opened)


def _libraries(plan: Plan, rows: list[dict[str, Any]]) -> list[Known]:
    """The quickest inverted lists and the quickest graph of each library that has filters."""
    found = []
    for library in filter(installed, _FILTERING):
        for graph in (False, True):
            setting = _quickest(rows, partial(_of, library, graph))
            if setting is not None and plan.wants(setting):
                name = f"{library} {setting.build.kind}" if library == "faiss" else library
                found.append(Known(name, setting, opened_for(plan, setting)))
    return found


def _of(library: str, graph: bool, setting: Setting) -> bool:
    return setting.build.library == library and (setting.build.kind == "hnsw") == graph


def _quickest(rows: list[dict[str, Any]], belongs: Callable[[Setting], bool]) -> Setting | None:
    """Of the rows at their cheapest, not those of bare calls, the quickest that reaches the recall."""
    able = [row for row in rows if ", " not in row["name"] and belongs(Setting.from_document(row["setting"]))]
    best = min(able, key=lambda row: float(row["p50"]), default=None)
    return Setting.from_document(best["setting"]) if best is not None else None
