"""Inverted lists: items in clusters, of which a search looks at a few.

The clusters are those of the vectors made equally long (see reduction.py), and the lists to look at are those with the
nearest centroids, not those with the largest inner product: on factors of Gowalla's 40,981 items 16 of 256 lists find
.98 of the 100 best that way, against .94 in more than twice the time with inner products throughout.

FAISS knows one metric for both steps. So that inner products do, an item is stored as [x, sqrt(M^2 - |x|^2), b], a
centroid c as [c, -|c|^2 / 2b], and a query as [q, 0, |q| b / 2M]. Then the largest product of an item with a centroid
means the nearest one, that of a query with a centroid the nearest to 2M q / |q|, and that of a query with an item is
theirs, but for a small number that is the same for all items.

Where all items are equally long anyway, all this is left out: clusters are those of their directions, and FAISS has
items, centroids and queries as they are. On 1,000,000 items of 64 numbers that saves 15 of 94 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import may_be_kept
from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.probing import Looked, Probing
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import FEWEST_CODES, in_order, rescored
from feast_recsys.bundle.index.scratch import Room, Scratch
from feast_recsys.bundle.index.spec import IndexSpec

SMALL = 2.0**-16
"""b as a share of M: so small that |q| b^2 / 2M is lost in all inner products but those near zero."""

_DENSER = 3  # times as many codes below the first depth, where none were counted

Query = npt.NDArray[np.float32]
Found = tuple[Rows, Vectors]


@dataclass(frozen=True)
class InvertedLists:
    """The lists, and what FAISS is asked about them.

    Attributes:
        spec: How they are built and searched.
        vectors: [n, d] float32, mapped: what scores are computed with where codes are not exact.
        searcher: FAISS's index over [n, d], or [n, at least d + 2] where items are not equally long.
        last: b, the last number of each item; 0 where items are equally long and have none.
        probing: The centroids and sizes of the lists, and how many to look at.
        scratch: Memory for searches.
    """

    spec: IndexSpec
    vectors: Vectors
    searcher: Any
    last: np.float32
    probing: Probing
    scratch: Scratch

    @cached_property
    def exactly(self) -> bool:
        """Whether FAISS compares vectors, not codes."""
        return self.spec.kind == "ivf_flat"

    def search(self, query: Query, m: int, allow: Allowed, looked: Looked) -> Found | None:
        """The m best of what is allowed in some lists.

        Args:
            query: [d].
            m: Number of items.
            allow: What may come back.
            looked: The lists.

        Returns:
            rows [m] and scores [m]; None if the lists hold fewer.
        """
        scratch, bits, pointer = self.scratch, allow.bits, faiss().swig_ptr
        self.extended(query)
        parameters, room = scratch.filtered, scratch.room(self.asked_for(m, looked.depth, looked.share))
        scratch.allow(bits)
        parameters.nprobe = len(looked.keys)
        keys, nearness = pointer(looked.keys), pointer(looked.nearness)
        self.searcher.search_preassigned_c(
            1,
            scratch.query_pointer,
            len(room.rows),
            keys,
            nearness,
            room.scores_pointer,
            room.rows_pointer,
            False,
            parameters,
        )
        found = self.finished(query, room, m)
        if found and self.exactly and may_be_kept(allow, self.probing.n):
            # Next time what passes may be compared by exact search: with the same scores then.
            return rescored(self.vectors, query, found[0], m)
        return found

    def extended(self, query: Query) -> Query:
        """[w] a query as FAISS is asked, which the thread's next call overwrites."""
        scratch = self.scratch
        scratch.own[:] = query
        if self.last:
            scratch.query[-1] = SMALL / 2 * sqrt(query.dot(query))
        return scratch.query

    def nearest(self, query: Query, w: int, probes: int) -> Room:
        """What FAISS says are the w best, -1 where there are fewer."""
        scratch, room, parameters = self.scratch, self.scratch.room(w), None
        self.extended(query)
        if probes != self.probing.probes:
            parameters = scratch.parameters
            parameters.nprobe = probes
        # The method without _c checks and copies first, for 8 us a call.
        self.searcher.search_c(1, scratch.query_pointer, w, room.scores_pointer, room.rows_pointer, parameters)
        return room

    def finished(self, query: Query, room: Room, m: int) -> Found | None:
        """What FAISS found, with exact scores and best first; None where it found too few."""
        rows = room.rows
        if rows.item(m - 1) < 0:
            return None
        if not self.exactly:
            return rescored(self.vectors, query, rows if rows[-1] >= 0 else rows[rows >= 0], m)
        scores = self.products(room.scores)
        # Seldom are any alike, and the bytes say so in half the time that `any` takes.
        np.equal(room.upper, room.lower, out=room.alike)
        if 1 in room.alike.tobytes():
            return in_order(rows, scores)
        return rows.copy(), scores

    def products(self, scores: Vectors) -> Vectors:
        """Inner products with the query that was asked last, of FAISS's scores; a new array."""
        return scores - self.last * self.scratch.query[-1] if self.last else scores.copy()

    def asked_for(self, m: int, depth: float, share: float = 1.0) -> int:
        """How many to ask FAISS for, which are codes in most kinds: the deeper items lie, the more are nearly as good.

        Args:
            m: Number of items.
            depth: Number of items of all down to which these lie.
            share: Of those, how many FAISS may find; the better ones that it may not are compared with none.
        """
        if self.exactly:
            return m
        plan, widening = self.probing.switching, self.spec.search["widening"]
        least = ceil(max(m, FEWEST_CODES, plan.depths[0]) * widening)
        if depth <= plan.depths[0]:
            return min(least, self.probing.n)
        codes = plan.codes_for(depth) or widening * (plan.depths[0] + _DENSER * (depth - plan.depths[0]))
        return min(max(least, ceil(m + (codes - depth) * share)), self.probing.n)

    def comparing_ns(self, m: int, depth: float, share: float = 1.0) -> float:
        """What it takes to compare vectors after codes."""
        return 0.0 if self.exactly else self.probing.switching.asked_ns * self.asked_for(m, depth, share)
