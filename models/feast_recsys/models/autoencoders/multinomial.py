"""Autoencoders for top-N recommendation: Mult-DAE and Mult-VAE (Liang et al., WWW 2018).

Both read what a user has as a row of zeros and ones of length 1, of which dropout hides a part, and give a probability
to each item of the catalogue; the loss is the multinomial likelihood of all that the user has.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.autoencoders.bags import (
    Activation,
    AutoencoderQuery,
    Bag,
    Batch,
    activation,
    with_one,
)
from feast_recsys.models.retrieval.encoders import Encoders, ItemVectors, distinct

Validate = Callable[[Encoders], float]


@dataclass(frozen=True)
class MultDaeConfig:
    """Hyperparameters. The defaults were chosen on the validation part of MovieLens 1M, ratings of five stars.

    Attributes:
        hidden: Widths of the encoder's layers before the code; the decoder has none of its own.
        latent: Width of the code.
        activation: After each layer but the last one.
        input_dropout: Share of the user's items hidden in each training step.
        code_dropout: Share of the code hidden in each training step.
        learning_rate, weight_decay: Of AdamW; the decay spares the biases.
        batch: Users in a batch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain, 0 never.
    """

    hidden: tuple[int, ...] = ()
    latent: int = 200
    activation: Activation = "tanh"
    input_dropout: float = 0.5
    code_dropout: float = 0.0
    learning_rate: float = 3e-3
    weight_decay: float = 0.0
    batch: int = 250
    epochs: int = 20
    patience: int = 5


@dataclass(frozen=True)
class MultVaeConfig:
    """Hyperparameters. The defaults were chosen on the validation part of MovieLens 1M, ratings of five stars.

    Attributes:
        hidden: Widths of the encoder's layers before the code, at least one.
        latent: Width of the code.
        mirrored: Whether the decoder has the encoder's layers in reverse; if not, it is linear.
        activation: After each hidden layer.
        input_dropout: Share of the user's items hidden in each training step.
        beta: Weight of the Kullback-Leibler term once it has grown to its cap.
        annealing: Updates until then; it grows linearly from 0.
        learning_rate, weight_decay: Of AdamW; the decay spares the biases.
        batch: Users in a batch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain, 0 never.
    """

    hidden: tuple[int, ...] = (400,)
    latent: int = 200
    mirrored: bool = False
    activation: Activation = "tanh"
    input_dropout: float = 0.5
    beta: float = 0.2
    annealing: int = 500
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    batch: int = 250
    epochs: int = 20
    patience: int = 5


class MultDaeQuery(AutoencoderQuery):
    """The encoder of a Mult-DAE: its code, and a 1."""

    def __init__(self, items: int, config: MultDaeConfig) -> None:
        super().__init__()
        self.input_dropout = config.input_dropout
        self.width = config.latent
        widths = (*config.hidden, config.latent)
        self.bag = Bag(items, widths[0])
        self.layers = nn.Sequential(activation(config.activation), *_layers(widths, config.activation))
        self.code_dropout = nn.Dropout(config.code_dropout)

    def code(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """See AutoencoderQuery.code; ratings don't matter."""
        code: Tensor = self.layers(self.bag(*unit_row(history)))
        return code

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, latent + 1]; see HistoryEncoder.forward. An item that comes twice counts once."""
        return with_one(self.code(history))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, latent] codes with dropout, and a penalty of 0: as training needs them."""
        code = self.code_dropout(self.layers(dropped_bag(self.bag, batch, self.input_dropout)))
        return code, code.new_zeros(())


class MultVaeQuery(AutoencoderQuery):
    """The encoder of a Mult-VAE with the hidden layers of its decoder, and a 1. In eval mode z is the mean."""

    def __init__(self, items: int, config: MultVaeConfig) -> None:
        super().__init__()
        if not config.hidden:
            raise InvalidSettings("hidden needs at least one width: a Mult-VAE has a hidden layer", field="hidden")
        self.input_dropout = config.input_dropout
        self.bag = Bag(items, config.hidden[0])
        self.layers = nn.Sequential(activation(config.activation), *_layers(config.hidden, config.activation))
        self.mean = nn.Linear(config.hidden[-1], config.latent)
        self.log_variance = nn.Linear(config.hidden[-1], config.latent)
        # Close to a variance of 1 for everybody at first.
        nn.init.normal_(self.log_variance.weight, std=1e-3)
        nn.init.zeros_(self.log_variance.bias)
        back = (config.latent, *reversed(config.hidden)) if config.mirrored else (config.latent,)
        self.decoder = nn.Sequential(*_layers(back, config.activation))
        self.width = back[-1]

    def code(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """See AutoencoderQuery.code; ratings don't matter."""
        mean: Tensor = self.mean(self.layers(self.bag(*unit_row(history))))
        return mean

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, width + 1]; see HistoryEncoder.forward. An item that comes twice counts once."""
        return with_one(self.decoder(self.code(history)))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """[B, width] the last hidden layer for a sampled z, and the mean Kullback-Leibler divergence from N(0, 1)."""
        hidden = self.layers(dropped_bag(self.bag, batch, self.input_dropout))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), divergence


def unit_row(history: Tensor) -> tuple[Tensor, Tensor]:
    """A history as the entries of a row of zeros and ones, scaled to length 1: [B, L] rows, [B, L] values."""
    rows, kept, _ = distinct(history)
    ones = kept.to(torch.float32)
    # An empty history is the zero row, which can't be scaled.
    return rows, ones * ones.sum(1, keepdim=True).clamp(min=1.0).rsqrt()


def dropped_bag(bag: Bag, batch: Batch, dropout: float) -> Tensor:
    """[B, h] the first layer of rows of length 1, some of whose entries are hidden."""
    values = batch.counts.rsqrt()[batch.users]
    return bag.ragged(batch.rows, batch.offsets, functional.dropout(values, dropout))


def build_mult_dae(items: int, config: MultDaeConfig) -> Encoders:
    """An untrained Mult-DAE for a catalogue of `items`."""
    query = MultDaeQuery(items, config)
    return Encoders(query.eval(), ItemVectors(items, query.width + 1).eval())


def build_mult_vae(items: int, config: MultVaeConfig) -> Encoders:
    """An untrained Mult-VAE for a catalogue of `items`.

    Raises:
        InvalidSettings: the config has no hidden layer.
    """
    query = MultVaeQuery(items, config)
    return Encoders(query.eval(), ItemVectors(items, query.width + 1).eval())


def _layers(widths: tuple[int, ...], name: Activation) -> list[nn.Module]:
    made: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layer = nn.Linear(before, after)
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
        made += [layer, activation(name)]
    return made
