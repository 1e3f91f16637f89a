"""What the indexes of the published bundle are, how much they find, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator

from feast_recsys.bundle.errors import IndexUnavailable
from feast_recsys.bundle.index.by_metric import underlying
from feast_recsys.bundle.index.entry import EXACT, IndexEntry
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.waiting import WaitingIndex
from feast_recsys.bundle.store import Bundle
from feast_recsys.features.index_settings import EngineIndex, FixedIndex, MeasuredIndex
from feast_recsys.features.repo import Repo
from feast_recsys.features.settings import SECTION
from feast_recsys.jobs.choose_index import exact_entry, fast_enough, needs_nothing, shortfall
from feast_recsys.jobs.findings import Finding, ok
from feast_recsys.jobs.queries import FEWEST

MEASURE_AGAIN = "run `feast-recsys materialize --full`"


def check_index(repo: Repo, bundle: Bundle, name: str) -> Iterator[Finding]:
    """The index of one recommender that bundle and settings both have."""
    subject = f"{SECTION}.recommenders.{name}.retrieval.index"
    settings, n = repo.settings.recommenders[name].retrieval.index, len(bundle.snapshot)
    entry = bundle.manifest.recommenders[name].index
    if entry is None:
        entry = exact_entry(settings, n, "the bundle is from before there was a choice")
        yield ok(subject, _facts(entry))
        if not needs_nothing(settings, n):
            yield Finding("warning", subject, "nothing was measured yet", MEASURE_AGAIN)
        return
    yield ok(subject, _facts(entry))
    if text := shortfall(entry):
        remedy = "raise what its search looks at, or let it be chosen: `index: {recall: ...}`"
        if entry.queries < FEWEST:
            remedy = f"name `{SECTION}.interactions`, or give a view of the query encoder's features a batch source"
        yield Finding("warning", subject, text, remedy)
    if text := _other_wish(settings, entry, n):
        yield Finding("warning", subject, text, MEASURE_AGAIN)
    index = underlying(bundle.recommenders[name].index)
    if isinstance(index, WaitingIndex):
        try:
            index.opened()
        except IndexUnavailable as error:
            yield Finding("error", subject, error.message, "start that server, or correct `address` and materialize")


def _facts(entry: IndexEntry) -> str:
    """Kind, recall and costs, in a line."""
    point, spec = entry.measured, _at(entry.spec, entry.remote.address if entry.remote is not None else None)
    if point is None:
        return f"{spec}: {entry.why}"
    exact = next((p.microseconds for p in entry.curve if p.spec.kind == EXACT), None)
    if entry.spec.kind == EXACT:
        return f"{spec}, {point.microseconds:,.0f} us a query: {entry.why}"
    beside = f", exact search {exact:,.0f} us" if exact is not None else ""
    return (
        f"{spec}: recall@{entry.k} {point.recall:.4f} ({point.low:.4f} to {point.high:.4f}) on queries of "
        f"{entry.asked}, {point.microseconds:,.0f} us a query{beside}, {point.bytes / 1e6:,.0f} MB, built in "
        f"{point.build_seconds:,.1f} s; {entry.why}"
    )


def _other_wish(settings: MeasuredIndex | FixedIndex, entry: IndexEntry, n: int) -> str:
    """What the settings want by now that the bundle does not have; empty if it has all."""
    if isinstance(settings, FixedIndex):
        wanted = _at(settings.spec(), settings.address if isinstance(settings, EngineIndex) else None)
        got = _at(entry.spec, entry.remote.address if entry.remote is not None else None)
        return f"the settings say {wanted}, the bundle has {got}" if wanted != got else ""
    if needs_nothing(settings, n) and entry.spec.kind == EXACT:
        return ""
    if (settings.recall, settings.k) != (entry.recall, entry.k):
        return (
            f"the settings want recall@{settings.k} of {settings.recall}; it was chosen for recall@{entry.k} of "
            f"{entry.recall}"
        )
    exact = next((point.microseconds for point in entry.curve if point.spec.kind == EXACT), 0.0)
    if entry.spec.kind != EXACT and fast_enough(settings, entry):
        return f"the settings take exact search up to {settings.exact_microseconds:g} us; it took {exact:,.0f}"
    if settings.kinds and entry.spec.kind not in (*settings.kinds, EXACT):
        return f"the settings allow {', '.join(settings.kinds)}, the bundle has {entry.spec.kind}"
    return ""


def _at(spec: IndexSpec, address: str | None) -> str:
    return f"{spec} at {address}" if address is not None else str(spec)
