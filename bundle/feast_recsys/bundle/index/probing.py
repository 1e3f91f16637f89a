"""How many of the inverted lists a search looks at, filtered or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.exact import GATHER_SHARE
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.switching import Switching

Counts = npt.NDArray[np.int64]

# What is wanted of the items that pass a filter lies this much deeper than on average where few of the near ones pass.
_MARGIN = 1.2

_FIRST = 4  # times the lists of an unfiltered search, at most, are looked at first to see what passes there


class Looked(NamedTuple):
    """Lists to look at, the nearest first: keys [p] int64 and how near they are [p] float32."""

    keys: Rows
    nearness: Vectors


@dataclass(frozen=True)
class Probing:
    """The lists, and what to look at.

    Attributes:
        centroids: [lists, w] float32, as queries are compared with them.
        sizes: [lists] number of items.
        n: Number of all items.
        probes: Lists that an unfiltered search looks at.
        switching: What was measured.
    """

    centroids: Vectors
    sizes: Counts
    n: int
    probes: int
    switching: Switching

    def probes_for(self, k: int) -> int | None:
        """Lists that a search without a filter looks at for k items; None where exact search is quicker."""
        plan = self.switching
        if k <= plan.depths[0]:
            return self.probes
        effort = plan.effort(k)
        if effort is None or self._slow(effort, self.n):
            return None
        return max(effort, self.probes)

    def exact_is_quicker(self, most: int) -> bool:
        """Whether exact search over so many items takes less than any search of lists."""
        return self.switching.fixed_ns >= self._exact_ns(most)

    def nearness(self, query: Vectors) -> Vectors:
        """[lists] how near each list is to a query [w]."""
        return np.asarray(self.centroids @ query)

    def choose(self, nearness: Vectors, wanted: int, most: int, passing: Counts | None) -> Looked | None:
        """The lists to look at for the best of what is allowed.

        Args:
            nearness: [lists] of the query.
            wanted: Number of items down to which the passing ones should be found.
            most: No less than the number of items that are allowed.
            passing: [lists] how many items of each pass the filter; None if all do.

        Returns:
            None where exact search over what is allowed is quicker.
        """
        likely = self.switching.effort(wanted if passing is None else _MARGIN * wanted * self.n / max(most, 1))
        if passing is None:
            effort = likely
            keys = _largest(nearness, self._bounded(effort or 0))
        else:
            # The share that passes is that of the lists looked at, which depend on the share.
            keys = _largest(nearness, min(self._bounded(likely or self.n), self._bounded(_FIRST * self.probes)))
            effort = self._effort(keys, wanted, passing)
            if effort is not None and effort > len(keys):
                keys = _largest(nearness, self._bounded(effort))
                effort = self._effort(keys, wanted, passing)
                if effort is not None and effort > len(keys):
                    keys = _largest(nearness, self._bounded(effort))
        if effort is None:
            return None
        keys = keys[: self._bounded(effort)]
        return None if self._slow(len(keys), most) else Looked(keys, nearness.take(keys))

    def nearest(self, query: Vectors, probes: int) -> Looked:
        """The nearest lists to a query [w]."""
        nearness = self.nearness(query)
        keys = _largest(nearness, probes)
        return Looked(keys, nearness.take(keys))

    def _bounded(self, effort: int) -> int:
        """Lists to look at: no fewer than without a filter, and no more than there are."""
        return min(max(effort, self.probes), len(self.sizes))

    def _effort(self, keys: Rows, wanted: int, passing: Counts) -> int | None:
        """How many lists it takes if as much passes everywhere as in some; None if it is too much."""
        let = int(np.add.reduce(passing.take(keys)))
        held = int(np.add.reduce(self.sizes.take(keys)))
        return self.switching.effort(_MARGIN * wanted * held / let) if let else None

    def _slow(self, probes: int, most: int) -> bool:
        """Whether exact search over so many items takes no more than a search of so many lists."""
        held = probes * self.n / len(self.sizes)
        return self.switching.fixed_ns + self.switching.scanned_ns * held >= self._exact_ns(most)

    def _exact_ns(self, most: int) -> float:
        return self.switching.gathered_ns * min(most, GATHER_SHARE * self.n)


def _largest(numbers: Vectors, k: int) -> Rows:
    """Positions of the k largest, the largest first."""
    if k < len(numbers):
        some = np.argpartition(numbers, len(numbers) - k)[len(numbers) - k :]
        return np.asarray(some[np.argsort(-numbers.take(some))])
    return np.argsort(-numbers)
