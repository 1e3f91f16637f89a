"""Every allowed item compared with every query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.marks import MARKS
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import settled

GATHER_SHARE = 0.35
"""Below this share of allowed items their vectors are gathered, above it all are scored and the others masked. Measured
on 100,000 vectors of 64 numbers, one thread: at 30 % masking takes 2.3 ms and gathering 2.0, at 40 % 2.3 and 2.4, at
10 % 2.3 and 0.9; on 1,000,000 vectors the two meet at the same share."""

KEPT_SHARE = 0.95
"""Below this share they are scored where they lie in one place, once they do. At 50 % that takes .7 of the time of
scoring all and masking of 3,700 vectors, .4 of 20,000 and .6 of 100,000; at 90 % .8 to .9."""

# Where gathering once would not pay, slices may take this part of the memory, so that they leave room for others.
_LARGE_PART = 0.25

# Exclusions are looked up among the kept rows one by one, where these are so many times as many.
_FEW_EXCLUDED = 256

# Vectors gathered at a time: half a MiB at 64 numbers each, so that they are still in cache when they are multiplied.
_GATHERED = 2048

# Scores of many queries held at a time: 64 MiB.
_SCORES = 1 << 24


class Kept(NamedTuple):
    """What passes a filter, in one place: rows [m] int64 ascending, and their vectors [m, d] float32."""

    rows: Rows
    vectors: Vectors


@dataclass(frozen=True)
class ExactIndex:
    """Compares every query with every allowed item.

    Attributes:
        vectors: [n, d] float32, finite; may be memory-mapped.
    """

    vectors: Vectors

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search."""
        kept = None if allow is None else self.kept(allow, KEPT_SHARE)
        if allow is None or kept is None:
            return self.search_anew(queries, k, allow)
        return self.search_kept(queries, k, allow, kept)

    def kept(self, allow: Allowed, share: float = GATHER_SHARE) -> Kept | None:
        """What passes the filter, where it has been asked for before and is less than a share of all."""
        filter_ = allow.filter
        if filter_ is None or filter_.slices is None or not may_be_kept(allow, len(self), share):
            return None
        part = 1.0 if may_be_kept(allow, len(self)) else _LARGE_PART
        vectors = filter_.slices.of(filter_, self.vectors, part)
        return None if vectors is None else Kept(filter_.rows, vectors)

    def search_kept(self, queries: Vectors, k: int, allow: Allowed, kept: Kept) -> tuple[Rows, Vectors]:
        """See Index.search; of what `kept` gave for `allow`."""
        return _in_blocks(queries, len(kept.rows), lambda some: self._among_kept(some, k, allow, kept))

    def search_anew(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search; nothing is kept, nor taken from what is."""
        return _in_blocks(queries, len(self), lambda some: self._among_all(some, k, allow))

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def _among_kept(self, queries: Vectors, k: int, allow: Allowed, kept: Kept) -> tuple[Rows, Vectors]:
        scores, m = queries @ kept.vectors.T, min(k, len(kept.rows))
        if isinstance(allow, Without):
            out = _places(allow.excluded, kept.rows, len(self))
            scores[:, out] = -np.inf
            m = min(m, len(kept.rows) - len(out))
        positions, scores = _best(queries, scores, m, lambda some: kept.vectors.take(some, axis=0))
        return kept.rows[positions], scores

    def _among_all(self, queries: Vectors, k: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        if allow is not None and allow.most < GATHER_SHARE * len(self):
            rows = allow.rows
            scores = self._gathered(queries, rows)
            positions, scores = _best(queries, scores, min(k, len(rows)), lambda some: self.vectors_of(rows[some]))
            return rows[positions], scores
        scores = queries @ self.vectors.T
        if allow is not None:
            allow.hide(scores)
        return _best(queries, scores, min(k, len(self)) if allow is None else allow.up_to(k), self.vectors_of)

    def _gathered(self, queries: Vectors, rows: Rows) -> Vectors:
        """[B, len(rows)] scores of some rows."""
        scores = np.empty((len(queries), len(rows)), np.float32)
        for start in range(0, len(rows), _GATHERED):
            part = slice(start, start + _GATHERED)
            scores[:, part] = queries @ self.vectors.take(rows[part], axis=0).T
        return scores


def _places(excluded: Rows, rows: Rows, n: int) -> Rows:
    """Where excluded rows, which may repeat, stand among ascending ones of n; each once."""
    if len(rows) < _FEW_EXCLUDED * len(excluded):
        return (~MARKS.left(rows, excluded, n)).nonzero()[0]
    places = rows.searchsorted(excluded)
    there = rows.take(places, mode="clip") == excluded
    return np.unique(places[there])


def may_be_kept(allow: Allowed, n: int, share: float = GATHER_SHARE) -> bool:
    """Whether what passes the filter is few enough of n items to be kept in one place once it is asked for again."""
    return allow.filter is not None and 0 < allow.filter.count < share * n


def _in_blocks(queries: Vectors, n: int, search: Callable[[Vectors], tuple[Rows, Vectors]]) -> tuple[Rows, Vectors]:
    """What a search finds, of so many queries at a time that their scores of n items are not too many."""
    step = max(_SCORES // max(n, 1), 1)
    if len(queries) <= step:
        return search(queries)
    parts = [search(queries[start : start + step]) for start in range(0, len(queries), step)]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([scores for _, scores in parts])


def _best(queries: Vectors, scores: Vectors, m: int, vectors_of: Callable[[Rows], Vectors]) -> tuple[Rows, Vectors]:
    """Positions [B, m] and scores [B, m] of the best by scores [B, n], see `settled`."""
    if len(queries) == 1:
        only = settled(scores[0], queries[0], m, vectors_of)
        return only[0][None], only[1][None]
    found, exact = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
    for n, query in enumerate(queries):
        found[n], exact[n] = settled(scores[n], query, m, vectors_of)
    return found, exact
