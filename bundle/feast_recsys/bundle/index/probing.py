"""How many of the inverted lists a search looks at, filtered or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.switching import Switching

Counts = npt.NDArray[np.int64]

# What is wanted of the items that pass a filter lies this much deeper than on average where few of the near ones pass.
_MARGIN = 1.2

_ADJUSTED = 2  # times that the lists are chosen for what passes among the ones before
_FIRST = 4  # times the lists of an unfiltered search, at most, are looked at first to see what passes there


class Looked(NamedTuple):
    """Lists to look at.

    Attributes:
        keys: [p] int64.
        nearness: [p] float32.
        depth: Number of items of all, passing or not, down to which the wanted ones are taken to lie.
        share: Of the items of these lists, how many pass the filter.
    """

    keys: Rows
    nearness: Vectors
    depth: float
    share: float


@dataclass(frozen=True)
class Probing:
    """The lists, and what to look at.

    Attributes:
        centroids: [lists, w] float32, as FAISS has them.
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

    def probes_for(self, k: int, beside_ns: float = 0.0) -> int | None:
        """Lists that a search without a filter looks at for k items; None where exact search is quicker."""
        if k <= self.switching.depths[0]:
            return self.probes
        return self._affordable(self.switching.effort(k), self.n, 1.0, beside_ns)

    def twice(self, probes: int, beside_ns: float = 0.0) -> int | None:
        """Twice as many lists, where those looked at hold too few items; None where exact search is quicker."""
        return self._affordable(2 * probes, self.n, 1.0, beside_ns) if probes < len(self.sizes) else None

    def exact_is_quicker(self, most: int) -> bool:
        """Whether exact search over so many items takes less than any search of lists."""
        return self.switching.fixed_ns >= self._exact_ns(most)

    def keeping_is_quicker(self, k: int, passing: int, beside_ns: float = 0.0) -> bool:
        """Whether exact search of so many vectors in one place takes less than lists would for k items among them."""
        plan, share = self.switching, passing / self.n
        effort = self._bounded(plan.effort(_MARGIN * k / share) or self.n)
        listed = plan.fixed_ns + effort * self.n / len(self.sizes) * (plan.scanned_ns + share * plan.compared_ns)
        return plan.kept_ns * passing < listed + beside_ns

    def choose(
        self, query: Vectors, wanted: int, most: int, passing: Counts | None, *, last: bool, beside_ns: float = 0.0
    ) -> Looked | None:
        """The lists to look at for the best of what is allowed.

        Args:
            query: [w] as FAISS is asked.
            wanted: Number of items down to which the passing ones should be found.
            most: No less than the number of items that are allowed.
            passing: [lists] how many items of each pass the filter; None if all do.
            last: Whether those that come back are the last ones of these, since the others are left out.
            beside_ns: Nanoseconds that the search takes beside looking at lists.

        Returns:
            None where exact search over what is allowed is quicker.
        """
        effort_for = self.switching.tail if last else self.switching.effort
        if passing is None:
            probes = self._affordable(effort_for(wanted), most, 1.0, beside_ns)
            return None if probes is None else self.nearest(query, probes, wanted)
        nearness = self.centroids @ query
        # The share that passes is that of the lists looked at, which depend on the share.
        likely = effort_for(_MARGIN * wanted * self.n / max(most, 1)) or self.n
        keys = _largest(nearness, min(self._bounded(likely), self._bounded(_FIRST * self.probes)))
        for _ in range(_ADJUSTED):
            share = self._share(keys, passing)
            effort = effort_for(_MARGIN * wanted / share) if share else None
            probes = self._affordable(effort, most, share, beside_ns)
            if probes is None:
                return None
            enough = probes <= len(keys)
            if probes != len(keys):
                keys = _largest(nearness, probes)
            if enough:
                break
        return Looked(keys, nearness.take(keys), _MARGIN * wanted / share, share)

    def deeper(self, query: Vectors, depth: float, most: int, beside_ns: float = 0.0) -> Looked | None:
        """The lists to look at where what is wanted are the last items down to a depth; None where exact search over
        what is allowed is quicker."""
        probes = self._affordable(self.switching.tail(depth), most, 1.0, beside_ns)
        return None if probes is None else self.nearest(query, probes, depth, most / self.n)

    def nearest(self, query: Vectors, probes: int, depth: float, share: float = 1.0) -> Looked:
        """The nearest lists to a query [w], for what lies down to a depth."""
        nearness = self.centroids @ query
        keys = _largest(nearness, probes)
        return Looked(keys, nearness.take(keys), depth, share)

    def order(self, query: Vectors) -> Rows:
        """All lists, the nearest first."""
        return np.argsort(-(self.centroids @ query), kind="stable")

    def _bounded(self, effort: int) -> int:
        """Lists to look at: no fewer than without a filter, and no more than there are."""
        return min(max(effort, self.probes), len(self.sizes))

    def _share(self, keys: Rows, passing: Counts) -> float:
        """Of the items of some lists, how many pass."""
        return float(np.add.reduce(passing.take(keys)) / max(np.add.reduce(self.sizes.take(keys)), 1))

    def _affordable(self, effort: int | None, most: int, share: float, beside_ns: float = 0.0) -> int | None:
        """Lists to look at; None if there is no telling, or exact search over so many items takes no more."""
        if effort is None:
            return None
        plan, probes = self.switching, self._bounded(effort)
        held = probes * self.n / len(self.sizes)
        taken = plan.fixed_ns + beside_ns + held * (plan.scanned_ns + share * plan.compared_ns)
        return probes if taken < self._exact_ns(most) else None

    def _exact_ns(self, most: int) -> float:
        return self.switching.exact_ns(most, self.n)


def _largest(nearness: Vectors, probes: int) -> Rows:
    """Where the largest are, in any order."""
    less = len(nearness) - probes
    return np.argpartition(nearness, less)[less:] if less > 0 else np.arange(len(nearness))
