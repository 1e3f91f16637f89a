"""Indexes that are wrong in one way, and what the contract says of them."""

from __future__ import annotations

import pytest

from feast_recsys.bundle.index.contract import ContractViolated, check
from feast_recsys.bundle.index.exact import ExactIndex


class Sound:
    """Exact search, which faulty indexes are made of."""

    def __init__(self, vectors):
        self.exact = ExactIndex(vectors)
        self.dimension = self.exact.dimension

    def __len__(self):
        return len(self.exact)

    def vectors_of(self, rows):
        return self.exact.vectors_of(rows)

    def search(self, queries, k, allow=None):
        return self.exact.search(queries, k, allow)


def refused(index, message):
    """Whether the contract refuses an index, with a message that a pattern is found in."""
    with pytest.raises(ContractViolated, match=message):
        check(index)
