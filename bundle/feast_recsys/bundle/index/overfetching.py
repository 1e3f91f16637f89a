"""Filtered search with an index that knows no filter: more is asked for, and what must not come back is dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.marks import MARKS
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import in_order, rescored
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.switching import Switching

# What passes a filter lies this much deeper than on average where few of the near items pass.
_MARGIN = 1.5

# Where less than this share of the average passes among what was found, what is wanted is taken to be the last of it.
_RARE = 0.8

_ATTEMPTS = 4  # searches, each deeper than the one before, until exact search is left


@dataclass(frozen=True)
class OverfetchingIndex(ABC):
    """What such indexes have in common. Where few items may come back, exact search over them takes less time.

    What passes a filter that has nothing to do with the query lies anywhere among what is asked for: the effort that
    finds enough of all that (`Switching.efforts`) finds enough of it. Where fewer of the near items pass than of all,
    or a request leaves out what is found, the last ones are wanted (`Switching.tails`).

    Attributes:
        spec: How it is built and searched.
        vectors: [n, d] float32, mapped: what scores are computed with.
        switching: What was measured.
    """

    spec: IndexSpec
    vectors: Vectors
    switching: Switching

    @abstractmethod
    def nearest(self, query: npt.NDArray[np.float32], depth: int, effort: int) -> tuple[Rows, Vectors | None]:
        """At most `depth` different rows for one query [d], those that seem best.

        With their exact scores, descending, where the library has compared vectors; None where it has not.
        """

    @property
    @abstractmethod
    def effort(self) -> int:
        """That of a search without a filter."""

    @property
    @abstractmethod
    def most_effort(self) -> int:
        """No search takes more."""

    @abstractmethod
    def nanoseconds(self, depth: int, effort: int) -> float:
        """What a search takes, roughly: where nothing was measured."""

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search."""
        m = min(k, len(self)) if allow is None else allow.up_to(min(k, len(self)))
        if len(queries) == 1 and m:
            only = self._one(queries[0], m, allow)
            return only[0][None], only[1][None]
        found, scores = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        if m:
            for n, query in enumerate(queries):
                found[n], scores[n] = self._one(query, m, allow)
        return found, scores

    def _one(self, query: npt.NDArray[np.float32], m: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        depth, last = m if allow is None else self._depth(m, allow), False
        for _ in range(_ATTEMPTS):
            effort = self._affordable(depth, allow, last=last)
            if effort is None:
                break
            rows, scores = self.nearest(query, depth, effort)
            passing = rows
            if allow is not None:
                there = _may_come_back(rows, allow)
                passing, scores = rows[there], None if scores is None else scores[there]
            rare = allow is not None and len(passing) < _RARE * len(rows) * allow.most / len(self)
            if len(passing) >= m and (last or not rare):
                if scores is None:
                    return rescored(self.vectors, query, passing, m)
                return in_order(passing[:m], scores[:m])
            if len(passing) < m:
                depth = self._deeper(depth, m, len(passing), allow)
            last = last or rare
        found, exact = ExactIndex(self.vectors).search(query[None], m, allow)
        return found[0], exact[0]

    def _depth(self, m: int, allow: Allowed) -> int:
        """How many items to ask for, if what passes lies anywhere."""
        excluded = len(allow.excluded) if isinstance(allow, Without) else 0
        return ceil((_MARGIN if allow.filter else 1.0) * m * len(self) / allow.most + min(excluded, m))

    def _deeper(self, depth: int, m: int, passing: int, allow: Allowed | None) -> int:
        """How many to ask for next, after so many of those passed. What is excluded may be the very best items."""
        if isinstance(allow, Without) and allow.base is None:
            return max(2 * depth, m + len(allow.excluded))
        return max(2 * depth, ceil(_MARGIN * m * depth / max(passing, 1)))

    def _affordable(self, depth: int, allow: Allowed | None, *, last: bool) -> int | None:
        """The effort for a depth; None if exact search takes no more."""
        if allow is None and depth <= self.switching.depths[0]:
            return self._usual
        return self._cheaper(depth, len(self) if allow is None else allow.most, last=last)

    @cached_property
    def _usual(self) -> int | None:
        """The effort for as many as the index was chosen for."""
        return self._cheaper(min(self.switching.depths[0], len(self)), len(self), last=False)

    def _cheaper(self, depth: int, most: int, *, last: bool) -> int | None:
        plan, n = self.switching, len(self)
        exact = plan.exact_ns(most, n)
        usual = self.effort if depth <= plan.depths[0] else plan.effort(depth)
        effort = plan.tail(depth) if last else usual
        if effort is None or depth > n:
            return None
        taken = plan.taken_ns(depth, effort) if plan.searched_ns else self.nanoseconds(depth, effort)
        return effort if taken is not None and taken < exact else None


def _may_come_back(rows: Rows, allow: Allowed) -> npt.NDArray[np.bool_]:
    """Which of some rows are allowed; without a mask of all rows for what one request leaves out."""
    if not isinstance(allow, Without):
        return allow.mask.take(rows)
    left = MARKS.left(rows, allow.excluded, len(allow))
    return left if allow.base is None else left & allow.base.mask.take(rows)
