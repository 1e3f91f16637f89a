"""Numbers as pieces of their quantile scale, for towers that should bend where the data bends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input
from feast_recsys.models.inputs.layers import Knots, SideFeatures


class PiecewiseLinear(nn.Module):
    """Piecewise linear encoding (Gorishniy et al. 2022, section 3.2): how much of each interval a number has passed.

    An interval below the number gives 1, one above it 0, its own the share on the way from left to right.

    Args:
        knots: Of each number: ascending (value, share) pairs, of which the values count.
    """

    start: Tensor
    span: Tensor
    real: Tensor

    def __init__(self, knots: Sequence[Sequence[Sequence[float]]]) -> None:
        super().__init__()
        self.pieces = [max(len(points) - 1, 1) for points in knots]
        most = max(self.pieces)
        start, span = torch.zeros(len(knots), most), torch.ones(len(knots), most)
        for n, points in enumerate(knots):
            values = torch.tensor([point[0] for point in points], dtype=torch.float32)
            start[n, : len(values) - 1], span[n, : len(values) - 1] = values[:-1], values.diff()
            if len(values) == 1:
                # One value in training: the piece says whether a number lies above it.
                start[n, 0] = values[0]
        real = torch.cat([torch.arange(count) + n * most for n, count in enumerate(self.pieces)])
        self.register_buffer("start", start)
        self.register_buffer("span", span)
        self.register_buffer("real", real)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n] to [B, number of pieces], in the order of the numbers."""
        inside = ((x.unsqueeze(-1) - self.start) / self.span).clamp(0.0, 1.0)  # [B, n, most pieces]
        return inside.flatten(1)[:, self.real]


class PieceFeatures(SideFeatures):
    """`SideFeatures` with numbers in pieces instead of powers; the pieces come last.

    Args:
        inputs, sizes, knots: As there.
    """

    def __init__(self, inputs: Sequence[Input], sizes: Mapping[str, int], knots: Knots) -> None:
        in_pieces = [s for s in inputs if s.vocabulary is None and not s.is_list and s.dtype is not DType.BOOL]
        super().__init__([s for s in inputs if s not in in_pieces], sizes, knots)
        self.in_pieces = in_pieces
        self.pieces = PiecewiseLinear([knots[s.name] for s in in_pieces]) if in_pieces else None
        self.plain_width = self.width
        if self.pieces is not None:
            self.width += sum(self.pieces.pieces)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tensors by input name, [B] or [B, L], to [B, width]."""
        parts = [super().forward(inputs)] if self.plain_width else []
        if self.pieces is not None:
            numbers = torch.stack([inputs[s.name].to(torch.float32) for s in self.in_pieces], -1)
            parts.append(self.pieces(numbers))
        return torch.cat(parts, -1)
