"""From item ids to rows: a table of row numbers, written with the snapshot and mapped by every process.

Integer ids that lie close together have a direct table: the row of each number between the first and the last. Other
ids have a hash table: the rows ordered by bucket, and where each bucket starts. Which of the two a table is follows
from the ids. The rows of a bucket are compared by the ids themselves, so a hash only says where to look.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.ids import Mask, Words, words_of

UNKNOWN_ROW = -1

Rows = npt.NDArray[np.int64]
Table = npt.NDArray[np.int32]

MAX_SPREAD = 4
"""Integer ids get a direct table if it has at most this many slots for each item."""

MAX_BUCKET = 8
"""Ids of a bucket with more rows than this are left to a binary search, so that ids made to share one stay cheap."""

# An odd constant with well mixed bits: the golden ratio in 64 bits.
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)
_UNKNOWN = np.int64(UNKNOWN_ROW)


class Lookup(Protocol):
    """What both tables do."""

    def rows(self, keys: Array) -> Rows:
        """Row of each id, UNKNOWN_ROW where there is none.

        Args:
            keys: [m] int64, or [m, width] uint64: text ids as words.
        """


@dataclass(frozen=True)
class DirectLookup:
    """Rows of integer ids that lie close together.

    Attributes:
        first: The least id.
        table: [last - first + 1] int32, the row of each number from `first` on, UNKNOWN_ROW where it is no id.
    """

    first: np.int64
    table: Table

    def rows(self, keys: Array) -> Rows:
        """See Lookup.rows."""
        # The difference may wrap around, and is then no less outside of the table.
        places = keys - self.first
        return np.where(places.view(np.uint64) < len(self.table), self.table.take(places, mode="clip"), _UNKNOWN)


@dataclass(frozen=True)
class HashLookup:
    """Rows of any ids, by the hash of their words.

    Attributes:
        ids: [n] int64 or bytes, ascending: what was hashed.
        keys: The same as they are compared: [n] int64 or [n, width] uint64.
        starts: [buckets + 1] int32, where each bucket starts in `order`; a power of two of buckets.
        order: [n] int32, rows by bucket.
    """

    ids: Array
    keys: Array
    starts: Table
    order: Table

    def rows(self, keys: Array) -> Rows:
        """See Lookup.rows."""
        rows = np.full(len(keys), UNKNOWN_ROW, np.int64)
        buckets = _bucket(keys, len(self.starts) - 1)
        starts = self.starts.take(buckets, mode="clip")
        counts = self.starts[1:].take(buckets, mode="clip") - starts
        if counts.max() > MAX_BUCKET:
            crowded = (counts > MAX_BUCKET).nonzero()[0]
            rows[crowded] = self._search(keys[crowded])
            counts[crowded] = 0
        # All rows of all these buckets, one bucket after the other.
        ends = counts.cumsum(dtype=np.int32)
        places = (starts + counts - ends).repeat(counts) + np.arange(ends[-1], dtype=np.int32)
        candidates = self.order.take(places, mode="clip")
        owners = np.arange(len(keys)).repeat(counts)
        hits = _equal(self.keys.take(candidates, axis=0, mode="clip"), keys.take(owners, axis=0)).nonzero()[0]
        rows[owners.take(hits)] = candidates.take(hits)
        return rows

    def _search(self, keys: Array) -> Rows:
        """The same by binary search among the ids."""
        wanted = keys.view(self.ids.dtype).reshape(len(keys))
        rows = np.searchsorted(self.ids, wanted)
        rows[rows == len(self.ids)] = 0
        return np.where(self.ids[rows] == wanted, rows, _UNKNOWN)


def build_table(ids: Array) -> Table:
    """The table for some ids; the same ids give the same bytes.

    Args:
        ids: [n] as stored: int64 or bytes of a whole number of words; ascending, each once.

    Returns:
        int32: a direct table, or the starts and the order of a hash table one after the other.

    Raises:
        ValueError: there are more items than int32 has rows.
    """
    if len(ids) > np.iinfo(np.int32).max:
        raise ValueError(f"{len(ids)} items are more than a snapshot can hold")
    if not len(ids):
        return np.empty(0, np.int32)
    rows = np.arange(len(ids), dtype=np.int32)
    if (spread := _spread(ids)) is not None:
        table = np.full(spread, UNKNOWN_ROW, np.int32)
        table[ids - ids[0]] = rows
        return table
    count = _buckets(len(ids))
    buckets = _bucket(_keys(ids), count)
    starts = np.zeros(count + 1, np.int32)
    np.cumsum(np.bincount(buckets, minlength=count), out=starts[1:])
    return np.concatenate([starts, np.argsort(buckets, kind="stable").astype(np.int32)])


def open_lookup(path: Path, ids: Array) -> Lookup:
    """Maps the table of some ids.

    Raises:
        CorruptArtifact: the file is missing, broken, or belongs to other ids.
    """
    try:
        table = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    spread, n = _spread(ids), len(ids)
    slots = spread if spread is not None else _buckets(n) + 1 + n
    if table.shape != (slots,) or table.dtype != np.int32:
        raise CorruptArtifact(f"{path} holds {table.shape} {table.dtype}, not the rows of {n} ids: materialize again")
    starts, order = table[: slots - n], table[slots - n :]
    ends = (0, n - 1) if spread is not None else (0, n)
    whole = table if spread is not None else starts
    if n and (whole[0], whole[-1]) != ends:
        raise CorruptArtifact(f"{path} holds the rows of other ids: materialize again")
    if spread is not None:
        return DirectLookup(ids[0] if n else np.int64(0), table)
    return HashLookup(ids, _keys(ids), starts, order)


def _spread(ids: Array) -> int | None:
    """Slots of a direct table; None if the ids get a hash table."""
    if not len(ids):
        return 0
    if ids.dtype != np.int64:
        return None
    slots = int(ids[-1]) - int(ids[0]) + 1
    return slots if slots <= MAX_SPREAD * len(ids) else None


def _buckets(n: int) -> int:
    """The power of two from 2n up: most buckets then hold one row or none."""
    return 1 << max(1, (2 * n - 1).bit_length())


def _keys(ids: Array) -> Array:
    return ids if ids.dtype == np.int64 else words_of(ids)


def _equal(some: Array, others: Array) -> Mask:
    """[m] which ids are the same, [m] integers or [m, width] words."""
    same: Mask = some == others
    if same.ndim == 1:
        return same
    # Word by word: NumPy's reduction over a few columns takes several times as long.
    whole = same[:, 0]
    for word in range(1, same.shape[1]):
        whole = whole & same[:, word]
    return whole


def _bucket(keys: Array, count: int) -> Rows:
    """[m] the bucket of each id among `count`, a power of two."""
    words: Words = keys.view(np.uint64)
    # The upper half of a word meets the lower one before a product carries both upwards, where the bucket is taken.
    words = words ^ (words >> _HALF)
    if words.ndim == 2:
        mixed: Words = np.matmul(words, _weights(words.shape[1]))
        words = mixed ^ (mixed >> _HALF)
    return (words * _MULTIPLIER >> np.uint64(65 - count.bit_length())).view(np.int64)


@cache
def _weights(width: int) -> Words:
    """[width] odd numbers, one for each word of a text id."""
    weights: Words = np.full(width, _MULTIPLIER).cumprod()
    return weights
