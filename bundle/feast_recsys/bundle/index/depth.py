"""How deep among all items those lie that a search wants: by chance, and by a sample of all items."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Mask
from feast_recsys.bundle.index.protocol import Rows, Vectors

# One of so many items is sampled, but no fewer and no more than that.
_SAMPLES, _SAMPLED = 64, (4_096, 16_384)

_SAMPLED_ROWS = 256

_DEVIATIONS, _SURE = 3.0, 2.0  # standard deviations: of a place by chance, and of what a sample says


def places(m: int, passing: float, excluded: float) -> tuple[int, int]:
    """Down to which of all items the m best that may come back lie, if these lie anywhere.

    Args:
        m: Items wanted.
        passing: Share of the items that pass the filter.
        excluded: Share of the items that a request leaves out.

    Returns:
        The place of the last one: what it is at most in five of six cases, and nearly always.
    """
    left = max(passing * (1.0 - excluded), 1e-9)  # a request may leave out one item many times
    deviation = sqrt(m * (1.0 - left))
    return ceil((m + deviation) / left), ceil((m + _DEVIATIONS * deviation) / left)


def better_among(vectors: Vectors, rows: Rows, query: npt.NDArray[np.float32], score: np.float32) -> int:
    """About how many of some rows have a larger inner product with a query [d].

    Whoever leaves out items may leave out the very best, or any.
    """
    step = len(rows) // _SAMPLED_ROWS + 1
    return step * int(np.count_nonzero(vectors.take(rows[::step], axis=0) @ query > score))


@dataclass(frozen=True)
class Sample:
    """Some of the items, in one place.

    Attributes:
        vectors: [s, d] float32, of every so-manieth item.
        step: How manieth.
        n: Number of all items.
    """

    vectors: Vectors
    step: int
    n: int

    @classmethod
    def of(cls, vectors: Vectors) -> Sample:
        """Of [n, d] float32 vectors."""
        n = len(vectors)
        step = max(n // int(np.clip(n // _SAMPLES, *_SAMPLED)), 1)
        return cls(np.ascontiguousarray(vectors[::step]), step, n)

    def better(self, query: npt.NDArray[np.float32], score: np.float32) -> tuple[float, float]:
        """About how many of all items have a larger inner product with a query [d], and hardly fewer than how many."""
        better = int(np.count_nonzero(self.vectors @ query > score))
        return better / self._share, (better - _SURE * sqrt(better)) / self._share

    def depth_of(self, query: npt.NDArray[np.float32], m: int, passing: Mask) -> float | None:
        """About how deep the m best of those in a mask [n] lie, rather too deep; None if there are too few to tell."""
        scores = self.vectors @ query
        of_passing = scores[passing[:: self.step]]
        sampled = m * self._share
        place = ceil(sampled + _SURE * sqrt(sampled)) + 1
        if place > len(of_passing):
            return None
        last = np.partition(of_passing, len(of_passing) - place)[len(of_passing) - place]
        return int(np.count_nonzero(scores > last)) / self._share

    @property
    def _share(self) -> float:
        return len(self.vectors) / self.n
