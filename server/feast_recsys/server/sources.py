"""Sources of candidates, and how what they find becomes one list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.server.stage import Stage

# Rows of a listing that are looked at for each item wanted, at first.
_LOOKED_AT = 4


@dataclass(frozen=True)
class Nearest:
    """Items nearest to the user's query vector."""

    query: Stage
    index: Index


@dataclass(frozen=True)
class Alike:
    """Items like the `seeds` most recent ones of a history; `bias` of the last columns of their vectors are biases."""

    index: Index
    bias: int
    history: str
    seeds: int


@dataclass(frozen=True)
class Listing:
    """Items in an order that is the same for everybody.

    Attributes:
        rows: [m] int64, best first.
        scores: [m] float32, falling.
    """

    rows: Rows
    scores: Vectors

    def best(self, k: int, allow: Allowed | None, without: Rows) -> Found:
        """The k first that are allowed, less some rows."""
        if allow is None and not len(without):
            return Found(self.rows[:k], self.scores[:k])
        start, size, kept, wanted = 0, _LOOKED_AT * k + len(without), [np.empty(0, np.int64)], k
        while wanted > 0 and start < len(self.rows):
            rows = self.rows[start : start + size]
            passing = np.ones(len(rows), np.bool_) if allow is None else allow.mask[rows]
            if len(without):
                passing &= ~np.isin(rows, without)
            positions = start + np.flatnonzero(passing)[:wanted]
            kept.append(positions)
            wanted -= len(positions)
            start, size = start + size, 2 * size
        chosen = np.concatenate(kept)
        return Found(self.rows[chosen], self.scores[chosen])


Way: TypeAlias = "Nearest | Alike | Listing"


@dataclass(frozen=True, eq=False)
class Source:
    """A source of a recommender, ready to be asked.

    Attributes:
        name: As requests and answers have it.
        quota: Its part of the sum of all quotas; 0 only fills up.
        way: How it finds items.
        only: Items that may come from it; None for all.
    """

    name: str
    quota: int
    way: Way
    only: Allowed | None = None

    @property
    def personal(self) -> bool:
        """Whether what it finds depends on the user."""
        return not isinstance(self.way, Listing)


@dataclass(frozen=True)
class Found:
    """What a source has for a user, best first: [m] int64 rows without repetition, and [m] float32 scores."""

    rows: Rows
    scores: Vectors


NOTHING = Found(np.empty(0, np.int64), np.empty(0, np.float32))


@dataclass(frozen=True)
class Merged:
    """Candidates of all sources: [m] int64 rows without repetition, their sources' scores [m] float32, and which of the
    sources each came from, [m] int64."""

    rows: Rows
    scores: Vectors
    sources: Rows

    def __len__(self) -> int:
        return len(self.rows)


def shares(quotas: Sequence[int], k: int) -> list[int]:
    """How many of k items each source gets: in proportion to the quotas, by the largest remainders, the first of equal
    ones; all 0 if there are no quotas."""
    total = sum(quotas)
    if not total:
        return [0] * len(quotas)
    parts = [quota * k // total for quota in quotas]
    remainders = [quota * k % total for quota in quotas]
    for at in sorted(range(len(quotas)), key=lambda n: -remainders[n])[: k - sum(parts)]:
        parts[at] += 1
    return parts


def merge(found: Sequence[Found], parts: Sequence[int], fill: Sequence[int], k: int) -> Merged:
    """One list of what several sources found.

    Each source in turn gives its best items that no earlier one gave, as many as its part. Where one has fewer, the
    sources give further items in the order of `fill`. The parts come interleaved, so that the beginning of the list has
    all sources in proportion; what fills up comes last.

    Args:
        found: By source, k items each or all that it has.
        parts: By source, how many items are to come from it; k together, or 0.
        fill: Sources in the order in which they fill up.
        k: Number of items wanted.

    Returns:
        min(k, all different items) candidates.
    """
    taken = np.empty(0, np.int64)
    chosen, places = [], []  # positions within each source, and where these belong
    for source, part in zip(found, parts, strict=True):
        fresh = np.flatnonzero(~np.isin(source.rows, taken))[:part]
        chosen.append(fresh)
        places.append((np.arange(len(fresh)) + 0.5) / max(part, 1))
        taken = np.concatenate([taken, source.rows[fresh]])
    which = np.repeat(np.arange(len(found)), [len(positions) for positions in chosen])
    order = np.argsort(np.concatenate(places), kind="stable")
    picked = [(which[order], np.concatenate(chosen)[order])]
    for at in fill:
        if len(taken) >= k:
            break
        fresh = np.flatnonzero(~np.isin(found[at].rows, taken))[: k - len(taken)]
        picked.append((np.full(len(fresh), at), fresh))
        taken = np.concatenate([taken, found[at].rows[fresh]])
    return _gathered(found, np.concatenate([s for s, _ in picked]), np.concatenate([p for _, p in picked]))


def _gathered(found: Sequence[Found], sources: Rows, positions: Rows) -> Merged:
    """The candidates at some positions of their sources."""
    starts = np.cumsum([0, *(len(source.rows) for source in found[:-1])])
    at = starts[sources] + positions
    rows = np.concatenate([source.rows for source in found])[at]
    return Merged(rows, np.concatenate([source.scores for source in found])[at], sources)
