"""Which way a search goes that may not return everything: through the index with more effort, or over what may.

Among items of which a share s may come back, the k best lie as deep as the k / s best of all. How much effort it takes
to look so deep does not depend on a filter, so it is measured once, on real queries without any. Where a request leaves
out the e best, what is wanted are the k after them: these take more effort than all k + e on average, and have their
own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Any

from feast_recsys.bundle.index.exact import GATHER_SHARE

# How effort grows with depth where nothing was measured.
_GROWTH = 0.75
_TAIL = 2.0  # and how much more the last ones take

_COSTS = ("scanned_ns", "compared_ns", "gathered_ns", "scored_ns", "kept_ns", "fixed_ns", "asked_ns")

# What earlier manifests lack, as a multiple of gathered_ns.
_LATER = {"scored_ns": GATHER_SHARE, "asked_ns": 2.0}


@dataclass(frozen=True)
class Switching:
    """What was measured of an index.

    Attributes:
        depths: Numbers of items, ascending.
        efforts: Parallel to `depths`: probes or breadth of a search that finds so many with the wanted recall.
        tails: Parallel to `depths`: the effort that finds the last k of so many with the wanted recall.
        scanned_ns: Nanoseconds for an item that the index looks at, if only to find that it must not come back.
        compared_ns: Nanoseconds for an item that may come back, in addition.
        gathered_ns: Nanoseconds for an item that exact search gathers and scores.
        scored_ns: Nanoseconds for an item where exact search scores all of them.
        kept_ns: Nanoseconds for an item that exact search scores where all that pass lie in one place.
        fixed_ns: Nanoseconds of a filtered search of the index that looks at nothing.
        asked_ns: Nanoseconds for an item that is found by its code and compared exactly.
        searched_ns: Parallel to `depths`: nanoseconds of a search with the effort of `efforts`, of indexes that know no
            filter and are asked for so many; empty for others, of which the costs above tell it.
        codes: Parallel to `depths`: how many of the best codes the last k of so many are among, nearly all; empty where
            vectors are compared, not codes.
    """

    depths: tuple[int, ...]
    efforts: tuple[int, ...]
    tails: tuple[int, ...]
    scanned_ns: float = 1.0
    compared_ns: float = 5.0
    gathered_ns: float = 20.0
    scored_ns: float = 7.0
    kept_ns: float = 10.0
    fixed_ns: float = 50_000.0
    asked_ns: float = 300.0
    searched_ns: tuple[float, ...] = ()
    codes: tuple[int, ...] = ()

    def effort(self, depth: float) -> int | None:
        """The effort for a depth, in between those measured; None if it is deeper than any of them."""
        effort = self._between(self.efforts, depth)
        return None if effort is None else round(effort)

    def tail(self, depth: float) -> int | None:
        """The effort for the last k items down to a depth; None if it is deeper than any that were measured."""
        effort = self._between(self.tails, depth)
        return None if effort is None else round(effort)

    def taken_ns(self, depth: float, effort: int) -> float | None:
        """What a search takes, as much more as its effort is; None if it is deeper than any that were measured."""
        taken, usual = self._between(self.searched_ns, depth), self._between(self.efforts, depth)
        return None if taken is None or usual is None else taken * effort / usual

    def codes_for(self, depth: float) -> float | None:
        """The best codes that the last k items down to a depth are among; None where that was not measured."""
        return self._between(self.codes, depth) if self.codes else None

    def exact_ns(self, most: int, n: int) -> float:
        """What exact search takes for `most` of n items that may come back: it gathers few, and scores all for many."""
        return self.gathered_ns * most if most < GATHER_SHARE * n else self.scored_ns * n

    def _between(self, values: Sequence[float], depth: float) -> float | None:
        at = bisect_left(self.depths, depth)
        if at == len(self.depths):
            return None
        if at == 0 or depth == self.depths[at]:
            return values[at]
        low, high = self.depths[at - 1 : at + 1]
        less, more = values[at - 1 : at + 1]
        return less + (more - less) * (depth - low) / (high - low)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "depths": list(self.depths),
            "efforts": list(self.efforts),
            "tails": list(self.tails),
            "scanned_ns": round(self.scanned_ns, 3),
            "compared_ns": round(self.compared_ns, 3),
            "gathered_ns": round(self.gathered_ns, 3),
            "scored_ns": round(self.scored_ns, 3),
            "kept_ns": round(self.kept_ns, 3),
            "fixed_ns": round(self.fixed_ns),
            "asked_ns": round(self.asked_ns, 3),
            "searched_ns": [round(taken) for taken in self.searched_ns],
            "codes": list(self.codes),
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Switching:
        """The inverse of `document`; raises KeyError, TypeError or ValueError where it is none."""
        depths, efforts, tails = (tuple(map(int, document[name])) for name in ("depths", "efforts", "tails"))
        if not 0 < len(depths) == len(efforts) == len(tails) or list(depths) != sorted(set(depths)):
            raise ValueError("depths must ascend, and efforts and tails be parallel to them")
        searched = tuple(map(float, document.get("searched_ns", ())))
        codes = tuple(map(int, document.get("codes", ())))
        if not {len(searched), len(codes)} <= {0, len(depths)}:
            raise ValueError("searched_ns and codes must be parallel to depths, or empty")
        costs = {name: float(document[name]) for name in _COSTS if name not in _LATER}
        costs |= {name: float(document.get(name, times * costs["gathered_ns"])) for name, times in _LATER.items()}
        if min(*depths, *efforts, *tails, *codes) < 0 or not all(
            0.0 <= cost < inf for cost in (*costs.values(), *searched)
        ):
            raise ValueError("numbers of items and costs must be finite, and not less than 0")
        return cls(depths, efforts, tails, **costs, searched_ns=searched, codes=codes)


def unmeasured(k: int, effort: int, most: int) -> Switching:
    """What to go by where nothing was measured: effort grows a little slower than depth.

    Args:
        k: Number of items that `effort` finds.
        effort: Of an unfiltered search.
        most: The effort that looks at everything.
    """
    depths, efforts, depth = [k], [min(effort, most)], k
    while efforts[-1] < most:
        depth *= 2
        depths.append(depth)
        efforts.append(min(most, max(efforts[-1] + 1, round(effort * (depth / k) ** _GROWTH))))
    tails = [efforts[0], *(min(most, ceil(effort * _TAIL)) for effort in efforts[1:])]
    return Switching(tuple(depths), tuple(efforts), tuple(tails))
