"""Search of inverted lists, whatever may come back: how many lists to look at, and when another way is quicker.

Without a filter a search looks at as many lists as hold enough of what it wants. Where nearly everything may come back,
a few more are asked for and what may not is dropped; else FAISS goes by bits, and looks at as many lists as the plan
that was measured (see switching.py) gives for the depth that what passes lies in; where exact search takes less, all
that may come back is compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed, Mask, Without
from feast_recsys.bundle.index.depth import Sample, better_among, places
from feast_recsys.bundle.index.exact import ExactIndex, Kept, may_be_kept
from feast_recsys.bundle.index.inverted_lists import Found, InvertedLists, Query
from feast_recsys.bundle.index.marks import MARKS
from feast_recsys.bundle.index.probing import Counts, Looked, Probing
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import in_order, rescored

_SAMPLED_PASSING = 65_536  # passing rows that are looked at to learn where all of them lie

# Where so many of the best would pass if the filter had nothing to do with the query, less than this share says it has.
_TELLING, _FEWER = 8.0, 0.5
_MARGIN = 1.5  # times as deep as the sample says, then

_MORE = 16  # items that are asked for in addition where a request excludes some
_MANY = 0.3  # share of the items from which on a filter is held against what was found among all
_NONE: Rows = np.empty(0, np.int64)


@dataclass(frozen=True)
class IvfIndex:
    """An opened index.

    Attributes:
        inverted: The lists.
        lists: [n] int32, the list of each item.
    """

    inverted: InvertedLists
    lists: npt.NDArray[np.int32]
    _passing_by_filter: WeakKeyDictionary[Allowed, Counts] = field(default_factory=WeakKeyDictionary, repr=False)

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    @cached_property
    def vectors(self) -> Vectors:
        """[n, d] float32, mapped."""
        return self.inverted.vectors

    @cached_property
    def probing(self) -> Probing:
        """The centroids and sizes of the lists, and how many to look at."""
        return self.inverted.probing

    def __len__(self) -> int:
        return self.probing.n

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> Found:
        """See Index.search. Queries are answered one after the other: FAISS would answer many a little otherwise."""
        m = min(k, self.probing.n)
        if allow is not None:
            kept = self._kept(allow, m)
            if kept:
                return self._exact.search_kept(queries, m, allow, kept)
            m = allow.up_to(m)
            if m and self.probing.exact_is_quicker(allow.most):
                return self._exact.search_anew(queries, m, allow)
        if len(queries) == 1 and m:
            rows, scores = self._one(queries[0], m, allow)
            return rows[None], scores[None]
        found, exact = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        if m:
            for n, query in enumerate(queries):
                found[n], exact[n] = self._one(query, m, allow)
        return found, exact

    @property
    def _exact(self) -> ExactIndex:
        return ExactIndex(self.vectors)

    def _kept(self, allow: Allowed, k: int) -> Kept | None:
        """What passes the filter in one place, where that makes exact search the quickest."""
        passing, n = allow.filter.count if allow.filter else 0, self.probing.n
        if not passing:
            return None
        m, beside = min(k, passing), self.inverted.comparing_ns(min(k, passing), k * n / passing, passing / n)
        if not self.probing.keeping_is_quicker(m, passing, beside):
            return None
        return self._exact.kept(allow)

    def _one(self, query: Query, m: int, allow: Allowed | None) -> Found:
        found = self._among_all(query, m) if allow is None else self._among_allowed(query, m, allow)
        if found is None:
            rows, scores = self._exact.search_anew(query[None], m, allow)
            return rows[0], scores[0]
        return found

    def _among_all(self, query: Query, m: int) -> Found | None:
        inverted, beside = self.inverted, self.inverted.comparing_ns(m, m)
        probes = self.probing.probes_for(m, beside)
        while probes is not None:
            found = inverted.finished(query, inverted.nearest(query, inverted.asked_for(m, m), probes), m)
            if found:
                return found
            probes = self.probing.twice(probes, beside)
        return None

    def _among_allowed(self, query: Query, m: int, allow: Allowed) -> Found | None:
        if allow.filter is not None and allow.filter.count <= _MANY * self.probing.n:
            return self._by_bits(query, m, allow, 0)
        found, displaced = self._overfetched(query, m, allow)
        if found:
            return found
        return self._deep_down(query, m, allow) if allow.filter else self._by_bits(query, m, allow, displaced)

    def _by_bits(self, query: Query, m: int, allow: Allowed, displaced: int) -> Found | None:
        """The m best by FAISS and bits; once more in more lists where more better ones are left out than was thought,
        or a filter leaves out what is near."""
        looked = self._lists_for(query, m, allow, displaced)
        found = looked and self.inverted.search(query, m, allow, looked)
        if looked and found and isinstance(allow, Without):
            now = better_among(self.vectors, allow.excluded, query, found[1][-1])
            if now > displaced:
                wider = self._lists_for(query, m, allow, now)
                if wider is None or len(wider.keys) > len(looked.keys):
                    looked, found = wider, wider and self.inverted.search(query, m, allow, wider)
        if looked and found and allow.filter:
            depth = self._hidden(query, m, found[1][-1], allow.filter, looked)
            if depth:
                wider = self._lists_down_to(query, m, allow, depth)
                if wider is None or len(wider.keys) > len(looked.keys):
                    found = wider and self.inverted.search(query, m, allow, wider)
        return found

    def _lists_for(self, query: Query, m: int, allow: Allowed, displaced: int) -> Looked | None:
        """The lists for what is allowed less some better ones; None where exact search is quicker."""
        share, passing = allow.most / self.probing.n, self._passing(allow)
        beside, wanted = self.inverted.comparing_ns(m, (m + displaced) / share, share), m + displaced
        wide = self.inverted.extended(query)
        return self.probing.choose(wide, wanted, allow.most, passing, last=displaced > 0, beside_ns=beside)

    def _lists_down_to(self, query: Query, m: int, allow: Allowed, depth: float) -> Looked | None:
        """The lists for the last items down to a depth; None where exact search is quicker."""
        beside = self.inverted.comparing_ns(m, depth, allow.most / self.probing.n)
        return self.probing.deeper(self.inverted.extended(query), depth, allow.most, beside)

    def _hidden(self, query: Query, m: int, worst: np.float32, filter_: Allowed, looked: Looked) -> int:
        """How deep what passes lies where a filter leaves out what is near: everything but what a user likes, say.

        First among the best of all fewer pass than in the lists around them; where too few would pass to tell, nothing
        is concluded from that. Then a sample of all items says how many are better than the worst that was found.

        Returns:
            A number of items; 0 where there is no such sign.
        """
        sparse = looked.share * m < _TELLING
        if not sparse:
            rows = self.inverted.nearest(query, self.inverted.asked_for(m, m), self.probing.probes).rows[:m]
            if np.count_nonzero(filter_.mask.take(rows)) >= _FEWER * looked.share * m:
                return 0
        better, least = self._sample.better(query, worst)
        depth = round(_MARGIN * better)
        if least > looked.depth:
            return depth
        return 0 if sparse else max(depth, round(2 * looked.depth))

    def _deep_down(self, query: Query, m: int, allow: Allowed) -> Found | None:
        """The m best where a filter that many items pass leaves out what is near: as deep as a sample of all says."""
        depth = self._sample.depth_of(query, m, allow.mask)
        if depth is None:
            return None
        looked = self._lists_down_to(query, m, allow, depth)
        return looked and self.inverted.search(query, m, allow, looked)

    @cached_property
    def _sample(self) -> Sample:
        return Sample.of(self.vectors)

    def _overfetched(self, query: Query, m: int, allow: Allowed) -> tuple[Found | None, int]:
        """What is left of a few more than the m best of all: quicker than bits where nearly everything may come back.

        Returns:
            The m best, None if it takes a search that looks deeper; and how many better ones a request leaves out.
        """
        n, filter_ = self.probing.n, allow.filter
        excluded = allow.excluded if isinstance(allow, Without) else _NONE
        likely, usual = places(m, filter_.count / n if filter_ else 1.0, len(excluded) / n)
        more = usual + _MORE
        probes = self.probing.probes_for(likely, self.inverted.comparing_ns(more, more))
        if probes is None or more > n:
            return None, 0
        room = self.inverted.nearest(query, self.inverted.asked_for(more, more), probes)
        if room.rows.item(more - 1) < 0:
            return None, 0
        left = self._left(room.rows, excluded, filter_)
        staying = left[:more].nonzero()[0]
        if len(staying) < m:
            # Who leaves out most of the very best is likely to have left out what comes next as well.
            out = more - len(staying)
            return None, 0 if filter_ else out if 2 * out < more else len(excluded)
        place = staying.item(m - 1) + 1
        # Farther down than by chance, what is wanted are the last ones.
        if place > usual and (self.probing.switching.tail(place) or n) > probes:
            return None, 0 if filter_ else place - m
        if not self.inverted.exactly:
            return rescored(self.vectors, query, room.rows[left], m), place - m
        first = staying[:m]
        if may_be_kept(allow, n):
            return rescored(self.vectors, query, room.rows.take(first), m), place - m
        return in_order(room.rows.take(first), self.inverted.products(room.scores.take(first))), place - m

    def _left(self, rows: Rows, excluded: Rows, filter_: Allowed | None) -> Mask:
        """Which of some rows may come back; -1 may not."""
        if filter_ is None:
            return MARKS.left(rows, excluded, self.probing.n)
        passing = filter_.mask.take(rows, mode="clip")
        if len(excluded):
            return passing & MARKS.left(rows, excluded, self.probing.n)
        return passing & (rows >= 0) if rows.item(-1) < 0 else passing

    def _passing(self, allow: Allowed) -> Counts | None:
        """[lists] about how many items of each list pass the filter, whatever the request excludes; None for all."""
        filter_ = allow.filter
        if filter_ is None:
            return None
        counts = self._passing_by_filter.get(filter_)
        if counts is None:
            step = filter_.count // _SAMPLED_PASSING + 1
            counts = step * np.bincount(self.lists.take(filter_.rows[::step]), minlength=len(self.probing.sizes))
            self._passing_by_filter[filter_] = counts
        return counts
