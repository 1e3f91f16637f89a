"""The same list for everybody: items by their number of users. What every other model has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feast_recsys.models.collaborative.shared import log_popularity, same_catalogue
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder, ItemVectors
from feast_recsys.models.training.loop import Run


@dataclass(frozen=True)
class PopularityConfig:
    """There is nothing to choose."""


@dataclass(frozen=True)
class Popularity:
    """Scores log(1 + number of users), the logarithm only so that scores stay small.

    Attributes:
        popularity: [n] float32.
        config, facts: See `Model`.
    """

    popularity: Floats
    config: PopularityConfig = PopularityConfig()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """See `Model.score`; the histories don't matter."""
        same_catalogue(histories, len(self.popularity))
        return np.tile(self.popularity, (len(np.asarray(chosen)), 1))

    def encoders(self) -> Encoders:
        """See `Model.encoders`; exact."""
        encoders = build_popularity(len(self.popularity), self.config)
        # An unknown item comes after those without users.
        weights = torch.from_numpy(np.concatenate([np.full(1, -1.0, np.float32), self.popularity]).reshape(-1, 1))
        encoders.item.load_state_dict({"table.weight": weights})
        return encoders


class One(HistoryEncoder):
    """The query vector [1] for every history."""

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, 1]."""
        # From the history, so that the batch size is its own.
        return (history[:, :1] * 0 + 1).to(torch.float32)


def fit_popularity(histories: Histories, config: PopularityConfig, run: Run) -> Popularity:
    """Counts the users of each item."""
    return Popularity(log_popularity(histories), config)


def build_popularity(items: int, config: PopularityConfig) -> Encoders:
    """Encoders without weights for a catalogue of n items; vectors of width 1."""
    return Encoders(One().eval(), ItemVectors(items, 1).eval())
