"""Who had what: the users' items, and how they rated them. What models without features learn from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from feast_recsys.bundle.errors import InvalidArgument

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Histories:
    """The items of U users, out of a catalogue of n.

    Attributes:
        offsets: [U + 1] where each user's items begin and end.
        items: [offsets[-1]] positions in the catalogue, 0 to n - 1; no item twice for one user.
        catalogue: n, the number of items that exist.
        ratings: [offsets[-1]] how each was rated, or how often it was played; None where having it is all.
    """

    offsets: Ints
    items: Ints
    catalogue: int
    ratings: Floats | None = None

    def __post_init__(self) -> None:
        if len(self.items) and not (self.items.min() >= 0 and self.items.max() < self.catalogue):
            raise InvalidArgument(f"items must be positions 0..{self.catalogue - 1} of the catalogue", field="items")
        if self.ratings is not None and len(self.ratings) != len(self.items):
            raise InvalidArgument(f"{len(self.ratings)} ratings for {len(self.items)} items", field="ratings")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __iter__(self) -> Iterator[Ints]:
        """The items of each user."""
        for start, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            yield self.items[start:end]

    @property
    def lengths(self) -> Ints:
        """[U] items of each user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> Ints:
        """[offsets[-1]] the user of each item."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @classmethod
    def from_pairs(
        cls, users: npt.ArrayLike, items: npt.ArrayLike, catalogue: int, ratings: npt.ArrayLike | None = None,
        *, size: int | None = None,
    ) -> Histories:  # fmt: skip
        """From parallel lists in any order; they come out by user, then in the order given.

        Args:
            users: [m] users, 0 to U - 1.
            items: [m] positions in the catalogue.
            catalogue: Number of items.
            ratings: [m], if there are any.
            size: U; the highest user and one if None.

        Raises:
            InvalidArgument: an item outside the catalogue, or twice for one user.
        """
        users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
        size = int(users.max(initial=-1)) + 1 if size is None else size
        if len(np.unique(users * max(catalogue, 1) + items)) != len(users):
            raise InvalidArgument("a user has an item twice; keep one of them", field="items")
        order = np.argsort(users, kind="stable")
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=size))]).astype(np.int64)
        values = None if ratings is None else np.asarray(ratings, np.float32)[order]
        return cls(offsets, items[order], catalogue, values)

    def take(self, chosen: npt.ArrayLike) -> Histories:
        """The given users, in that order."""
        chosen = np.asarray(chosen, np.int64)
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        ratings = None if self.ratings is None else self.ratings[rows]
        return Histories(offsets, self.items[rows], self.catalogue, ratings)

    def matrix(self, *, values: bool = False) -> Any:
        """scipy csr_array [U, n] float32: 1 where the user has the item, or the rating if `values`.

        Raises:
            InvalidArgument: `values` without ratings.
        """
        if values and self.ratings is None:
            raise InvalidArgument("these histories have no ratings", field="ratings")
        data = self.ratings if values else np.ones(len(self.items), np.float32)
        return sparse.csr_array((data, self.items, self.offsets), shape=(len(self), self.catalogue))

    def padded(self, chosen: npt.ArrayLike, length: int | None = None) -> tuple[Ints, Floats | None]:
        """Rows of the item tables, as encoders take them: position + 1, and 0 behind the last.

        Args:
            chosen: [m] users.
            length: Only the last so many items of each, in order; all if None.

        Returns:
            [m, L] int64 rows and, if there are ratings, [m, L] float32 ratings; L is the longest, at least 1.
        """
        part = self.take(chosen)
        kept = part.lengths if length is None else np.minimum(part.lengths, length)
        width = max(int(kept.max(initial=0)), 1)
        rows = np.zeros((len(part), width), np.int64)
        ratings = None if part.ratings is None else np.zeros((len(part), width), np.float32)
        user = np.repeat(np.arange(len(part)), kept)
        column = np.arange(len(user)) - np.repeat(np.cumsum(kept) - kept, kept)
        source = column + np.repeat(part.offsets[1:] - kept, kept)
        rows[user, column] = part.items[source] + 1
        if ratings is not None and part.ratings is not None:
            ratings[user, column] = part.ratings[source]
        return rows, ratings


def from_lists(lists: Sequence[npt.ArrayLike], catalogue: int) -> Histories:
    """From one list of catalogue positions a user."""
    arrays = [np.asarray(items, np.int64).reshape(-1) for items in lists]
    users = np.repeat(np.arange(len(arrays)), [len(items) for items in arrays])
    return Histories.from_pairs(users, np.concatenate([np.empty(0, np.int64), *arrays]), catalogue, size=len(arrays))
