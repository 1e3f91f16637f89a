"""What autoencoders share: a first layer that takes ids instead of a dense row, and a last one that is looked up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.retrieval.encoders import BLOCK, Encoders, HistoryEncoder, ItemVectors

Activation = Literal["tanh", "selu", "elu", "sigmoid", "identity"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh, "selu": nn.SELU, "elu": nn.ELU, "sigmoid": nn.Sigmoid, "identity": nn.Identity,
}  # fmt: skip


def activation(name: Activation) -> nn.Module:
    """The activation of that name."""
    return _ACTIVATIONS[name]()


class Bag(nn.Module):
    """Wx + b for an x that is given by the rows and values of its entries; W^T is kept by row.

    Args:
        items: n; row 0 stands for nothing and is zero.
        width: h.
    """

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, width, padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(width))
        with torch.no_grad():
            nn.init.xavier_uniform_(self.table.weight[1:])
            self.table.weight[0] = 0.0

    def forward(self, rows: Tensor, values: Tensor) -> Tensor:
        """[B, L] int64 rows and [B, L] values to [B, h]. In plain operators: this is what gets exported."""
        summed: Tensor = torch.matmul(values.unsqueeze(1), self.table(rows)).squeeze(1)
        return summed + self.bias

    def ragged(self, rows: Tensor, offsets: Tensor, values: Tensor) -> Tensor:
        """The same for [m] rows and values of B users, who begin at [B] offsets: no padding, so training is faster."""
        summed = functional.embedding_bag(
            rows, self.table.weight, offsets, mode="sum", per_sample_weights=values, padding_idx=0
        )
        return summed + self.bias

    def dense(self, values: Tensor) -> Tensor:
        """The same for [B, n] values of all items."""
        return values @ self.table.weight[1:] + self.bias


class AutoencoderQuery(HistoryEncoder):
    """An encoder with all of the decoder but its last layer."""

    def code(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, latent] the bottleneck: a nonlinear embedding of the user. Arguments as of `forward`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Batch:
    """Some users' entries, side by side.

    Attributes:
        rows: [m] int64 rows of the item table.
        offsets: [B] int64 where each user begins.
        users: [m] int64 which of the B users.
        counts: [B] float32 entries of each.
        ratings: [m] float32, if there are any.
    """

    rows: Tensor
    offsets: Tensor
    users: Tensor
    counts: Tensor
    ratings: Tensor | None

    def __len__(self) -> int:
        return len(self.offsets)


def batches(
    histories: Histories, size: int, random: np.random.Generator, device: torch.device
) -> tuple[int, Iterator[Batch]]:
    """The users with items in random order, `size` at a time: how many batches there are, and the batches."""
    order = random.permutation(np.flatnonzero(histories.lengths))
    starts = range(0, len(order), size)
    return len(starts), (_batch(histories.take(order[start : start + size]), device) for start in starts)


def _batch(part: Histories, device: torch.device) -> Batch:
    return Batch(
        torch.from_numpy(part.items + 1).to(device),
        torch.from_numpy(part.offsets[:-1]).to(device),
        torch.from_numpy(part.users).to(device),
        torch.from_numpy(part.lengths).to(device, torch.float32),
        None if part.ratings is None else torch.from_numpy(part.ratings).to(device),
    )


def with_one(vectors: Tensor) -> Tensor:
    """[B, d] to [B, d + 1]: a 1 meets the bias of the item."""
    return torch.cat([vectors, torch.ones_like(vectors[:, :1])], dim=1)


def item_vectors(weight: Tensor, bias: Tensor) -> ItemVectors:
    """The last layer as item vectors, on the CPU: [n, d] weights with the bias as column d + 1.

    An item that the model does not know tells nothing of the user and is as unlikely as the least likely one.
    """
    made = ItemVectors(len(weight), weight.shape[1] + 1)
    with torch.no_grad():
        made.table.weight[1:] = torch.cat([weight, bias.unsqueeze(1)], dim=1).cpu()
        made.table.weight[0] = 0.0
        made.table.weight[0, -1] = bias.min()
    return made.eval()


@torch.no_grad()
def latent(encoders: Encoders, histories: Histories) -> Floats:
    """[U, latent] float32: the code of each user, to be kept as a feature.

    Raises:
        InvalidArgument: the query encoder is no autoencoder's.
    """
    query = encoders.query
    if not isinstance(query, AutoencoderQuery):
        raise InvalidArgument("only autoencoders have a code", field="encoders")
    found = []
    for chosen in blocks(histories):
        rows, ratings = histories.padded(chosen)
        taken = torch.from_numpy(ratings) if ratings is not None and query.takes_ratings else None
        found.append((chosen, query.code(torch.from_numpy(rows), taken).numpy()))
    width = found[0][1].shape[1] if found else 0
    codes = np.empty((len(histories), width), np.float32)
    for chosen, code in found:
        codes[chosen] = code
    return codes


def blocks(histories: Histories) -> Iterator[Ints]:
    """All users, `BLOCK` at a time, with others of about their length: little padding."""
    order = np.argsort(histories.lengths, kind="stable")
    for start in range(0, len(order), BLOCK):
        yield order[start : start + BLOCK]
