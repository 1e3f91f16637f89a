"""Filtered search with an index that knows no filter: more is asked for, and what must not come back is dropped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.exact import GATHER_SHARE, ExactIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import rescored
from feast_recsys.bundle.index.spec import IndexSpec

_GATHERED = 20.0
"""Nanoseconds of an item that exact search gathers and scores. Measured on 1,000,000 vectors of 64 numbers, one thread;
only its ratio to what an index says of itself matters."""


@dataclass(frozen=True)
class OverfetchingIndex(ABC):
    """What such indexes have in common. Where few items may come back, exact search over them takes less time.

    Attributes:
        spec: How it is built and searched.
        vectors: [n, d] float32, mapped: what scores are computed with.
    """

    spec: IndexSpec
    vectors: Vectors

    @abstractmethod
    def nearest(self, query: npt.NDArray[np.float32], depth: int) -> Rows:
        """At most `depth` different rows for one query [d], those that seem best."""

    @abstractmethod
    def nanoseconds(self, depth: int) -> float:
        """What it takes to find so many, roughly."""

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
        found, scores = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        if m:
            for n, query in enumerate(queries):
                found[n], scores[n] = self._one(query, m, allow)
        return found, scores

    def _one(self, query: npt.NDArray[np.float32], m: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        for depth in self._depths(m, allow):
            rows = self.nearest(query, depth)
            if allow is not None:
                rows = rows[allow.mask.take(rows)]
            if len(rows) >= m:
                return rescored(self.vectors, query, rows, m)
        found, scores = ExactIndex(self.vectors).search(query[None], m, allow)
        return found[0], scores[0]

    def _depths(self, m: int, allow: Allowed | None) -> list[int]:
        """How many items to ask for, and how many if that was too few, as long as exact search takes no less time."""
        n = len(self)
        if allow is None:
            return [m] if self.nanoseconds(m) < _GATHERED * GATHER_SHARE * n else []
        excluded = len(allow.excluded) if isinstance(allow, Without) else 0
        deep = 1.5 * m * n / allow.most
        # What a request excludes may be the very best items, or lie anywhere.
        depths = [round(deep + min(excluded, m)), round(deep + excluded)]
        exact = _GATHERED * min(allow.most, GATHER_SHARE * n)
        return [depth for depth in depths if depth <= n and self.nanoseconds(depth) < exact]
