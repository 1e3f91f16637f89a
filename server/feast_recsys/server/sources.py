"""Sources of candidates, ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import Metric
from feast_recsys.bundle.merging import Found
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
    """Items like the `seeds` most recent ones of a history.

    Attributes:
        index: The item vectors.
        bias: How many of their last columns are biases.
        metric: What they are compared by.
        history: The list feature.
        seeds: Number of items.
    """

    index: Index
    bias: int
    metric: Metric
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
