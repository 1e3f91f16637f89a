"""What every model of users' histories is in the end: a query encoder and item vectors that meet in a dot product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.models.data.histories import Floats, Histories, Ints, from_lists

BLOCK = 256  # users scored at once


class HistoryEncoder(nn.Module):
    """A query encoder that takes the history alone.

    Attributes:
        takes_ratings: Whether `forward` needs them.
    """

    takes_ratings: bool = False

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """Query vectors [B, d], finite for every history, an empty one too.

        Args:
            history: [B, L] int64 rows of the item table, latest first; 0 is no item, or one that is not known.
            ratings: [B, L] float32; what stands beside a 0 does not count.
        """
        raise NotImplementedError


class ItemVectors(nn.Module):
    """Item vectors by row of the item table.

    Args:
        items: n; there are n + 1 rows, and row 0 is for items that the model does not know.
        dimension: d, with the bias column if there is one.
    """

    def __init__(self, items: int, dimension: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, dimension)

    def forward(self, item: Tensor) -> Tensor:
        """[B] int64 rows to [B, d]."""
        vectors: Tensor = self.table(item)
        return vectors


def distinct(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each row of a history once.

    Args:
        rows: [B, L] int64; 0 counts as nothing.

    Returns:
        [B, L] the rows in ascending order, [B, L] bool which of them count, and [B, L] where they stood. Of equal rows
        the first counts.
    """
    # Sorting is L log L; comparing all with all would be L^2 for each request. The place in the key settles ties: there
    # is no stable sort in ONNX.
    length = rows.shape[1]
    _, places = torch.sort(rows * length + torch.arange(length, device=rows.device), dim=1)
    ordered = rows.gather(1, places)
    before = functional.pad(ordered, (1, 0))[:, :-1]
    return ordered, ordered != before, places


@dataclass(frozen=True)
class Encoders:
    """A trained model of histories, in eval mode. The score of an item is the dot product of both vectors."""

    query: HistoryEncoder
    item: nn.Module

    @torch.no_grad()
    def vectors(self, items: int) -> Floats:
        """[items, d] vectors of rows 1 to `items`."""
        found: Floats = self.item(torch.arange(1, items + 1)).numpy()
        return found

    @torch.no_grad()
    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """[m, n] scores of the whole catalogue for some users, what they have included."""
        rows, ratings = histories.padded(chosen)
        taken = torch.from_numpy(ratings) if ratings is not None and self.query.takes_ratings else None
        queries = self.query(torch.from_numpy(rows), taken).numpy()
        scores: Floats = queries @ self.vectors(histories.catalogue).T
        return scores


@dataclass(frozen=True)
class EncoderScorer:
    """Encoders as what the evaluation calls a baseline: histories in, scores of the whole catalogue out."""

    encoders: Encoders
    catalogue: int

    def scores(self, histories: Sequence[Ints]) -> Floats:
        """[U, n] float32. Item rows in, without ratings; see `evaluation.baselines.Baseline`."""
        return self.encoders.score(from_lists(histories, self.catalogue), np.arange(len(histories)))
