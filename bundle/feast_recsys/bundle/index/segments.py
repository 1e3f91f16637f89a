"""An index of an earlier catalogue, carried on: items added or changed since are searched exactly beside it.

A folder holds the base: `base.npy`, the vectors that the index was built of, and `rows.npy`, for each of them the row
of the same item now, or -1 if the item is gone or has another vector (a tombstone). Items that no base row leads to are
the delta. As both change, the index is not touched; once they are many, it is built anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.allowed import Allowed, Without, all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors

BASE_FILE, ROWS_FILE = "base.npy", "rows.npy"
TOMBSTONE = -1


@dataclass(frozen=True)
class Segments:
    """An index over the items of now.

    Attributes:
        base: Index over the items of then.
        base_rows: [items of then] row of each now, TOMBSTONE where there is none; each row at most once.
        vectors: [n, d] float32 of now, mapped.
    """

    base: Index
    base_rows: Rows
    vectors: Vectors
    _base_filters: WeakKeyDictionary[Allowed, Allowed] = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    @cached_property
    def delta(self) -> Rows:
        """Rows that are not in the base, ascending."""
        return np.flatnonzero(self._then == TOMBSTONE)

    @cached_property
    def tombstones(self) -> Rows:
        """Rows of the base that stand for nothing any more, ascending."""
        return np.flatnonzero(self.base_rows == TOMBSTONE)

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search."""
        k = min(k, len(self))
        m = k if allow is None else allow.up_to(k)
        found = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        if not m:
            return found
        new, new_scores = self._from_delta(queries, m, allow)
        for n, (rows, scores) in enumerate(self._from_base(queries, m, allow)):
            every, both = np.concatenate([rows, new[n]]), np.concatenate([scores, new_scores[n]])
            order = np.lexsort((every, -both))[:m]
            found[0][n], found[1][n] = every[order], both[order]
        return found

    def _from_delta(self, queries: Vectors, m: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        """Rows of now and scores of min(m, allowed) items of the delta, the best first."""
        of_delta = None if allow is None else Allowed(allow.mask.take(self.delta))
        found, scores = ExactIndex(self._delta_vectors).search_anew(queries, m, of_delta)
        return self.delta.take(found), scores

    def _from_base(self, queries: Vectors, m: int, allow: Allowed | None) -> list[tuple[Rows, Vectors]]:
        """For each query, rows of now and scores of min(m, allowed) items that the base holds, the best first."""
        alive = self._alive if len(self.tombstones) else None
        found, scores = self.base.search(queries, m, alive if allow is None else self._then_allowed(allow))
        return list(zip(self.base_rows.take(found), scores, strict=True))

    def _then_allowed(self, allow: Allowed) -> Allowed:
        """The same for rows of the base. What a request excludes is put on top of what is kept for its filter."""
        if not isinstance(allow, Without):
            return self._then_filter(allow)
        excluded = self._then.take(allow.excluded)
        excluded = excluded[excluded != TOMBSTONE]
        if allow.base is None:
            return self._alive.without(excluded)
        return self._then_filter(allow.base).without(excluded)

    def _then_filter(self, allow: Allowed) -> Allowed:
        kept = self._base_filters.get(allow)
        if kept is None:
            mask = allow.mask.take(self.base_rows, mode="clip")
            mask[self.tombstones] = False
            kept = self._base_filters[allow] = Allowed(mask, allow.slices)
        return kept

    @cached_property
    def _alive(self) -> Allowed:
        """All rows of the base but the tombstones."""
        return all_but(self.tombstones, len(self.base_rows))

    @cached_property
    def _then(self) -> Rows:
        """[n] row in the base of each item, TOMBSTONE where it has none."""
        then = np.full(len(self), TOMBSTONE, np.int64)
        live = np.flatnonzero(self.base_rows != TOMBSTONE)
        then[self.base_rows[live]] = live
        return then

    @cached_property
    def _delta_vectors(self) -> Vectors:
        return np.asarray(self.vectors.take(self.delta, axis=0))


def save_base_rows(folder: Path, base_rows: Rows) -> None:
    """Writes where the items of the base are now."""
    np.save(folder / ROWS_FILE, base_rows, allow_pickle=False)


def open_base_rows(folder: Path, base: int, n: int) -> Rows:
    """Maps where the items of the base are now.

    Args:
        folder: Of the segments.
        base: Number of vectors in the base.
        n: Number of items now.

    Raises:
        CorruptArtifact: the file is missing, broken, or of other items.
    """
    path = folder / ROWS_FILE
    try:
        rows = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if rows.shape != (base,) or rows.dtype != np.int64 or (base and not -1 <= rows.min() <= rows.max() < n):
        raise CorruptArtifact(f"{path} holds {rows.shape} {rows.dtype}, not rows of {n} items: materialize --full")
    return rows
