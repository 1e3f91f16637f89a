"""Which items may come back."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from feast_recsys.bundle.filter_plan import Plan
    from feast_recsys.bundle.index.slices import Slices

Mask = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint8]
_Rows = npt.NDArray[np.int64]

FEW = 0.35
"""Below this share of allowed rows one works with the rows, from it on with the mask; see exact.GATHER_SHARE."""

# Rows that are packed into bits in the time that it takes to clear the bit of one.
_PACKED = 160
_ALL_BUT_ONE = (255 - (1 << np.arange(8))).astype(np.uint8)


class Allowed:
    """Which of n rows may come back, in whatever form an index wants it.

    Immutable. Each form is made when it is first asked for, and kept.

    Args:
        mask: [n] bool; not to be changed any more.
        slices: Keeps the vectors of what passes, where the same rows are likely to be asked for again; None for none.
        condition: The filter that the rows pass, and no others; None if there is none, or it is not known.
    """

    def __init__(self, mask: Mask, slices: Slices | None = None, condition: Plan | None = None) -> None:
        self._mask = mask
        self.slices, self.condition = slices, condition

    def __len__(self) -> int:
        return len(self._mask)

    @property
    def mask(self) -> Mask:
        """[n] bool: which rows may come back."""
        return self._mask

    @cached_property
    def count(self) -> int:
        """Number of rows that may come back."""
        return int(np.count_nonzero(self.mask))

    @property
    def most(self) -> int:
        """No less than `count`, and known without counting anew for each request."""
        return self.count

    def up_to(self, k: int) -> int:
        """min(k, count), without counting where there are plainly more."""
        return min(k, self.count)

    @cached_property
    def rows(self) -> _Rows:
        """[count] those rows, ascending."""
        return np.flatnonzero(self.mask)

    @cached_property
    def blocked(self) -> _Rows:
        """[n - count] the other rows, ascending."""
        return np.flatnonzero(~self.mask)

    @cached_property
    def bits(self) -> Bits:
        """[ceil(n / 8)] the mask as bits, the least significant first; 0 beyond the n-th."""
        return np.packbits(self.mask, bitorder="little")

    @property
    def filter(self) -> Allowed | None:
        """What passes whatever this request leaves out; None for all rows."""
        return self

    def hide(self, scores: npt.NDArray[np.float32]) -> None:
        """Sets the scores of the rows that must not come back, in [..., n] float32, to -inf."""
        np.copyto(scores, np.float32(-np.inf), where=~self.mask)

    def without(self, rows: _Rows) -> Allowed:
        """The same less some rows, which may repeat and must exist."""
        return Without(len(self), rows, self)


class Without(Allowed):
    """All rows, or those that something else allows, less some: what a request leaves out of a kept filter.

    Args:
        n: Number of rows.
        excluded: Rows that must not come back; may repeat, and be forbidden already.
        base: What is allowed otherwise; None for all rows.
    """

    def __init__(self, n: int, excluded: _Rows, base: Allowed | None = None) -> None:
        self._n = n
        self.excluded, self.base = excluded, base
        self.slices = self.condition = None

    def __len__(self) -> int:
        return self._n

    @property
    def filter(self) -> Allowed | None:
        """See Allowed.filter."""
        return self.base

    @cached_property
    def mask(self) -> Mask:
        """See Allowed.mask."""
        mask = np.ones(self._n, np.bool_) if self.base is None else self.base.mask.copy()
        mask[self.excluded] = False
        return mask

    @property
    def most(self) -> int:
        """See Allowed.most."""
        return self._n if self.base is None else self.base.count

    def up_to(self, k: int) -> int:
        """See Allowed.up_to."""
        return k if k <= self.most - len(self.excluded) else min(k, self.count)

    @cached_property
    def rows(self) -> _Rows:
        """See Allowed.rows."""
        if self.base is None or self.base.count > FEW * self._n:
            return np.flatnonzero(self.mask)
        rows = self.base.rows
        return rows[self.mask.take(rows)]

    @cached_property
    def bits(self) -> Bits:
        """See Allowed.bits."""
        if len(self.excluded) * _PACKED > self._n:
            return np.packbits(self.mask, bitorder="little")
        if self.base is None:
            bits = np.full(-(-self._n // 8), 255, np.uint8)
            bits[self._n // 8 :] = (1 << self._n % 8) - 1
        else:
            bits = self.base.bits.copy()
        np.bitwise_and.at(bits, self.excluded >> 3, _ALL_BUT_ONE[self.excluded & 7])
        return bits

    def hide(self, scores: npt.NDArray[np.float32]) -> None:
        """See Allowed.hide."""
        if self.base is not None:
            self.base.hide(scores)
        scores[..., self.excluded] = -np.inf

    def without(self, rows: _Rows) -> Allowed:
        """See Allowed.without."""
        return Without(self._n, np.concatenate([self.excluded, rows]), self.base)


def all_but(rows: _Rows, n: int) -> Allowed:
    """All of n rows but some, which may repeat and must exist."""
    return Without(n, rows)
