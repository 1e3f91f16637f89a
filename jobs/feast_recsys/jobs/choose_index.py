"""Which index a recommender gets: the fastest that reaches the wanted recall on queries of its own users."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.bundle.index.by_metric import Searched
from feast_recsys.bundle.index.entry import EXACT, IndexEntry
from feast_recsys.bundle.index.kinds import candidates, measure_switching, open_index
from feast_recsys.bundle.index.protocol import Vectors
from feast_recsys.bundle.index.spec import ENGINES, IndexSpec
from feast_recsys.bundle.manifest import Manifest
from feast_recsys.bundle.signature import Stage
from feast_recsys.bundle.store import current
from feast_recsys.features.index_settings import FixedIndex, MeasuredIndex
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.index_trials import CLEARLY, Trials, choose, time_exact
from feast_recsys.jobs.queries import FEWEST, Queries, sample_queries
from feast_recsys.jobs.report import Journal, Mode
from feast_recsys.jobs.sources import entries_by_name, recommender_of

SMALL = 20_000
"""Items below which exact search is taken without a measurement: of 64 numbers each they take a query 0.1 to 0.5 ms."""

INDEXES = "index"
"""Folder of a bundle with a folder for each recommender that has an index."""

# A choice holds as long as the catalogue has not grown or shrunk by more than this.
_GROWTH = 2.0

_SCRATCH = ".trials"

Progress = Callable[[int, int], None] | None


def choose_indexes(
    repo: Repo,
    models: Mapping[tuple[str, Stage], ExportedModel],
    searched: Mapping[str, Searched],
    staged: Path,
    journal: Journal,
    *,
    mode: Mode,
    as_of: datetime,
    carried: Mapping[str, IndexEntry] | None = None,
) -> dict[str, IndexEntry]:
    """Chooses and builds the index of each recommender; a step of the journal for each that something is built for.

    Args:
        repo: The repository.
        models: Exported models by recommender and stage; those of sources of candidates by their joint names.
        searched: Item vectors by recommender or joint name. A source's model gets what its recommender's wish is.
        staged: The bundle that is being written; files go below its `index` folder.
        journal: Where steps and notes go.
        mode: `incremental` keeps the last bundle's choice as long as it still reaches the recall; `full` measures
            everything again.
        as_of: Users known up to this moment are asked.
        carried: Indexes that are there already; nothing is chosen for these.

    Returns:
        What the manifest says of the indexes, by the names of `searched`.

    Raises:
        InvalidSettings: a library is missing; names the extra to install.
    """
    before = _last_choices(repo)
    entries = dict(carried or {})
    for name, made_of in searched.items():
        if name in entries:
            continue
        matrix = made_of.vectors
        settings = repo.settings.recommenders[recommender_of(name)].retrieval.index
        if needs_nothing(settings, len(matrix)):
            entries[name] = exact_entry(settings, len(matrix), f"fewer than {SMALL:,} items")
            continue
        with journal.step(f"choose index of {name}") as outcome:
            place = staged / INDEXES / name
            made = Choosing(settings, matrix, place, f"{INDEXES}/{name}", journal.progress, made_of.spare)
            ask = partial(queries_of, repo, models[name, Stage.RETRIEVAL], made_of, settings.sample, as_of)
            entry = entries[name] = made.choose(ask, before.get(name), again=mode == "full")
            outcome.text = describe(entry)
            outcome.counts |= {"measured": len(entry.curve), "queries": entry.queries}
        if warning := shortfall(entry):
            journal.notes.append(f"index of {name}: {warning}")
    return entries


def queries_of(repo: Repo, model: ExportedModel, searched: Searched, count: int, as_of: datetime) -> Queries:
    """A sample of real queries as an index takes them; see `sample_queries`."""
    queries = sample_queries(repo, model, count, as_of)
    return replace(queries, vectors=searched.queries(queries.vectors))


def needs_nothing(settings: MeasuredIndex | FixedIndex, n: int) -> bool:
    """Whether a catalogue of n items is searched exactly without a question."""
    return settings.kind == EXACT if isinstance(settings, FixedIndex) else n < SMALL


def exact_entry(settings: MeasuredIndex | FixedIndex, n: int, why: str) -> IndexEntry:
    """What a manifest says of exact search."""
    reason = "fixed by the settings" if isinstance(settings, FixedIndex) else why
    return IndexEntry(IndexSpec(EXACT, {}, {}), None, reason, settings.recall, settings.k, n)


def describe(entry: IndexEntry) -> str:
    """An index and how good it is, in a line."""
    if entry.measured is None:
        return f"{entry.spec} ({entry.why})"
    point = entry.measured
    share = f", recall@{entry.k} {point.recall:.4f} ({point.low:.4f} to {point.high:.4f})"
    return f"{entry.spec}{share if entry.spec.kind != EXACT else ''}, {point.microseconds:,.0f} us ({entry.why})"


def shortfall(entry: IndexEntry) -> str:
    """Why an index may be less than what was asked for; empty if it is not."""
    if entry.asked and entry.queries < FEWEST:
        how = f"its recall rests on {entry.queries} queries" if entry.queries else "nothing was measured"
        return f"{entry.spec}: {how}: {entry.asked}"
    point = entry.measured
    if point is not None and not point.reaches(entry.recall):
        return (
            f"{entry.spec} is fixed by the settings, but finds {point.recall:.4f} ({point.low:.4f} to "
            f"{point.high:.4f}) of what exact search does, not {entry.recall}"
        )
    return ""


@dataclass(frozen=True)
class Choosing:
    """One choice.

    Attributes:
        settings: What is wanted.
        vectors: [n, d] item vectors.
        folder: Where the files of the index go; made if there are any.
        place: The same folder as the manifest names it.
        progress: Called with the number of candidates measured and their total.
        spare: Items that the index is asked for beside the settings' k.
    """

    settings: MeasuredIndex | FixedIndex
    vectors: Vectors
    folder: Path
    place: str
    progress: Progress = None
    spare: int = 0

    def choose(
        self, ask: Callable[[], Queries], before: IndexEntry | None = None, *, again: bool = False
    ) -> IndexEntry:
        """Chooses, and leaves the files of what was chosen in `folder`.

        Args:
            ask: Gives queries of real users; called only where something is to be measured with them.
            before: The last choice for the same recommender.
            again: Whether to measure everything even if the last choice still holds.
        """
        settings, n = self.settings, len(self.vectors)
        exact = time_exact(self.vectors, settings.k)
        if isinstance(settings, MeasuredIndex) and exact.microseconds <= _enough(settings, before):
            return replace(exact_entry(settings, n, "fast enough"), measured=exact, curve=(exact,))
        queries = ask()
        if not queries.enough and isinstance(settings, MeasuredIndex):
            return replace(exact_entry(settings, n, "no queries to measure with"), asked=queries.asked)
        scratch = self.folder.with_name(self.folder.name + _SCRATCH)
        scratch.mkdir(parents=True)
        try:
            if isinstance(settings, FixedIndex):
                trials = Trials(self.vectors, queries.vectors, settings.k, scratch, math.inf, [exact])
                return self._fixed(settings, trials, queries)
            trials = Trials(self.vectors, queries.vectors, settings.k, scratch, settings.budget_seconds, [exact])
            if before is not None and not again and _may_stay(before, settings, n):
                entry = self._kept(before, trials, queries)
                if entry is not None:
                    return entry
            return self._measured(settings, before, trials, queries)
        finally:
            shutil.rmtree(scratch)

    def _kept(self, before: IndexEntry, trials: Trials, queries: Queries) -> IndexEntry | None:
        """The last choice over these items; None if it does not reach the recall any more, or is of no use."""
        point = trials.measure(before.spec, trials.build(before.spec))
        if not point.reaches(self.settings.recall) or point.microseconds >= trials.points[0].microseconds:
            return None
        newer = {str(now.spec): now for now in trials.points}
        curve = tuple(newer.get(str(then.spec), then) for then in before.curve)
        # Plans of filtered searches are of the catalogue that they were measured on.
        entry = replace(before, measured=point, curve=curve, why=_STAYS, segments=None, switching=None)
        return self._built(trials, entry, queries)

    def _measured(
        self, settings: MeasuredIndex, before: IndexEntry | None, trials: Trials, queries: Queries
    ) -> IndexEntry:
        """The best of all candidates."""
        n, dimension = self.vectors.shape
        specs = [s for s in candidates(n, dimension) if s.kind in settings.kinds or not settings.kinds]
        trials.run(specs, settings.recall, self.progress)
        point = choose(trials.points, settings.recall, before.spec if before is not None else None)
        why = f"of {len(trials.points)} measured"
        if trials.skipped:
            why += f"; no time for {', '.join(dict.fromkeys(trials.skipped))}"
        entry = replace(exact_entry(settings, n, why), spec=point.spec, measured=point, curve=tuple(trials.points))
        return self._built(trials, entry, queries)

    def _fixed(self, settings: FixedIndex, trials: Trials, queries: Queries) -> IndexEntry:
        """What the settings say, measured if anybody can be asked."""
        spec = settings.spec()
        entry = replace(exact_entry(settings, len(self.vectors), ""), spec=spec)
        seconds = trials.build(spec)
        if len(queries.vectors):
            entry = replace(entry, measured=trials.measure(spec, seconds), curve=tuple(trials.points))
        return self._built(trials, entry, queries)

    def _built(self, trials: Trials, entry: IndexEntry, queries: Queries) -> IndexEntry:
        """Moves the files of what was chosen to their place, and measures which way its filtered searches go."""
        entry = replace(entry, queries=len(queries.vectors), asked=queries.asked)
        if entry.spec.kind == EXACT:
            return entry
        trials.folder(entry.spec).rename(self.folder)
        switching = entry.switching
        if switching is None and entry.measured is not None:
            index = open_index(entry.spec, self.folder, self.vectors)
            switching = measure_switching(index, queries.vectors, self.settings.k + self.spare, self.settings.recall)
        return replace(entry, folder=self.place, switching=switching)


_STAYS = "as before: it still reaches the recall"


def fast_enough(settings: MeasuredIndex, entry: IndexEntry) -> bool:
    """Whether exact search would be taken by these settings, where it took as long as when an index was chosen."""
    exact = next((point.microseconds for point in entry.curve if point.spec.kind == EXACT), None)
    return exact is not None and exact <= _enough(settings, entry)


def _enough(settings: MeasuredIndex, before: IndexEntry | None) -> float:
    """Microseconds within which exact search is taken. It shall not come and go from run to run."""
    if before is None or before.measured is None:
        return settings.exact_microseconds
    return settings.exact_microseconds * (CLEARLY if before.spec.kind == EXACT else 1 / CLEARLY)


def _may_stay(before: IndexEntry, settings: MeasuredIndex, n: int) -> bool:
    """Whether a choice answers to the same wishes and much the same catalogue."""
    wishes = (settings.recall, settings.k) == (before.recall, before.k)
    kind = before.spec.kind not in (EXACT, *ENGINES) and (before.spec.kind in settings.kinds or not settings.kinds)
    return wishes and kind and before.measured is not None and 1 / _GROWTH <= n / max(before.items, 1) <= _GROWTH


def _last_choices(repo: Repo) -> dict[str, IndexEntry]:
    """The indexes of the current bundle. A bundle that can't be read has none: it is about to be replaced."""
    root = repo.resolve(repo.settings.bundles)
    name = current(root)
    try:
        entries = entries_by_name(Manifest.load(root / name)) if name is not None else {}
    except RecsysError:
        return {}
    return {key: entry.index for key, entry in entries.items() if entry.index is not None}
