"""How what several sources of candidates find becomes one list: the same in serving and in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.index.protocol import Rows, Vectors


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


def plans(
    quotas: Sequence[int], personal: Sequence[bool], instead: int | None, k: int
) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """How many items each source is to give, and the order in which sources fill up: for users of whom something is
    known, and for the others.

    Sources that give a part fill up before those that do nothing else. For a user of whom nothing is known the fallback
    has the parts of the sources that look at the user, and these fill up last.

    Args:
        quotas: By source.
        personal: By source, whether it looks at the user.
        instead: Position of the fallback; None if there is none.
        k: Number of items wanted.
    """
    order = list(range(len(quotas)))
    parts = shares(quotas, k)
    known = parts, sorted(order, key=lambda at: not parts[at])
    if instead is None:
        return known, known
    moved = [0 if looks else quota for quota, looks in zip(quotas, personal, strict=True)]
    moved[instead] += sum(quotas) - sum(moved)
    parts = shares(moved, k)
    return known, (parts, sorted(order, key=lambda at: (at != instead, personal[at], not parts[at])))


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
