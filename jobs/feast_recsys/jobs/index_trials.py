"""Indexes built and measured one after the other, and which of them is taken."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from feast_recsys.bundle.index.entry import EXACT, Measurement
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, open_index
from feast_recsys.bundle.index.protocol import Index, Vectors
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.jobs.index_timing import microseconds
from feast_recsys.jobs.recall import Truth, exact_answers, interval, recalls, search_all

CLEARLY = 1.25
"""What was chosen before stays, and exact search is preferred, unless another one is so many times faster. One and the
same search differed by up to 1.2 between runs on a machine that others use as well."""

ALIKE = 1.05
"""Of indexes no further apart than this the smallest is taken."""

# A build is tried on a part of the items first, so that one that would take too long is never begun.
_TRIAL_SHARE, _TRIAL_FROM = 32, 500_000

_BISECTIONS, _DOUBLINGS = 2, 4

# Recall that twice the effort must have gained for it to be doubled once more.
_GAIN = 0.001

# Vectors that exact search is timed with.
_TIMED = 64


@dataclass
class Trials:
    """Builds and measures indexes over the same vectors, on the same queries.

    Attributes:
        vectors: [n, d] of all items.
        queries: [q, d] of real users.
        k: Number of items wanted.
        scratch: Folder for the builds; the caller's to remove.
        budget: Seconds that all builds and measurements may take; it is kept by not beginning a build.
        points: What was measured, in the order of time; exact search comes first.
        skipped: Kinds that were not built, for lack of time.
        folders: Where each build lies, by kind and what shapes its files.
    """

    vectors: Vectors
    queries: Vectors
    k: int
    scratch: Path
    budget: float
    points: list[Measurement]
    skipped: list[str] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._begun = time.monotonic()

    @cached_property
    def truth(self) -> Truth:
        """Exact answers to the queries."""
        return exact_answers(self.vectors, self.queries, self.k)

    def run(
        self, specs: Sequence[IndexSpec], recall: float, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Measures candidates: of each build its searches from the quickest on, until one reaches the recall.

        Where none of those does, further ones with twice the effort follow, as long as that gains something and takes
        less than half the time of exact search. A search that takes longer is no end either: where the lists that it
        looks at hold too few items, an index falls back on exact search, and looking at more is quicker.

        Args:
            specs: Candidates; those of one build together, ascending by what their search costs.
            recall: What is to be reached.
            progress: Called with the number of candidates done and their total.
        """
        done = 0
        for group in _by_build(specs):
            if self._fits(group[0]):
                seconds = self.build(group[0])
                self._climb(group, recall, seconds)
            else:
                self.skipped.append(group[0].kind)
            done += len(group)
            if progress is not None:
                progress(done, len(specs))

    def build(self, spec: IndexSpec) -> float:
        """Builds an index; returns the seconds that took."""
        folder = self.scratch / f"{len(self.folders)}-{spec.kind}"
        start = time.monotonic()
        build_index(spec, self.vectors, folder)
        self.folders[_build_of(spec)] = folder
        return time.monotonic() - start

    def measure(self, spec: IndexSpec, build_seconds: float) -> Measurement:
        """Measures a search of an index that was built."""
        index = open_index(spec, self.folder(spec), self.vectors)
        self.points.append(measure(spec, index, self.truth, self.k, build_seconds, self.folder(spec)))
        return self.points[-1]

    def folder(self, spec: IndexSpec) -> Path:
        """Where the build of a spec lies."""
        return self.folders[_build_of(spec)]

    def _climb(self, group: Sequence[IndexSpec], recall: float, seconds: float) -> None:
        """Searches of one build: up to the first that reaches the recall, and closer to it from below."""
        worth = self.points[0].microseconds / 2  # exact search is not far from there, or what an index fell back on
        waiting = list(group)
        failed: list[Measurement] = []
        while waiting:
            spec = waiting.pop(0)
            point = self.measure(spec, seconds)
            if point.reaches(recall) and point.microseconds < worth:
                self._descend(failed[-1].spec if failed else spec, spec, recall, seconds)
                return
            failed.append(point)
            more = not waiting and len(failed) - len(group) < _DOUBLINGS and point.microseconds < worth
            if more and len(failed) > 1 and failed[-1].recall > failed[-2].recall + _GAIN:
                waiting += filter(None, [beyond(failed[-2].spec, failed[-1].spec)])

    def _descend(self, below: IndexSpec, above: IndexSpec, recall: float, seconds: float) -> None:
        for _ in range(_BISECTIONS):
            middle = between(below, above)
            if middle is None:
                return
            if self.measure(middle, seconds).reaches(recall):
                above = middle
            else:
                below = middle

    def _fits(self, spec: IndexSpec) -> bool:
        """Whether a build is likely to end within the budget."""
        left = self.budget - (time.monotonic() - self._begun)
        if len(self.vectors) < _TRIAL_FROM or left <= 0:
            return left > 0
        folder = self.scratch / "trial"
        start = time.monotonic()
        build_index(spec, np.ascontiguousarray(self.vectors[::_TRIAL_SHARE]), folder)
        taken = time.monotonic() - start
        shutil.rmtree(folder)
        return taken * _TRIAL_SHARE <= left


