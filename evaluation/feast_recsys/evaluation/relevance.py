"""What users liked, where lists have it, and the ranking metrics that follow from both.

For one user, T is the set of relevant items and h_r is 1 if the item at rank r (from 1) is in T, else 0. A metric
gives one value a user, NaN where T is empty; means and intervals leave NaN out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import InvalidArgument

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Relevant:
    """The relevant items of each user.

    Attributes:
        offsets: [U + 1] int64, where each user's items begin and end.
        items: [offsets[-1]] int64 item rows, at least 0, no item twice for one user.
    """

    offsets: Rows
    items: Rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def counts(self) -> Rows:
        """[U] int64: |T| of each user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> Rows:
        """[offsets[-1]] int64: the user of each item."""
        return np.repeat(np.arange(len(self)), self.counts)

    @classmethod
    def from_lists(cls, lists: Sequence[Sequence[int] | Rows]) -> Relevant:
        """One list of item rows a user; an item that occurs twice counts once."""
        rows = [np.unique(np.asarray(items, np.int64)) for items in lists]
        offsets = np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)
        return cls(offsets, np.concatenate([np.empty(0, np.int64), *rows]))

    def only(self, kept: Mask) -> Relevant:
        """The same users with some of the items.

        Args:
            kept: [offsets[-1]] bool, for each entry of `items`.
        """
        counts = np.bincount(self.users[kept], minlength=len(self))
        return Relevant(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.items[kept])


@dataclass(frozen=True)
class Hits:
    """Where the lists of users hold relevant items. Every k below must lie in 1..K.

    Attributes:
        found: [U, K] bool, h_r.
        counts: [U] int64, |T|.
    """

    found: Mask
    counts: Rows

    @classmethod
    def of(cls, ranked: Rows, relevant: Relevant, k: int) -> Hits:
        """Compares the first k items of the lists.

        Args:
            ranked: [U, K] int64 item rows, best first, no item twice; -1 where a list is shorter.
            relevant: The relevant items of the same users.
            k: How far to look, from 1 to K.

        Raises:
            InvalidArgument: k is out of range, or the users don't fit.
        """
        if ranked.ndim != 2 or len(ranked) != len(relevant):
            raise InvalidArgument(f"ranked is {ranked.shape}, relevant has {len(relevant)} users", field="ranked")
        if not 1 <= k <= ranked.shape[1]:
            raise InvalidArgument(f"k must lie in 1..{ranked.shape[1]}, the length of the lists, not {k}", field="k")
        cut = ranked[:, :k]
        width = 1 + max(int(cut.max(initial=-1)), int(relevant.items.max(initial=-1)))
        rows = np.arange(len(ranked), dtype=np.int64)
        found: Mask = np.isin(rows[:, None] * width + cut, relevant.users * width + relevant.items) & (cut >= 0)
        return cls(found, relevant.counts)

    def recall(self, k: int) -> Values:
        """Recall@k = sum of h_r over r <= k, divided by |T|."""
        return divide(self._first(k).sum(axis=1), self.counts)

    def recall_min(self, k: int) -> Values:
        """Recall@k over the reachable: sum of h_r over r <= k, divided by min(k, |T|) (Liang et al. 2018)."""
        return divide(self._first(k).sum(axis=1), np.minimum(self.counts, k))

    def ndcg(self, k: int) -> Values:
        """NDCG@k = (sum of h_r / log2(r + 1) over r <= k) / (sum of 1 / log2(r + 1) over r <= min(k, |T|))."""
        discounts = 1 / np.log2(np.arange(2, k + 2))
        ideal = np.concatenate([np.zeros(1), np.cumsum(discounts)])
        return divide(self._first(k) @ discounts, ideal[np.minimum(self.counts, k)])

    def hit_rate(self, k: int) -> Values:
        """HR@k = 1 if any h_r is 1 for r <= k, else 0."""
        return divide(self._first(k).max(axis=1), self.counts > 0)

    def average_precision(self, k: int) -> Values:
        """AP@k = (sum of h_r Precision@r over r <= k) / min(k, |T|), where Precision@r = (h_1 + ... + h_r) / r.

        Its mean is MAP@k.
        """
        hits = self._first(k)
        precisions = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
        return divide((hits * precisions).sum(axis=1), np.minimum(self.counts, k))

    def reciprocal_rank(self, k: int) -> Values:
        """RR@k = 1 / rank of the first hit among the first k, 0 without a hit. Its mean is MRR@k."""
        hits = self._first(k)
        first = np.where(hits.any(axis=1), 1 / (np.argmax(hits, axis=1) + 1), 0.0)
        return divide(first, self.counts > 0)

    def _first(self, k: int) -> Mask:
        if not 1 <= k <= self.found.shape[1]:
            raise InvalidArgument(f"k must lie in 1..{self.found.shape[1]}, not {k}", field="k")
        return self.found[:, :k]


def divide(numerators: Numbers, denominators: Numbers) -> Values:
    """Quotients as float64, NaN where the denominator is 0."""
    result = np.full(len(denominators), np.nan)
    np.divide(numerators, denominators, out=result, where=denominators > 0)
    return result
