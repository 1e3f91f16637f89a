"""Which of some rows a request leaves out."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.protocol import Rows

_FEW = 16_384  # a power of two


class Marks(threading.local):
    """A mark for each row, of which each thread has its own: fresh memory would cost more than the rest."""

    def __init__(self) -> None:
        self._marks: npt.NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._few: npt.NDArray[np.bool_] = np.zeros(_FEW, np.bool_)

    def left(self, rows: Rows, excluded: Rows, n: int) -> npt.NDArray[np.bool_]:
        """Which of some rows are not excluded.

        Args:
            rows: [m] rows of n; may be empty, and end with -1 for none, which is not left.
            excluded: [e] rows of n; may repeat.
            n: Number of all rows.
        """
        if len(self._marks) < n:
            self._marks = np.zeros(n, np.bool_)
        none = rows[-1] < 0 if len(rows) else False
        if len(rows) < len(excluded):
            # Most of many are no such row, which marks that are few enough to stay near the processor can tell.
            folded = rows & (_FEW - 1)
            self._few[folded] = True
            excluded = excluded.take(self._few.take(excluded & (_FEW - 1)).nonzero()[0])
            self._few[folded] = False
        self._marks[excluded] = True
        left = ~self._marks.take(rows)
        self._marks[excluded] = False
        return left & (rows >= 0) if none else left


MARKS = Marks()