def measure(
    spec: IndexSpec, index: Index, truth: Truth, k: int, build_seconds: float, folder: Path | None
) -> Measurement:
    """Recall and time of an index.

    Args:
        spec: What it is.
        index: Opened.
        truth: Exact answers to the queries, at least one.
        k: Number of items wanted.
        build_seconds: What building it took.
        folder: Its files; None if it has none here.
    """
    shares = recalls(truth, *search_all(index, truth.queries, k))
    mean, low, high = (round(share, 5) for share in interval(shares, truth.k))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder is not None else 0
    taken = microseconds(index, truth.queries, k)
    return Measurement(spec, mean, low, high, taken, round(build_seconds, 2), size)


def time_exact(vectors: Vectors, k: int) -> Measurement:
    """Exact search: only its time is to be measured, and that depends on no query."""
    taken = microseconds(ExactIndex(vectors), np.asarray(vectors[:_TIMED]), k)
    return Measurement(IndexSpec(EXACT, {}, {}), 1.0, 1.0, 1.0, taken)


def choose(points: Iterable[Measurement], recall: float, before: IndexSpec | None = None) -> Measurement:
    """The index to take of those that were measured.

    The fastest that reaches the recall with its interval; but the kind that was chosen before, or else exact search,
    where that is not clearly slower; and the smallest of those that are as good as equally fast.

    Args:
        points: What was measured; exact search among it.
        recall: What the lower end of the interval must reach.
        before: The last choice; None if there was none.
    """
    able = [point for point in points if point.reaches(recall)]
    fastest = min(point.microseconds for point in able)
    close = [point for point in able if point.microseconds <= CLEARLY * fastest]
    for kind in ([before.kind] if before is not None else []) + [EXACT]:
        if same := [point for point in close if point.spec.kind == kind]:
            return min(same, key=lambda point: point.microseconds)
    alike = [point for point in able if point.microseconds <= ALIKE * fastest]
    return min(alike, key=lambda point: (point.bytes, point.microseconds))


def between(low: IndexSpec, high: IndexSpec) -> IndexSpec | None:
    """A search half-way between two, where they differ in one whole number and there is one in between."""
    name = _only_change(low, high)
    if name is None or int(high.search[name]) - int(low.search[name]) < 2:
        return None
    return replace(high, search={**high.search, name: (int(low.search[name]) + int(high.search[name])) // 2})


def beyond(low: IndexSpec, high: IndexSpec) -> IndexSpec | None:
    """A search of twice the effort of the higher of two, where they differ in one whole number."""
    name = _only_change(low, high)
    return replace(high, search={**high.search, name: 2 * int(high.search[name])}) if name is not None else None


def _only_change(low: IndexSpec, high: IndexSpec) -> str | None:
    """The whole number in which two searches differ; None if they differ in anything else."""
    changed = [name for name in high.search if low.search.get(name) != high.search[name]]
    if len(changed) != 1 or set(low.search) != set(high.search):
        return None
    numbers = (low.search[changed[0]], high.search[changed[0]])
    return changed[0] if all(isinstance(number, int) for number in numbers) else None


def _build_of(spec: IndexSpec) -> str:
    """What tells one build from another; the same files serve any search."""
    return json.dumps([spec.kind, dict(spec.build)], sort_keys=True)


def _by_build(specs: Sequence[IndexSpec]) -> list[list[IndexSpec]]:
    groups: dict[str, list[IndexSpec]] = {}
    for spec in specs:
        groups.setdefault(_build_of(spec), []).append(spec)
    return list(groups.values())
