"""A transformer over what a user liked, and a tower for items that shares its table.

After Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), with distances instead of positions
(Shaw et al. 2018), so that a state means the same wherever in the list it stands.

Nothing here knows of feast-recsys but two things: `forward()` takes inputs by the names of the signature, and where the
signature names a vocabulary they are row numbers, of which 0 is padding or an unknown key.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Sizes of everything.

    Attributes:
        items: Rows of the table of items, row 0 included.
        genres: Rows of the table of genres, row 0 included.
        length: Longest history.
        width: Width of vectors and layers.
        heads: Attention heads; they divide `width`.
        layers: Transformer layers.
        dropout: Of attention's and layers' outputs, in training.
    """

    items: int
    genres: int
    length: int = 50
    width: int = 64
    heads: int = 2
    layers: int = 2
    dropout: float = 0.2


class Attention(nn.Module):
    """Self-attention in which a bias for each head says how much a distance in the list counts."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.heads = config.heads
        self.project = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.distance = nn.Parameter(torch.zeros(config.heads, config.length + 1))

    def forward(self, x: Tensor, visible: Tensor, distances: Tensor) -> Tensor:
        """[B, T, d] to the same; visible [B, T, T] bool, distances [T, T] int64."""
        batch, length, width = x.shape
        q, k, v = self.project(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads) + self.distance[:, distances]
        weights = torch.softmax(logits.masked_fill(~visible.unsqueeze(1), -math.inf), dim=-1)
        out: Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return out


class Layer(nn.Module):
    """Attention and two linear maps, each behind a LayerNorm and beside a path of its own."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.before, self.between = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, visible: Tensor, distances: Tensor) -> Tensor:
        """As `Attention.forward`."""
        x = x + self.dropout(self.attention(self.before(x), visible, distances))
        x = x + self.dropout(self.mlp(self.between(x)))
        return x


class QueryEncoder(nn.Module):
    """A history, most recent first and padded at its end, to one unit vector."""

    def __init__(self, config: Config, items: nn.Embedding) -> None:
        super().__init__()
        self.length, self.items = config.length, items
        self.start = nn.Parameter(torch.randn(config.width) / math.sqrt(config.width))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, history: Tensor) -> Tensor:
        """[B, L] rows to [B, d], L from 1 to `length`."""
        return self.states(history)[:, 0]

    def states(self, history: Tensor) -> Tensor:
        """[B, L, d]: state t knows `history[:, t:]` only, as the user was before they liked what comes at t - 1.

        That makes every place of a list an example in training; serving wants the first alone.
        """
        batch, length = history.shape
        # A token of its own is older than all others, and never masked: a softmax over nothing would be NaN.
        start = self.start.expand(batch, 1, -1)
        x = self.dropout(torch.cat([self.items(history), start], dim=1))
        at = torch.arange(length + 1)
        is_start = at == length
        # Its distance has a number of its own, so that padding between it and the list changes nothing.
        apart = (at.unsqueeze(0) - at.unsqueeze(1)).clamp(0, self.length - 1)
        distances = torch.where(is_start.unsqueeze(0), self.length, apart)
        older = at.unsqueeze(0) >= at.unsqueeze(1)
        known = torch.cat([history != 0, torch.ones(batch, 1, dtype=torch.bool)], dim=1)
        visible = older.unsqueeze(0) & known.unsqueeze(1)
        for layer in self.layers:
            x = layer(x, visible, distances)
        return functional.normalize(self.norm(x[:, :length]), dim=-1)


class ItemTower(nn.Module):
    """An item's row and genres to a unit vector. A new item has no row, and stands where its genres say."""

    def __init__(self, config: Config, items: nn.Embedding) -> None:
        super().__init__()
        self.items, self.genres = items, nn.Embedding(config.genres, config.width, padding_idx=0)
        self.base = nn.Parameter(torch.randn(config.width) / config.width)
        nn.init.normal_(self.genres.weight[1:], std=1 / config.width)

    def forward(self, item: Tensor, genres: Tensor) -> Tensor:
        """[B] and [B, G] rows to [B, d]."""
        count = (genres != 0).sum(1, keepdim=True).clamp(min=1)
        vector = self.items(item) + self.genres(genres).sum(1) / count + self.base
        return functional.normalize(vector, dim=-1)


def build(config: Config) -> nn.ModuleDict:
    """Both encoders, untrained, by their roles."""
    items = nn.Embedding(config.items, config.width, padding_idx=0)
    nn.init.normal_(items.weight[1:], std=1 / math.sqrt(config.width))
    return nn.ModuleDict({"query_encoder": QueryEncoder(config, items), "item_encoder": ItemTower(config, items)})


def save(encoders: nn.ModuleDict, config: Config, folder: Path) -> None:
    """Writes sizes and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")
    save_model(encoders, str(folder / "weights.safetensors"))


def load(folder: Path = Path("build")) -> nn.ModuleDict:
    """What `feast-recsys export --module model:load` calls: the trained encoders."""
    encoders = build(Config(**json.loads((folder / "config.json").read_text(encoding="utf-8"))))
    load_model(encoders, str(folder / "weights.safetensors"))
    return encoders.eval()
