"""Deep autoencoder for ratings: DeepRecommender (Kuchaiev and Ginsburg 2017), and AutoRec (Sedhain et al. 2015) as its
shallow case.

It reads what a user rated and says how the user would rate everything. What nobody rated is missing, not zero: the loss
is over observed ratings only.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.retrieval.bags import (
    Activation,
    AutoencoderQuery,
    Bag,
    Batch,
    activation,
    batches,
    blocks,
    distinct,
    item_vectors,
    with_one,
)
from feast_recsys.models.retrieval.encoders import Encoders, ItemVectors
from feast_recsys.models.training.loop import Course, Report, Run, train_epochs
from feast_recsys.models.training.seeds import seeded

Centring = Literal["none", "global", "user", "baseline"]


@dataclass(frozen=True)
class DeepAutoencoderConfig:
    """Hyperparameters. The defaults were chosen on validation ratings of MovieLens 100K.

    Attributes:
        layers: Widths from the first hidden layer to the code; the decoder mirrors them.
        activation: After each of these layers, on the way in and out.
        activate_last: Whether predicted ratings go through it, too.
        tied: Whether the decoder's weights are the encoder's transposed.
        refeeding: Whether each batch is followed by a second update on the network's own dense output, which should be
            its fixed point.
        centring: What is taken off the ratings: nothing, the mean of all, the user's mean, or the user's and the item's
            (baseline). The output is then what remains, with the item's part in its bias.
        damping: Ratings of average value that each user's and item's mean begins with.
        input_dropout, code_dropout: Share of the user's ratings and of the code hidden in each training step.
        learning_rate, weight_decay: Of AdamW; the decay spares the biases.
        batch: Users in a batch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain, 0 never.
    """

    layers: tuple[int, ...] = (256, 128, 256)
    activation: Activation = "elu"
    activate_last: bool = False
    tied: bool = False
    refeeding: bool = False
    centring: Centring = "baseline"
    damping: float = 10.0
    input_dropout: float = 0.7
    code_dropout: float = 0.8
    learning_rate: float = 1e-3
    weight_decay: float = 3.0
    batch: int = 64
    epochs: int = 40
    patience: int = 10


class Mirror(nn.Module):
    """The hidden layers of the decoder: the encoder's in reverse.

    Args:
        encoder: Its layers behind the first.
        tied: Whether to use their weights instead of weights of one's own.
    """

    def __init__(self, encoder: list[nn.Linear], tied: bool) -> None:
        super().__init__()
        self.biases = nn.ParameterList(torch.zeros(layer.in_features) for layer in reversed(encoder))
        shapes = [] if tied else [(layer.in_features, layer.out_features) for layer in reversed(encoder)]
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(shape)) for shape in shapes)

    def forward(self, x: Tensor, encoder: list[nn.Linear], act: nn.Module) -> Tensor:
        """[B, code] to [B, first width]."""
        for n, layer in enumerate(reversed(encoder)):
            weight = self.weights[n] if len(self.weights) else layer.weight.t()
            x = act(functional.linear(x, weight, self.biases[n]))
        return x


class DeepAutoencoderQuery(AutoencoderQuery):
    """History and ratings to the last hidden layer of the decoder, and a 1. What is served ranks as predictions do:
    the user's mean is the same for all items, and the last activation rises."""

    takes_ratings = True
    middle: Tensor
    offsets: Tensor
    scale: Tensor

    def __init__(self, items: int, config: DeepAutoencoderConfig) -> None:
        super().__init__()
        if not config.layers:
            raise InvalidSettings("layers needs at least one width", field="layers")
        self.by_user = config.centring in ("user", "baseline")
        self.damping = config.damping
        self.input_dropout = config.input_dropout
        self.register_buffer("middle", torch.zeros(()))
        self.register_buffer("offsets", torch.zeros(items + 1))  # of items from the middle, by row
        self.register_buffer("scale", torch.tensor([1.0, 5.0]))
        self.bag = Bag(items, config.layers[0])
        self.act = activation(config.activation)
        self.last_act = activation(config.activation if config.activate_last else "identity")
        pairs = itertools.pairwise(config.layers)
        self.encoder = nn.ModuleList(nn.Linear(before, after) for before, after in pairs)
        for layer in self._encoder:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.code_dropout = nn.Dropout(config.code_dropout)
        self.decoder = Mirror(self._encoder, config.tied)

    @property
    def _encoder(self) -> list[nn.Linear]:
        return [layer for layer in self.encoder if isinstance(layer, nn.Linear)]

    def centre(self, history: Tensor, ratings: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What is taken off the ratings of each user, [B, 1], and what remains as entries: [B, L] rows and values."""
        if ratings is None:
            raise InvalidArgument("this encoder needs the ratings beside the history", field="ratings")
        rows, kept, places = distinct(history)
        # Whatever comes counts as the nearest rating there is. A rating of 0 is a missing one; so is each that a list
        # shorter than the history lacks.
        given = torch.cat([ratings, torch.zeros_like(history, dtype=ratings.dtype)], dim=1).gather(1, places)
        counts = (kept & (given != 0)).to(torch.float32)
        values = counts * (given.clamp(self.scale[0], self.scale[1]) - self.middle - self.offsets[rows])
        if not self.by_user:
            return self.middle.expand(len(rows), 1), rows, values
        means = values.sum(1, keepdim=True) / (counts.sum(1, keepdim=True) + self.damping).clamp(min=1.0)
        return self.middle + means, rows, values - counts * means

    def code(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """See AutoencoderQuery.code."""
        _, rows, values = self.centre(history, ratings)
        return self._encode(self.bag(rows, values))

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, first width + 1]; see HistoryEncoder.forward. Of an item that comes twice the first rating counts."""
        return with_one(self.decode(self.code(history, ratings)))

    def ragged(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """For training, with dropout: [B, first width] the last hidden layer, and [B] what was taken off."""
        assert batch.ratings is not None
        values = batch.ratings - self.middle - self.offsets[batch.rows]
        taken = self.middle.expand(len(batch))
        if self.by_user:
            sums = torch.zeros_like(batch.counts).index_add(0, batch.users, values)
            means = sums / (batch.counts + self.damping).clamp(min=1.0)
            values, taken = values - means[batch.users], taken + means
        values = functional.dropout(values, self.input_dropout, self.training)
        return self.decode(self._encode(self.bag.ragged(batch.rows, batch.offsets, values))), taken

    def dense(self, outputs: Tensor) -> Tensor:
        """For re-feeding: [B, n] outputs to [B, first width]."""
        return self.decode(self._encode(self.bag.dense(outputs - self.offsets[1:])))

    def decode(self, code: Tensor) -> Tensor:
        """[B, code] to [B, first width]."""
        decoded: Tensor = self.decoder(self.code_dropout(code), self._encoder, self.act)
        return decoded

    def _encode(self, first: Tensor) -> Tensor:
        x: Tensor = self.act(first)
        for layer in self._encoder:
            x = self.act(layer(x))
        return x


def build_deep_autoencoder(items: int, config: DeepAutoencoderConfig) -> Encoders:
    """An untrained autoencoder for a catalogue of `items`.

    Raises:
        InvalidSettings: the config has no layer.
    """
    query = DeepAutoencoderQuery(items, config)
    return Encoders(query.eval(), ItemVectors(items, config.layers[0] + 1).eval())


def fit_deep_autoencoder(
    histories: Histories,
    config: DeepAutoencoderConfig,
    run: Run,
    *,
    validate: Callable[[Encoders], float] | None = None,
    epochs: int | None = None,
) -> tuple[Encoders, Course]:
    """Trains an autoencoder of ratings.

    Args:
        histories: With ratings, none of them 0; users without any teach nothing.
        config: Hyperparameters.
        run: How.
        validate: Higher is better; decides which epoch is kept.
        epochs: Instead of the config's.

    Raises:
        InvalidSettings: there are no ratings, or some are 0, which stands for missing.
    """
    ratings = histories.ratings
    if ratings is None or not len(ratings):
        raise InvalidSettings("an autoencoder of ratings needs ratings to train on", field="ratings")
    if not np.all(np.isfinite(ratings)) or np.any(ratings == 0):
        raise InvalidSettings("ratings must be finite and not 0, which stands for a missing one", field="ratings")
    with seeded(run.seed):
        query = DeepAutoencoderQuery(histories.catalogue, config)
        last = nn.Linear(config.layers[0], histories.catalogue)
        nn.init.xavier_uniform_(last.weight)
    _start(query, last, histories, ratings, config)
    if config.tied:
        del last.weight
    module = nn.ModuleDict({"query": query, "last": last}).to(run.device)
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    updates = run.updates(module, optimizer)

    def last_weight() -> Tensor:
        return query.bag.table.weight[1:] if config.tied else last.weight

    def output(hidden: Tensor) -> Tensor:
        activated: Tensor = query.last_act(functional.linear(hidden, last_weight(), last.bias))
        return activated.float()

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        total, made = batches(histories, config.batch, random, run.device)
        squares, count = torch.zeros((), device=run.device), 0
        for n, batch in enumerate(made):
            assert batch.ratings is not None
            with run.autocast():
                hidden, taken = query.ragged(batch)
                outputs = output(hidden)
                errors = outputs[batch.users, batch.rows - 1] + taken[batch.users] - batch.ratings
                loss = errors.square().mean()
            updates(loss)
            if config.refeeding:
                fed = outputs.detach()
                with run.autocast():
                    again = (output(query.dense(fed)) - fed).square().mean()
                updates(again)
            squares += loss.detach() * len(errors)
            count += len(errors)
            report(n + 1, total, loss=loss.detach(), examples=len(batch))
        return float(squares) / count

    def encoders() -> Encoders:
        served = query if run.device.type == "cpu" else copy.deepcopy(query).cpu()
        return Encoders(served.eval(), item_vectors(last_weight(), last.bias))

    course = train_epochs(
        module,
        {"optimizer": optimizer, "updates": updates},
        step,
        run,
        epochs=config.epochs if epochs is None else epochs,
        patience=config.patience,
        validate=None if validate is None else lambda: validate(encoders()),
    )
    return encoders(), course


@torch.no_grad()
def predict(encoders: Encoders, histories: Histories, users: npt.ArrayLike, items: npt.ArrayLike) -> Floats:
    """Predicted ratings, within the scale of the training ratings.

    Args:
        encoders: Of a deep autoencoder.
        histories: What the users rated.
        users, items: [m] user and catalogue position of each wanted rating.

    Returns:
        [m] float32.

    Raises:
        InvalidArgument: the encoders are of another family, or the histories have no ratings.
    """
    query = encoders.query
    if not isinstance(query, DeepAutoencoderQuery):
        raise InvalidArgument("only deep autoencoders predict ratings", field="encoders")
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    vectors = encoders.item(torch.arange(1, histories.catalogue + 1))
    found = np.empty(len(users), np.float32)
    place = np.full(len(histories), -1, np.int64)
    for chosen in blocks(histories):
        place[chosen] = np.arange(len(chosen))
        wanted = np.flatnonzero(place[users] >= 0)
        rows, ratings = histories.padded(chosen)
        given = (torch.from_numpy(rows), None if ratings is None else torch.from_numpy(ratings))
        outputs = query.last_act(query(*given) @ vectors.T) + query.centre(*given)[0]
        found[wanted] = outputs.clamp(query.scale[0], query.scale[1]).numpy()[place[users[wanted]], items[wanted]]
        place[chosen] = -1
    return found


def _start(
    query: DeepAutoencoderQuery,
    last: nn.Linear,
    histories: Histories,
    ratings: Floats,
    config: DeepAutoencoderConfig,
) -> None:
    """What is known before the first step: the scale, the means, and what an item's output is on average."""
    middle = 0.0 if config.centring == "none" else float(ratings.mean())
    offsets = np.zeros(histories.catalogue + 1, np.float32)
    if config.centring == "baseline":
        sums = np.bincount(histories.items, ratings - middle, histories.catalogue)
        counts = np.bincount(histories.items, minlength=histories.catalogue)
        offsets[1:] = sums / np.maximum(counts + config.damping, 1.0)
    with torch.no_grad():
        query.scale.copy_(torch.tensor([ratings.min(), ratings.max()]))
        query.middle.fill_(middle)
        query.offsets.copy_(torch.from_numpy(offsets))
        last.bias.copy_(torch.from_numpy(offsets[1:]))
