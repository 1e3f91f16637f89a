"""The two-tower retrieval model: two encoders whose vectors meet in a dot product.

After Yi et al. (RecSys 2019): unit vectors divided by a temperature, a softmax over the batch with the logarithm of
each item's sampling probability taken off, mixed with uniform negatives (Yang et al. 2020). Without hidden layers and
features it is the candidate model of Covington et al. (2016) at depth 0, "YoutubeDNN" in benchmarks: the mean of the
history's vectors against the same table of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Role, Side
from feast_recsys.models.inputs.fitter import Inputs
from feast_recsys.models.inputs.layers import Knots, SideFeatures, masked_mean, table
from feast_recsys.models.two_tower.negatives import Correction


@dataclass(frozen=True)
class TwoTowerConfig:
    """Hyperparameters. The defaults were chosen on the validation part of MovieLens 100K.

    Attributes:
        dimension: Width of the vectors.
        hidden: Width of the hidden layer of each tower; 0 for no layer: features enter linearly, and a side without
            features is the table's vectors and nothing else.
        dropout: After it.
        history_length: Latest items of the history that count. Short, because the latest tell most.
        temperature: What dot products are divided by in the loss.
        history_dropout: Share of the history left out in each training step.
        id_dropout: Share of items whose id is hidden in each training step, so that their content has to do.
        batch: Likes in a batch.
        uniform: Negatives drawn evenly from the catalogue, shared by the batch.
        neighbourhood: Batches hold likes of neighbouring moments, as many likes apart as this, so that positives
            and negatives have item features of about the same day.
        learning_rate, decay: Of Adam; the rate is multiplied by `decay` after each epoch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain.
        normalize: Whether vectors have unit length. Where they don't, popular items may grow long.
        in_batch: Whether the liked items of the batch are negatives of its other queries.
        popular: Negatives drawn as often as they are liked, shared by the batch.
        correction: Whether logits are corrected for how negatives are drawn (logQ): "all" takes the target as one of
            the drawn, "negatives" leaves its logit alone, "none" corrects nothing. See `negatives.sampled_softmax`.
        targets: From histories without moments: a user's items are dealt into groups of this many, and each group is
            asked for given all others.
        hard: Hard negatives of each query beside the shared ones; 0 for none.
        hard_pool, hard_skip: They are drawn from the items that the model ranks best among those that the user does
            not have: from so many, after leaving out the first so many.
        hard_every: They are mined again after so many epochs, the first time after the first so many.
        bias: Whether each item has a number of its own that is added to its logits: how liked it is by everybody, so
            that its vector need not say so. It is the last column of the vectors, which are one wider then.
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
    normalize: bool = True
    in_batch: bool = True
    popular: int = 0
    correction: Correction = "all"
    targets: int = 1
    hard: int = 0
    hard_pool: int = 50
    hard_skip: int = 0
    hard_every: int = 3
    bias: bool = False

    def __post_init__(self) -> None:
        if not (self.in_batch or self.uniform or self.popular or self.hard):
            raise InvalidSettings("there are no negatives; set in_batch, uniform or popular", field="in_batch")
        if not self.temperature > 0:
            raise InvalidSettings(f"temperature must be above 0, not {self.temperature}", field="temperature")
        if self.correction not in ("none", "negatives", "all"):
            raise InvalidSettings(
                f"correction must be 'none', 'negatives' or 'all', not {self.correction!r}", field="correction"
            )
        if self.hard and not 1 <= self.hard <= self.hard_pool:
            raise InvalidSettings(f"hard must lie in 0..hard_pool ({self.hard_pool}), not {self.hard}", field="hard")
        for name in ("batch", "targets", "hard_every"):
            if getattr(self, name) < 1:
                raise InvalidSettings(f"{name} must be at least 1, not {getattr(self, name)}", field=name)

    @property
    def width(self) -> int:
        """Of the vectors: `dimension`, and a last column for the bias if there is one."""
        return self.dimension + self.bias


