"""Cross-product features of the wide part: one weight for each pair of a user's and an item's key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input

PRIME = 2_654_435_761  # Knuth's multiplicative hash; products with row numbers stay far within int64


class KeyRows(nn.Module):
    """The keys of one input as positive numbers; 0 is nothing.

    Strings and ids are row numbers already, numbers fall into about ten buckets of equal share, bools are 1 and 2.

    Args:
        spec: The input.
        rows: Rows of its vocabulary, if it has one.
        knots: Of a number: (value, share) pairs.

    Raises:
        InvalidSettings: the input is a list of floats, which has no keys.
    """

    bounds: Tensor

    def __init__(self, spec: Input, rows: int | None, knots: Sequence[Sequence[float]] | None) -> None:
        super().__init__()
        self.spec = spec
        self.rows = rows or 3
        if rows is None and spec.is_list:
            raise InvalidSettings(
                f"crosses: {spec.feature} is a list of numbers, which can't be crossed; take strings, ids or a number",
                field="crosses",
            )
        if rows is None and spec.dtype is not DType.BOOL:
            values = [point[0] for point in knots or ((0.0, 1.0),)]
            bounds = values[3:-1:3]
            self.register_buffer("bounds", torch.tensor(bounds, dtype=torch.float32))
            self.rows = len(bounds) + 2

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[B] or [B, L] to [B, L] (L = 1 for a scalar)."""
        values = inputs[self.spec.name]
        if self.spec.vocabulary is not None:
            return values if self.spec.is_list else values.unsqueeze(-1)
        if self.spec.dtype is DType.BOOL:
            return values.to(torch.int64).unsqueeze(-1) + 1
        above = values.to(torch.float32).unsqueeze(-1) >= self.bounds  # [B, buckets]
        return above.to(torch.int64).sum(-1, keepdim=True) + 1


class Cross(nn.Module):
    """Sum of the weights of all pairs of a user's keys and an item's keys.

    phi(x) of Wide & Deep (Cheng et al. 2016): a pair counts 1 if both keys are there; lists cross as multi-hot.
    Up to `buckets` pairs have a weight each; more are hashed, (a * PRIME + b) mod buckets.

    Args:
        user, item: Whose keys.
        buckets: Most weights.
    """

    def __init__(self, user: KeyRows, item: KeyRows, buckets: int) -> None:
        super().__init__()
        self.user, self.item = user, item
        self.exact = user.rows * item.rows <= buckets
        self.cells = user.rows * item.rows if self.exact else buckets
        self.weight = nn.Embedding(self.cells, 1, sparse=True)
        nn.init.zeros_(self.weight.weight)

    def forward(self, inputs: Mapping[str, Tensor], groups: int) -> Tensor:
        """Logits [groups, C], for `groups` users and C candidates of each."""
        a = self.user(inputs)[:, None, :, None]  # [U, 1, La, 1]
        rows = self.item(inputs)
        b = rows.reshape(groups, -1, 1, rows.shape[-1])  # [U, C, 1, Lb]
        known = (a != 0) & (b != 0)
        if self.training:
            cell = a * self.item.rows + b if self.exact else (a * PRIME + b) % self.cells
            weights = self.weight(torch.where(known, cell, 0))
        elif self.exact:
            weights = self.weight(a * self.item.rows + b)
        else:
            # The same cells by one addition for each pair: two tables in a row take the place of the last remainder.
            table = self.weight.weight
            weights = functional.embedding((a * PRIME) % self.cells + b % self.cells, torch.cat([table, table]))
        weights = weights.squeeze(-1)  # [U, C, La, Lb]; what is not known is left out below
        total: Tensor = (weights * known).sum((-1, -2))
        return total


def find_input(specs: Sequence[Input], reference: str) -> Input:
    """The input of a reference.

    Raises:
        InvalidSettings: there is none; says which there are.
    """
    for spec in specs:
        if spec.feature == reference:
            return spec
    known = ", ".join(spec.feature for spec in specs if spec.source != "request")
    raise InvalidSettings(
        f"crosses: {reference} is not among the ranker's features of that side; there are: {known or 'none'}. "
        "The user's reference comes first, the item's second",
        field="crosses",
    )
