"""Item vectors from what an item is made of, its sound or any numbers, for items that nobody has had yet.

After van den Oord, Dieleman and Schrauwen (NIPS 2013), with the time-convolution network of Dieleman's post
"Recommending music on Spotify with deep learning" (2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.collaborative.shared import tail
from feast_recsys.models.inputs.layers import masked_mean
from feast_recsys.models.retrieval.encoders import HistoryEncoder

_LOUDEST = 100.0  # log-mel bands above the floor; real ones stay below 40
_TAME = 10.0  # deviations that count of a number that no training item had
_EPS = 1e-6
_ROOT = 1e-10  # keeps the slope of a root finite at silence
_BELOW = 2.0  # unit vectors' products lie in [-1, 1]
_AFTER = 1.0  # deviations by which what nobody has had comes after what somebody has, for users without history


@dataclass(frozen=True)
class Convolutions:
    """Shape of the time-convolution network. The defaults are the published sizes, 9,393,704 parameters.

    Attributes:
        mels: Bands, which are the channels of the first convolution.
        frames: Of a window.
        windows: Of an item; its vector is their mean.
        widths: Channels of each convolution.
        kernel: Frames under a filter.
        pools: Max-pooling behind each convolution but the last.
        dense: Widths of the hidden layers.
        dropout: After each of them. The published rate is not known.
        dimension: d, of the unit vectors.
        popularity: Whether one more output predicts how popular the item is.
    """

    mels: int = 128
    frames: int = 599
    windows: int = 1
    widths: tuple[int, ...] = (256, 256, 512, 512)
    kernel: int = 4
    pools: tuple[int, ...] = (4, 2, 2)
    dense: tuple[int, ...] = (2048, 2048)
    dropout: float = 0.5
    dimension: int = 40
    popularity: bool = False

    def __post_init__(self) -> None:
        sizes = (self.mels, self.frames, self.windows, self.kernel, self.dimension)
        if min(*sizes, *self.widths, *self.pools, *self.dense) < 1 or not self.widths:
            raise InvalidSettings("all sizes must be at least 1, and there must be a convolution", field="widths")
        if len(self.pools) != len(self.widths) - 1:
            raise InvalidSettings(
                f"{len(self.widths)} convolutions have {len(self.widths) - 1} pools between them, not "
                f"{len(self.pools)}",
                field="pools",
            )
        left = self.frames
        for pool in (*self.pools, 1):
            left = (left - self.kernel + 1) // pool
            if left < 1:
                raise InvalidSettings(
                    f"{self.frames} frames are too few for these convolutions; take more frames or smaller pools",
                    field="frames",
                )


@dataclass(frozen=True)
class Layers:
    """Shape of the network for numbers.

    Attributes:
        numbers: Of an item.
        hidden: Widths of the hidden layers; none for a linear map.
        dropout: After each of them.
        dimension, popularity: As in `Convolutions`.
    """

    numbers: int
    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.3
    dimension: int = 40
    popularity: bool = False

    def __post_init__(self) -> None:
        if min(self.numbers, self.dimension, *self.hidden) < 1:
            raise InvalidSettings("all sizes must be at least 1", field="hidden")


class ContentTower(nn.Module):
    """An item's content to [B, d + 1]: a unit vector, and the predicted popularity or 0.

    The popularity is in standard deviations from the mean of the training items.

    Attributes:
        length: Numbers of an item.
        dimension: d.
        popularity: Whether it is predicted.
    """

    length: int
    dimension: int
    popularity: bool
    mean: Tensor
    scale: Tensor

    def forward(self, content: Tensor) -> Tensor:
        """[B, L] float32, L at most `length`, to [B, d + 1]. What is missing at the end counts as zeros."""
        raise NotImplementedError

    def pieces(self, content: Tensor) -> Tensor:
        """[B, ...] of what training looks at, one crop for instance, to [B, d + 1]."""
        raise NotImplementedError

    def standardize(self, mean: Tensor, scale: Tensor) -> None:
        """Sets what inputs are taken off and divided by; a number that never changes is divided by 1."""
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(scale > _EPS, scale, torch.ones_like(scale)))

    def _fill(self, content: Tensor) -> Tensor:
        return functional.pad(content, (0, self.length - content.shape[1]))

    def _finish(self, raw: Tensor) -> Tensor:
        """[B, d or d + 1] to [B, d + 1], where the column after d counts only if popularity is predicted."""
        unit = functional.normalize(raw[:, : self.dimension], dim=-1)
        last = raw[:, self.dimension :] if self.popularity else torch.zeros_like(unit[:, :1])
        return torch.cat([unit, last], -1)


class SoundTower(ContentTower):
    """Log-mel windows through convolutions over time, mean, max and L2 pooling, and dense layers (Dieleman 2014).

    The L2 pooling is the root of the mean square: the norm up to a constant, in the scale of the other two.
    """

    def __init__(self, shape: Convolutions) -> None:
        super().__init__()
        self.shape = shape
        self.length = shape.windows * shape.frames * shape.mels
        self.dimension, self.popularity = shape.dimension, shape.popularity
        self.register_buffer("mean", torch.zeros(shape.mels))
        self.register_buffer("scale", torch.ones(shape.mels))
        layers: list[nn.Module] = []
        width = shape.mels
        for n, channels in enumerate(shape.widths):
            layers += [nn.Conv1d(width, channels, shape.kernel), nn.ReLU()]
            layers += [nn.MaxPool1d(shape.pools[n])] if n < len(shape.pools) else []
            width = channels
        self.convolutions = nn.Sequential(*layers)
        self.dense = _dense(3 * width, shape.dense, shape.dropout, shape.dimension + shape.popularity)

    def forward(self, content: Tensor) -> Tensor:
        """See ContentTower; the list holds windows, their frames, and the bands of each."""
        shape = self.shape
        windows = self._fill(content).reshape(-1, shape.frames, shape.mels)  # [B * W, frames, mels]
        found = self.pieces(windows).reshape(-1, shape.windows, self.dimension + 1).mean(1)
        return self._finish(found)

    def pieces(self, content: Tensor) -> Tensor:
        """[B, frames, mels] to [B, d + 1]."""
        x = (content.clamp(0.0, _LOUDEST) - self.mean) / self.scale
        x = self.convolutions(x.transpose(1, 2))  # [B, channels, frames left]
        pooled = torch.cat([x.mean(-1), x.amax(-1), (x.square().mean(-1) + _ROOT).sqrt()], -1)
        return self._finish(self.dense(pooled))


class NumbersTower(ContentTower):
    """Descriptors, text embeddings or any other numbers of an item, standardised, through hidden layers."""

    def __init__(self, shape: Layers) -> None:
        super().__init__()
        self.shape = shape
        self.length, self.dimension, self.popularity = shape.numbers, shape.dimension, shape.popularity
        self.register_buffer("mean", torch.zeros(shape.numbers))
        self.register_buffer("scale", torch.ones(shape.numbers))
        self.dense = _dense(shape.numbers, shape.hidden, shape.dropout, shape.dimension + shape.popularity)

    def forward(self, content: Tensor) -> Tensor:
        """See ContentTower."""
        return self.pieces(self._fill(content))

    def pieces(self, content: Tensor) -> Tensor:
        """[B, numbers] to [B, d + 1]."""
        x = ((content - self.mean) / self.scale).clamp(-_TAME, _TAME)
        return self._finish(self.dense(x))


class WarmOrContent(nn.Module):
    """The item encoder for serving: usage factors for items with enough usage, content vectors for the others.

    The last two columns are the bias, popularity in standard deviations times `weight`, and popularity itself, which
    meets queries without history; see `FactorQuery`. Where the tower does not predict popularity, an item keeps that of
    its usage; one that is not in the table has the bias of the least popular item there, and comes after all of them
    for users without history. An item without usage and without content gets the vector zero, and a bias and a
    popularity below whatever a known item can score.

    Args:
        vectors: [n + 1, d + 1] by row of the item table: unit vectors with popularity. Row 0 is not looked at. Items
            that are not warm have what their content gave in training, for when it is not at hand.
        warm: [n + 1] bool: whose usage factor counts, whatever the content; False for row 0.
        tower: For the others.
        weight: What popularity counts for, beside a cosine; 0 leaves it out.
        zeros_are_none: Whether content of nothing but zeros is none: a sound file or a list that is not there. Not so
            where a number is among the content: a missing one has its default, and zero is a value.
    """

    vectors: Tensor
    warm: Tensor

    def __init__(
        self, vectors: Tensor, warm: Tensor, tower: ContentTower, weight: float, *, zeros_are_none: bool = True
    ) -> None:
        super().__init__()
        if vectors.shape[1] != tower.dimension + 1 or warm.shape != vectors.shape[:1]:
            raise InvalidSettings(
                f"vectors {list(vectors.shape)} and warm {list(warm.shape)} don't fit {tower.dimension} factors",
                field="vectors",
            )
        self.tower, self.zeros_are_none = tower, zeros_are_none
        known = vectors[1:, -1] if len(vectors) > 1 else vectors.new_zeros(1)
        self.least, self.most, self.weight = float(known.min()), float(known.max()), weight
        table = torch.cat([vectors[:, :-1], vectors[:, -1:] * weight, vectors[:, -1:]], -1)
        table[0] = 0.0
        table[0, -2] = min(self.least * weight, self.most * weight) - _BELOW
        table[0, -1] = self.least - 2 * _AFTER
        self.register_buffer("vectors", table)
        self.register_buffer("warm", warm.to(torch.bool))

    def forward(self, item: Tensor, content: Tensor) -> Tensor:
        """[B] int64 rows, 0 for an item not in the table, and [B, L] float32 content to [B, d + 2]."""
        stored = self.vectors[item]
        found = self.tower(content)
        if self.tower.popularity:
            popularity = found[:, -1:].clamp(self.least, self.most)
            bias = popularity * self.weight
        else:
            # Of the table's items usage tells; only row 0 lies below the least.
            popularity = stored[:, -1:].clamp(min=self.least - _AFTER)
            bias = stored[:, -1:].clamp(min=self.least) * self.weight
        heard = torch.cat([found[:, :-1], bias, popularity], -1)
        use = ~self.warm[item]
        if self.zeros_are_none:
            use = use & (content != 0).any(-1)
        return torch.where(use.unsqueeze(-1), heard, stored)


class FactorQuery(HistoryEncoder):
    """The query: the mean of the history's unit item vectors, of unit length again, with 1 and 0 for `WarmOrContent`.

    A user without known items gets zeros, and 0 and 1: popularity decides, whatever the bias counts for. So does one
    whose items have the vector zero.

    Args:
        vectors: [n + 1, d] unit vectors by row of the item table; row 0 is not looked at.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.clone())

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, d + 2]; see HistoryEncoder. Ratings are not used."""
        mean = masked_mean(self.vectors[history], history != 0)
        return torch.cat([functional.normalize(mean, dim=-1), tail(mean != 0)], -1)


def _dense(width: int, hidden: tuple[int, ...], dropout: float, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
