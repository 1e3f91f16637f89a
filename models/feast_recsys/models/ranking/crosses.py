"""Cross-product features of the wide part: one weight for each key, pair of keys, or longer tuple of keys."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.models.inputs.layers import Knots

PRIME = 2_654_435_761  # Knuth's multiplicative hash; products with row numbers stay far within int64

DENSE = 20_000  # up to so many weights a whole gradient is faster than one of the rows that were met


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


class KeyTuples(nn.Module):
    """All tuples of one key of each of several inputs of one side, as positive numbers; 0 where one has none.

    With these a cross goes over three inputs and more. Up to `buckets` tuples have a number each; more are hashed.

    Args:
        parts: Whose keys.
        buckets: Most numbers.
    """

    def __init__(self, parts: Sequence[KeyRows], buckets: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.widths = [part.rows for part in parts]
        tuples = math.prod(self.widths)
        self.exact = tuples <= buckets
        self.rows = tuples if self.exact else buckets + 1

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[B] or [B, L] of each part to [B, product of the lengths]."""
        first, *others = self.parts
        rows: Tensor = first(inputs)
        for part, width in zip(others, self.widths[1:], strict=True):
            a, b = rows.unsqueeze(-1), part(inputs).unsqueeze(-2)  # [B, La, 1], [B, 1, Lb]
            cell = a * width + b if self.exact else (a * PRIME + b) % (self.rows - 1) + 1
            rows = torch.where((a != 0) & (b != 0), cell, 0).flatten(1)
        return rows


Keys = KeyRows | KeyTuples


class KeyWeights(nn.Module):
    """Sum of the weights of the keys of one side: the plain linear features of the wide part.

    Args:
        keys: Whose.
    """

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self.keys = keys
        self.weight = nn.Embedding(keys.rows, 1, sparse=keys.rows > DENSE)
        nn.init.zeros_(self.weight.weight)

    def forward(self, inputs: Mapping[str, Tensor], groups: int) -> Tensor:
        """Logits [groups, C], or [groups, 1] of the user's keys: as for all candidates."""
        rows = self.keys(inputs)
        total: Tensor = (self.weight(rows).squeeze(-1) * (rows != 0)).sum(-1)
        return total.reshape(groups, -1)


class Cross(nn.Module):
    """Sum of the weights of all pairs of a user's keys and an item's keys.

    phi(x) of Wide & Deep (Cheng et al. 2016): a pair counts 1 if both keys are there; lists cross as multi-hot.
    Up to `buckets` pairs have a weight each; more are hashed, (a * PRIME + b) mod buckets.

    Args:
        user, item: Whose keys.
        buckets: Most weights.
    """

    def __init__(self, user: Keys, item: Keys, buckets: int) -> None:
        super().__init__()
        self.user, self.item = user, item
        self.exact = user.rows * item.rows <= buckets
        self.cells = user.rows * item.rows if self.exact else buckets
        self.weight = nn.Embedding(self.cells, 1, sparse=self.cells > DENSE)
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


def build_crosses(
    crosses: Sequence[Sequence[str]], specs: Sequence[Input], sizes: Mapping[str, int], knots: Knots, buckets: int
) -> nn.ModuleList:
    """The wide part's `Cross` or `KeyWeights` of each cross.

    Args:
        crosses: References, the user's before the item's: a pair of both as a rule; one alone gives its keys a weight
            each, three and more are crossed as tuples.
        specs: All inputs.
        sizes: Rows by vocabulary file.
        knots: See `inputs.Inputs.knots`.
        buckets: Most weights of one cross.

    Raises:
        InvalidSettings: a reference is not among the inputs of its side, is a list of numbers, or a cross is empty.
    """

    def keys(inputs: Sequence[Input]) -> Keys:
        rows = [KeyRows(spec, sizes.get(spec.vocabulary or ""), knots.get(spec.name)) for spec in inputs]
        return rows[0] if len(rows) == 1 else KeyTuples(rows, buckets)

    made: list[nn.Module] = []
    for references in crosses:
        user, item = sides_of(references, specs)
        if user and item:
            made.append(Cross(keys(user), keys(item), buckets))
        else:
            made.append(KeyWeights(keys(user or item)))
    return nn.ModuleList(made)


def sides_of(references: Sequence[str], specs: Sequence[Input]) -> tuple[list[Input], list[Input]]:
    """The user's and the item's inputs of a cross.

    Raises:
        InvalidSettings: there is no such input, says which there are; or the item's come before the user's.
    """
    by_reference = {spec.feature: spec for spec in specs}
    for reference in references:
        if reference not in by_reference:
            known = ", ".join(spec.feature for spec in specs if spec.source != "request")
            raise InvalidSettings(
                f"crosses: {reference} is not among the ranker's features; there are: {known or 'none'}",
                field="crosses",
            )
    chosen = [by_reference[reference] for reference in references]
    of_item = [spec.side is Side.ITEM for spec in chosen]
    if not chosen or of_item != sorted(of_item):
        raise InvalidSettings(
            f"crosses: [{', '.join(references)}]; name one or more references, the user's before the item's",
            field="crosses",
        )
    return chosen[: of_item.count(False)], chosen[of_item.count(False) :]
