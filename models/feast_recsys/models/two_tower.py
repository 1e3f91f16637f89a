"""The two-tower retrieval model: two encoders whose vectors meet in a dot product.

After Yi et al. (RecSys 2019): unit vectors divided by a temperature, a softmax over the batch with the logarithm of
each item's sampling probability taken off, mixed with uniform negatives (Yang et al. 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Role, Side
from feast_recsys.models.inputs import Inputs
from feast_recsys.models.layers import Knots, SideFeatures, masked_mean, table


@dataclass(frozen=True)
class TwoTowerConfig:
    """Hyperparameters. The defaults were chosen on the validation part of MovieLens 100K.

    Attributes:
        dimension: Width of the vectors.
        hidden: Width of the hidden layer of each tower.
        dropout: After it.
        history_length: Latest items of the history that count. Short, because the latest tell most.
        temperature: What cosines are divided by.
        history_dropout: Share of the history left out in each training step.
        id_dropout: Share of items whose id is hidden in each training step, so that their content has to do.
        batch, uniform: Likes in a batch, and negatives drawn evenly from the catalogue beside them.
        neighbourhood: Batches hold likes of neighbouring moments, as many likes apart as this, so that positives
            and negatives have item features of about the same day.
        learning_rate, decay: Of Adam; the rate is multiplied by `decay` after each epoch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain.
    """

    dimension: int = 64
    hidden: int = 128
    dropout: float = 0.5
    history_length: int = 20
    temperature: float = 0.1
    history_dropout: float = 0.3
    id_dropout: float = 0.05
    batch: int = 512
    uniform: int = 128
    neighbourhood: int = 4096
    learning_rate: float = 0.01
    decay: float = 0.75
    epochs: int = 12
    patience: int = 3


class QueryEncoder(nn.Module):
    """User inputs by name to unit vectors [B, dimension]."""

    def __init__(self, items: nn.Embedding, history: Input | None, features: SideFeatures, config: TwoTowerConfig):
        super().__init__()
        self.items = items
        self.history = history
        self.features = features
        self.history_dropout = config.history_dropout
        d = config.dimension
        entry = features.width + (d if history is not None else 0)
        self.tower = _tower(entry, config)

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, d]. A user without history and features gets the vector of the defaults."""
        parts = [self.features(inputs)] if self.features.width else []
        if self.history is None:
            return functional.normalize(self.tower(torch.cat(parts, -1)), dim=-1)
        rows = inputs[self.history.name]  # [B, L]
        mask = rows != 0
        if self.training and self.history_dropout:
            mask = mask & (torch.rand(rows.shape) >= self.history_dropout)
        liked = masked_mean(self.items(rows), mask)  # [B, d]
        return functional.normalize(liked + self.tower(torch.cat([liked, *parts], -1)), dim=-1)


class ItemEncoder(nn.Module):
    """Item inputs by name to unit vectors [B, dimension]: the id's own vector plus what the content says."""

    def __init__(self, items: nn.Embedding, item_id: Input, features: SideFeatures, config: TwoTowerConfig) -> None:
        super().__init__()
        self.items = items
        self.item_id = item_id
        self.features = features
        self.id_dropout = config.id_dropout
        d = config.dimension
        self.tower: nn.Module | None = None
        if features.width:
            self.tower = _tower(features.width, config)
        # What an item without known id and content gets: never the zero vector.
        self.bias = nn.Parameter(torch.full((d,), 0.01))

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, d]. An unknown id is row 0, the zero vector: the content alone decides."""
        rows = inputs[self.item_id.name]
        if self.training and self.id_dropout:
            rows = rows * (torch.rand(rows.shape) >= self.id_dropout)
        vectors = self.items(rows) + self.bias
        if self.tower is not None:
            vectors = vectors + self.tower(self.features(inputs))
        return functional.normalize(vectors, dim=-1)


def _tower(width: int, config: TwoTowerConfig) -> nn.Sequential:
    hidden = nn.Linear(width, config.hidden)
    return nn.Sequential(hidden, nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(config.hidden, config.dimension))


def build_two_tower(
    query: tuple[Input, ...],
    item: tuple[Input, ...],
    sizes: Mapping[str, int],
    knots: Knots,
    history: str | None,
    config: TwoTowerConfig,
) -> dict[Role, nn.Module]:
    """Both encoders, which share one table of items.

    Args:
        query, item: The inputs of each; the first of `item` is the item's id.
        sizes: Rows by vocabulary file.
        knots: See `Inputs.knots`.
        history: Name of the query's input with the history, if there is one.
        config: Hyperparameters.

    Raises:
        InvalidSettings: the query has no input at all.
    """
    if not query:
        raise InvalidSettings("the query encoder has no inputs; its feature service needs features", field="query")
    item_id = item[0]
    assert item_id.vocabulary is not None
    items = table(sizes[item_id.vocabulary], config.dimension)
    past = next((spec for spec in query if spec.name == history), None)
    shared = {item_id.vocabulary: items}
    users = SideFeatures([s for s in query if s is not past], sizes, knots, shared)
    content = SideFeatures(item[1:], sizes, knots, shared)
    return {
        Role.QUERY_ENCODER: QueryEncoder(items, past, users, config),
        Role.ITEM_ENCODER: ItemEncoder(items, item_id, content, config),
    }


def log_sampling_probability(counts: Tensor, batch: int, uniform: int) -> Tensor:
    """log of the probability with which each item stands in a column of the batch.

    A column is one of `batch` likes, drawn as likes are, or one of `uniform` items drawn evenly.

    Args:
        counts: [I] training likes of each item.
        batch, uniform: Columns of each kind.

    Returns:
        [I]; floored at the probability of an item with a thousandth of a like.
    """
    liked = counts.to(torch.float64).clamp(min=1e-3) / counts.sum()
    mixed = (batch * liked + uniform / len(counts)) / (batch + uniform)
    return mixed.log().to(torch.float32)


def in_batch_loss(
    queries: Tensor, vectors: Tensor, liked: Tensor, columns: Tensor, log_q: Tensor, temperature: float
) -> Tensor:
    """Mean softmax cross-entropy of each query's liked item among all columns, corrected for how they were drawn.

    logit(i, j) = q_i . v_j / temperature - log_q(j). An accidental hit, the liked item of i in a column other
    than its own, is no negative and is left out.

    Args:
        queries: [B, d].
        vectors: [C, d], C >= B; column i < B holds the liked item of query i.
        liked: [B] item of each query.
        columns: [C] item of each column.
        log_q: [C] logarithm of each column's sampling probability.
        temperature: Above 0.
    """
    logits = queries @ vectors.T / temperature - log_q
    own = torch.arange(len(queries))
    accidental = liked.unsqueeze(1) == columns.unsqueeze(0)  # [B, C]
    accidental[own, own] = False
    return functional.cross_entropy(logits.masked_fill(accidental, -torch.inf), own)


def split_sides(inputs: Inputs) -> tuple[tuple[Input, ...], tuple[Input, ...]]:
    """The inputs of the query encoder and of the item encoder."""
    return inputs.of(Side.USER, Side.CONTEXT), inputs.of(Side.ITEM)
