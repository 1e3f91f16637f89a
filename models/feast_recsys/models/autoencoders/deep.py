"""Deep autoencoder for ratings: DeepRecommender (Kuchaiev and Ginsburg 2017), and AutoRec (Sedhain et al. 2015) as its
shallow case.

It reads what a user rated and says how the user would rate everything. What nobody rated is missing, not zero: the loss
is over observed ratings only.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.autoencoders.bags import (
    Activation,
    AutoencoderQuery,
    Bag,
    Batch,
    activation,
    with_one,
)
from feast_recsys.models.retrieval.encoders import Encoders, ItemVectors, distinct

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
        normalise: Whether the input is divided by the root of the user's number of ratings, relative to an average
            user's, so that users with many do not drive the activations to their ends.
        presence: Whether a second table tells which items were rated, besides how: the implicit part of SVD++ (Koren
            2008), with its root of the number of ratings.
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
    normalise: bool = False
    presence: bool = False
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
    usual: Tensor

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
        self.normalise = config.normalise
        self.register_buffer("usual", torch.ones(()))  # ratings of an average user
        self.bag = Bag(items, config.layers[0])
        self.present = Bag(items, config.layers[0]) if config.presence else None
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

    def centre(self, history: Tensor, ratings: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is taken off the ratings of each user, [B, 1], and what remains as entries: [B, L] rows, values, and 1
        where there is a rating.
        """
        if ratings is None:
            raise InvalidArgument("this encoder needs the ratings beside the history", field="ratings")
        rows, kept, places = distinct(history)
        # Whatever comes counts as the nearest rating there is. A rating of 0 is a missing one; so is each that a list
        # shorter than the history lacks.
        given = torch.cat([ratings, torch.zeros_like(history, dtype=ratings.dtype)], dim=1).gather(1, places)
        counts = (kept & (given != 0)).to(torch.float32)
        values = counts * (given.clamp(self.scale[0], self.scale[1]) - self.middle - self.offsets[rows])
        if not self.by_user:
            return self.middle.expand(len(rows), 1), rows, values, counts
        means = values.sum(1, keepdim=True) / (counts.sum(1, keepdim=True) + self.damping).clamp(min=1.0)
        return self.middle + means, rows, values - counts * means, counts

    def code(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """See AutoencoderQuery.code."""
        _, rows, values, counts = self.centre(history, ratings)
        of_values, of_presence = self._factors(counts.sum(1, keepdim=True))
        first = self.bag(rows, values * of_values)
        if self.present is not None:
            first = first + self.present(rows, counts * of_presence)
        return self._encode(first)

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
        of_values, of_presence = self._factors(batch.counts)
        kept = functional.dropout(torch.ones_like(values), self.input_dropout, self.training)
        first = self.bag.ragged(batch.rows, batch.offsets, values * kept * of_values[batch.users])
        if self.present is not None:
            first = first + self.present.ragged(batch.rows, batch.offsets, kept * of_presence[batch.users])
        return self.decode(self._encode(first)), taken

    def dense(self, outputs: Tensor) -> Tensor:
        """For re-feeding: [B, n] outputs, as of users who rated everything, to [B, first width]."""
        counts = torch.full_like(outputs[:, :1], outputs.shape[1])
        of_values, of_presence = self._factors(counts)
        first = self.bag.dense((outputs - self.offsets[1:]) * of_values)
        if self.present is not None:
            first = first + self.present.dense(of_presence.expand_as(outputs))
        return self.decode(self._encode(first))

    def decode(self, code: Tensor) -> Tensor:
        """[B, code] to [B, first width]."""
        decoded: Tensor = self.decoder(self.code_dropout(code), self._encoder, self.act)
        return decoded

    def _factors(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """What values and presences are multiplied with, for users with so many ratings; shaped as `counts`."""
        inverse = (counts + self.damping).clamp(min=1.0).rsqrt()
        usual = (self.usual + self.damping).clamp(min=1.0).sqrt()
        return inverse * usual if self.normalise else torch.ones_like(inverse), inverse

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
