"""Item neighbours by cosine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.collaborative.shared import (
    item_counts,
    log_popularity,
    require,
    same_catalogue,
    stand_in,
    tail,
)
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder, ItemVectors
from feast_recsys.models.training.loop import Run

LARGEST = 8192  # items that can be served: the item vectors are as wide as the catalogue, 268 MB there
_BLOCK = 1024  # items whose similarities are computed at once


@dataclass(frozen=True)
class ItemKnnConfig:
    """Hyperparameters.

    Attributes:
        k: Neighbours of an item.
        shrinkage: Larger values trust rare items less.
    """

    k: int = 100
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        require(self, "k", self.k >= 1, "at least 1")
        require(self, "shrinkage", 0 <= self.shrinkage < np.inf, "at least 0 and finite")


@dataclass(frozen=True)
class ItemKnn:
    """Item neighbours by cosine (Sarwar et al. 2001; shrinkage as Bell and Koren 2007 use it).

    sim(i, j) = c_ij / (sqrt(c_i c_j) + shrinkage), c_ij the number of users with both, sim(i, i) = 0. Each item j
    keeps its k most similar items, and score(u, j) is the sum of sim(i, j) over those of them in u's history.

    Attributes:
        weights: scipy csc_array [n, n] float32; column j holds the neighbours of item j.
        popularity: [n] float32, for users without history.
        config, facts: See `Model`.
    """

    weights: Any
    popularity: Floats
    config: ItemKnnConfig
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """See `Model.score`."""
        same_catalogue(histories, len(self.popularity))
        part = histories.take(chosen)
        return stand_in((part.matrix() @ self.weights).toarray(), part, self.popularity)

    def encoders(self) -> Encoders:
        """See `Model.encoders`; exact, but for catalogues of at most 8,192 items only."""
        encoders = build_item_knn(len(self.popularity), self.config)
        vectors = np.concatenate([self.weights.T.toarray(), self.popularity[:, None]], axis=1)
        # No similarity is negative: an unknown item scores below all others for every user.
        unknown = np.full((1, vectors.shape[1]), -1.0, np.float32)
        encoders.item.load_state_dict({"table.weight": torch.from_numpy(np.concatenate([unknown, vectors]))})
        return encoders


class MultiHot(HistoryEncoder):
    """Histories as vectors of the catalogue's width: 1 where the user has the item, once however often it comes.

    Args:
        items: n. Column i is item i, the last one is 1 for users without a known item.
    """

    def __init__(self, items: int) -> None:
        super().__init__()
        self.items = items

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, n + 1]."""
        hot = torch.zeros(history.shape[0], self.items + 1).scatter(1, history, 1.0)
        return torch.cat([hot[:, 1:], tail(history != 0)[:, 1:]], -1)


def fit_item_knn(histories: Histories, config: ItemKnnConfig, run: Run) -> ItemKnn:
    """Finds the neighbours; equal similarities go by the lower position. Nothing is random."""
    n = histories.catalogue
    x = sparse.csc_array(histories.matrix(), dtype=np.float64)
    counts = item_counts(histories)
    blocks = []
    for start in range(0, n, _BLOCK):
        block = sparse.csr_array(x[:, start : start + _BLOCK].T @ x)
        block.sort_indices()
        blocks.append(_nearest(block, start, counts, config))
        run.progress.progress(min(start + _BLOCK, n), n)
    rows = sparse.csr_array(sparse.vstack(blocks)) if blocks else sparse.csr_array((0, 0), dtype=np.float32)
    return ItemKnn(rows.T, log_popularity(histories), config, {"neighbours": int(rows.nnz)})


def build_item_knn(items: int, config: ItemKnnConfig) -> Encoders:
    """Encoders without weights for a catalogue of n items; vectors of width n + 1.

    Raises:
        InvalidSettings: n is above 8,192.
    """
    if items > LARGEST:
        raise InvalidSettings(
            f"item_knn is served with vectors as wide as the catalogue, and {items} items are more than {LARGEST}; "
            "take family als or ease, whose vectors are short",
            field="family",
        )
    return Encoders(MultiHot(items).eval(), ItemVectors(items, items + 1).eval())


def _nearest(together: Any, start: int, counts: Ints, config: ItemKnnConfig) -> Any:
    """csr_array [b, n] float32: the neighbours of items from `start` on, of their counts [b, n] of common users."""
    columns, values, ends = [], [], [0]
    for row in range(together.shape[0]):
        item = start + row
        inside = slice(together.indptr[row], together.indptr[row + 1])
        others, both = together.indices[inside], together.data[inside]
        others, both = others[others != item], both[others != item]
        # float32 makes similarities level that differ by the rounding of a root only.
        norms = np.sqrt(counts[item] * counts[others].astype(np.float64))
        similar = (both / (norms + config.shrinkage)).astype(np.float32)
        if len(similar) > config.k:
            kept = similar >= np.partition(similar, len(similar) - config.k)[len(similar) - config.k]
            others, similar = others[kept], similar[kept]
        order = np.argsort(-similar, kind="stable")[: config.k]
        columns.append(others[order])
        values.append(similar[order])
        ends.append(ends[-1] + len(order))
    pieces = (np.concatenate(values), np.concatenate(columns), np.asarray(ends))
    return sparse.csr_array(pieces, shape=together.shape)