class QueryEncoder(nn.Module):
    """User inputs by name to vectors [B, width], of unit length if the config says so; a bias meets a last 1."""

    def __init__(self, items: nn.Embedding, history: Input | None, features: SideFeatures, config: TwoTowerConfig):
        super().__init__()
        self.items = items
        self.history = history
        self.features = features
        self.history_dropout = config.history_dropout
        self.unit = config.normalize
        self.meets_bias = config.bias
        d = config.dimension
        entry = features.width + (d if history is not None and config.hidden else 0)
        self.tower = _tower(entry, config)
        # Without a tower nothing else could say what to show to a user without history: one more item, which
        # stands in front of every history.
        self.start = None if self.tower is not None else nn.Parameter(torch.full((d,), 0.01))

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, width]. A user without history and features gets the vector of the defaults."""
        if self.history is None:
            return self._query(None, inputs)
        rows = inputs[self.history.name]  # [B, L]
        mask = rows != 0
        if self.training and self.history_dropout:
            mask = mask & (torch.rand(rows.shape, device=rows.device) >= self.history_dropout)
        liked = masked_mean(self.items(rows), mask)  # [B, d]
        return self._query(self._started(liked, mask.sum(-1)), inputs)

    def of_sums(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The same from [B, d] sums of the vectors of [B] items each, for training on histories alone."""
        liked = sums / counts.clamp(min=1).to(sums.dtype).unsqueeze(-1)
        return self._query(self._started(liked, counts), {})

    def _started(self, liked: Tensor, counts: Tensor) -> Tensor:
        if self.start is None:
            return liked
        share = 1 / (counts.to(liked.dtype).unsqueeze(-1) + 1)
        return liked + share * (self.start - liked)

    def _query(self, liked: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.features(inputs)] if self.features.width else []
        if self.tower is None:
            assert liked is not None
            vector = liked
        elif liked is None:
            vector = self.tower(torch.cat(parts, -1))
        else:
            entry = [liked, *parts] if isinstance(self.tower, nn.Sequential) else parts
            vector = liked + self.tower(torch.cat(entry, -1))
        vector = functional.normalize(vector, dim=-1) if self.unit else vector
        return torch.cat([vector, torch.ones_like(vector[:, :1])], -1) if self.meets_bias else vector


class ItemEncoder(nn.Module):
    """Item inputs by name to vectors [B, width]: the id's own vector plus what the content says, and the id's bias."""

    def __init__(self, items: nn.Embedding, item_id: Input, features: SideFeatures, config: TwoTowerConfig) -> None:
        super().__init__()
        self.items = items
        self.item_id = item_id
        self.features = features
        self.id_dropout = config.id_dropout
        self.unit = config.normalize
        d = config.dimension
        self.tower = _tower(features.width, config)
        # What an item without known id and content gets: never the zero vector.
        self.bias = nn.Parameter(torch.full((d,), 0.01))
        self.biases: nn.Embedding | None = None
        self.temperature = config.temperature
        if config.bias:
            self.biases = nn.Embedding(items.num_embeddings, 1)
            nn.init.zeros_(self.biases.weight)

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, width]. An unknown id is row 0, the zero vector: the content alone decides."""
        rows = inputs[self.item_id.name]
        if self.training and self.id_dropout:
            rows = rows * (torch.rand(rows.shape, device=rows.device) >= self.id_dropout)
        vectors = self.items(rows)
        if self.tower is not None:
            vectors = vectors + self.bias + self.tower(self.features(inputs))
        else:
            vectors = vectors + self.bias * (rows == 0).unsqueeze(-1)
        vectors = functional.normalize(vectors, dim=-1) if self.unit else vectors
        if self.biases is None:
            return vectors
        # The loss divides products by the temperature. A bias is a logit: its step must not shrink with it.
        return torch.cat([vectors, self.temperature * self.biases(rows)], -1)

    @torch.no_grad()
    def settle(self) -> None:
        """After training: an unknown item, whose bias nothing taught if ids are never hidden, has the least one."""
        if self.biases is not None and not self.id_dropout:
            weight = self.biases.weight
            weight[0] = weight[1:].min() if len(weight) > 1 else 0.0


def _tower(width: int, config: TwoTowerConfig) -> nn.Sequential | nn.Linear | None:
    """A hidden layer, or none: then one linear map, or nothing where nothing enters."""
    if not width:
        return None
    if not config.hidden:
        return nn.Linear(width, config.dimension)
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


def build_ids_two_tower(items: int, config: TwoTowerConfig) -> dict[Role, nn.Module]:
    """Both encoders for histories and ids alone, with inputs `history` [B, L] and `item` [B].

    Args:
        items: n. Both inputs are rows of the item table, 1 to n; 0 is no item, or an unknown one.
        config: Hyperparameters; with `hidden` 0 this is YoutubeDNN of the benchmarks.
    """
    rows = "item.json"
    history = Input("history", "user:history", Side.USER, DType.INT64, config.history_length, 0, 0, vocabulary=rows)
    item = Input("item", "entity:item", Side.ITEM, DType.INT64, default=0, vocabulary=rows)
    return build_two_tower((history,), (item,), {rows: items + 1}, {}, "history", config)


def split_sides(inputs: Inputs) -> tuple[tuple[Input, ...], tuple[Input, ...]]:
    """The inputs of the query encoder and of the item encoder."""
    return inputs.of(Side.USER, Side.CONTEXT), inputs.of(Side.ITEM)
