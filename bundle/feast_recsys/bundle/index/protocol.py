"""What every index does, and the arrays that go in and out."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Index(Protocol):
    """What every index does. Rows are rows of the snapshot."""

    @property
    def dimension(self) -> int:
        """Width of the vectors."""

    def __len__(self) -> int:
        """Number of items."""

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """The k best items for each query.

        Args:
            queries: [B, d] float32.
            k: Number of items wanted, at least 1.
            allow: Which of the n items may come back; None for all.

        Returns:
            rows [B, m] int64 and scores [B, m] float32, best first, m = min(k, allowed items). Equal scores come
            in the order of the rows.
        """

    def vectors_of(self, rows: Rows) -> Vectors:
        """[m, d] float32: the vectors of some items."""
