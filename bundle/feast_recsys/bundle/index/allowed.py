"""Which items may come back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Allowed:
    """Which of n rows may come back, in whatever form an index wants it. Immutable; the forms are made once.

    Attributes:
        mask: [n] bool; not to be changed any more.
    """

    mask: Mask

    def __len__(self) -> int:
        return len(self.mask)

    @cached_property
    def count(self) -> int:
        """Number of rows that may come back."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """[count] those rows, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def bits(self) -> npt.NDArray[np.uint8]:
        """[ceil(n / 8)] the mask as bits, the least significant first."""
        return np.packbits(self.mask, bitorder="little")

    def without(self, rows: npt.NDArray[np.int64]) -> Allowed:
        """The same less some rows, which may repeat and must exist."""
        mask = self.mask.copy()
        mask[rows] = False
        return Allowed(mask)


def all_but(rows: npt.NDArray[np.int64], n: int) -> Allowed:
    """All of n rows but some, which may repeat and must exist."""
    mask = np.ones(n, np.bool_)
    mask[rows] = False
    return Allowed(mask)
