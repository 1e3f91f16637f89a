"""How many of the inverted lists a search looks at, filtered or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.exact import GATHER_SHARE
from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.switching import Switching

Counts = npt.NDArray[np.int64]

# What is wanted of the items that pass a filter lies this much deeper than on average where few of the near ones pass.
_MARGIN = 1.5

_ADJUSTED = 2  # times that the lists are chosen for what passes among the ones before
_FIRST = 4  # times the lists of an unfiltered search, at most, are looked at first to see what passes there


class Looked(NamedTuple):
    """Lists to look at, the nearest first: keys [p] int64 and how near they are [p] float32."""

    keys: Rows
    nearness: Vectors


@dataclass(frozen=True)
class Probing:
    """The lists, and what to look at.

    Attributes:
        quantizer: FAISS's index of the centroids.
        sizes: [lists] number of items.
        n: Number of all items.
        probes: Lists that an unfiltered search looks at.
        switching: What was measured.
    """

    quantizer: Any
    sizes: Counts
    n: int
    probes: int
    switching: Switching

    def probes_for(self, k: int) -> int | None:
        """Lists that a search without a filter looks at for k items; None where exact search is quicker."""
        if k <= self.switching.depths[0]:
            return self.probes
        return self._affordable(self.switching.effort(k), self.n, 1.0)

    def exact_is_quicker(self, most: int) -> bool:
        """Whether exact search over so many items takes less than any search of lists."""
        return self.switching.fixed_ns >= self._exact_ns(most)

    def choose(self, query: Vectors, wanted: int, most: int, passing: Counts | None) -> Looked | None:
        """The lists to look at for the best of what is allowed.

        Args:
            query: [w] as FAISS is asked.
            wanted: Number of items down to which the passing ones should be found.
            most: No less than the number of items that are allowed.
            passing: [lists] how many items of each pass the filter; None if all do.

        Returns:
            None where exact search over what is allowed is quicker.
        """
        if passing is None:
            probes = self._affordable(self.switching.effort(wanted), most, 1.0)
            return None if probes is None else self.nearest(query, probes)
        # The share that passes is that of the lists looked at, which depend on the share.
        likely = self.switching.effort(_MARGIN * wanted * self.n / max(most, 1)) or self.n
        looked = self.nearest(query, min(self._bounded(likely), self._bounded(_FIRST * self.probes)))
        for _ in range(_ADJUSTED):
            share = self._share(looked.keys, passing)
            effort = self.switching.effort(_MARGIN * wanted / share) if share else None
            probes = self._affordable(effort, most, share)
            if probes is None:
                return None
            if probes <= len(looked.keys):
                return Looked(looked.keys[:probes], looked.nearness[:probes])
            looked = self.nearest(query, probes)
        return looked

    def nearest(self, query: Vectors, probes: int) -> Looked:
        """The nearest lists to a query [w]."""
        keys, nearness = np.empty(probes, np.int64), np.empty(probes, np.float32)
        pointer = faiss().swig_ptr
        self.quantizer.search_c(1, pointer(query), probes, pointer(nearness), pointer(keys))
        return Looked(keys, nearness)

    def _bounded(self, effort: int) -> int:
        """Lists to look at: no fewer than without a filter, and no more than there are."""
        return min(max(effort, self.probes), len(self.sizes))

    def _share(self, keys: Rows, passing: Counts) -> float:
        """Of the items of some lists, how many pass."""
        return float(np.add.reduce(passing.take(keys)) / max(np.add.reduce(self.sizes.take(keys)), 1))

    def _affordable(self, effort: int | None, most: int, share: float) -> int | None:
        """Lists to look at; None if there is no telling, or exact search over so many items takes no more."""
        if effort is None:
            return None
        plan, probes = self.switching, self._bounded(effort)
        held = probes * self.n / len(self.sizes)
        taken = plan.fixed_ns + held * (plan.scanned_ns + share * plan.compared_ns)
        return probes if taken < self._exact_ns(most) else None

    def _exact_ns(self, most: int) -> float:
        return self.switching.gathered_ns * min(most, GATHER_SHARE * self.n)
