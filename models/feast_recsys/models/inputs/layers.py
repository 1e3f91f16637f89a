"""Layers that both models share: tables, masked means, quantiles. All of them export to plain ONNX operators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input

Knots = Mapping[str, Sequence[Sequence[float]]]
"""By input name: see `inputs.Inputs.knots`."""


def table(rows: int, width: int, scale: float = 0.05) -> nn.Embedding:
    """An embedding whose row 0, padding and unknown keys, is zero and stays so."""
    made = nn.Embedding(rows, width, padding_idx=0)
    with torch.no_grad():
        made.weight.normal_(0.0, scale)
        made.weight[0] = 0.0
    return made


def width_of(rows: int, most: int = 32) -> int:
    """Width of a table: it grows with the logarithm of its rows (Covington et al. 2016, section 4.1)."""
    return min(4 * math.ceil(math.log2(rows + 1)), most)


def masked_mean(embedded: Tensor, mask: Tensor) -> Tensor:
    """Mean over the values that count: [..., L, d] and [..., L] to [..., d]. Zeros where none counts."""
    weights = mask.to(embedded.dtype).unsqueeze(-1)
    return (embedded * weights).sum(-2) / weights.sum(-2).clamp(min=1.0)


class QuantileCdf(nn.Module):
    """Numbers to their place among the training rows, in [0, 1]: linear between the knots, flat outside.

    A value at or below the smallest knot gives 0. Written as a sum of clipped lines, because searching and
    bucketing don't export well.
    """

    start: Tensor
    width: Tensor
    rise: Tensor

    def __init__(self, knots: Sequence[Sequence[Sequence[float]]]) -> None:
        super().__init__()
        pieces = max(max(len(k) for k in knots) - 1, 1)
        # Missing pieces rise by nothing.
        start, width, rise = torch.zeros(3, len(knots), pieces).unbind()
        width.fill_(1.0)
        for n, points in enumerate(knots):
            values = torch.tensor([p[0] for p in points], dtype=torch.float32)
            shares = torch.tensor([0.0, *(p[1] for p in points[1:])], dtype=torch.float32)
            m = len(points) - 1
            start[n, :m], width[n, :m], rise[n, :m] = values[:-1], values.diff(), shares.diff()
        self.register_buffer("start", start)
        self.register_buffer("width", width)
        self.register_buffer("rise", rise)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n] to [B, n]."""
        inside = ((x.unsqueeze(-1) - self.start) / self.width).clamp(0.0, 1.0)  # [B, n, pieces]
        return (inside * self.rise).sum(-1)


def powers(x: Tensor) -> Tensor:
    """x, x^2 and sqrt(x) side by side, for x in [0, 1] (Covington et al. 2016, section 4.1): [B, n] to [B, 3n]."""
    return torch.cat([x, x * x, x.clamp(min=1e-6).sqrt()], dim=-1)


class SideFeatures(nn.Module):
    """All inputs of one side, turned into one dense row.

    Strings and lists of keys become embeddings (the mean of those in a list), numbers their quantile with its
    square and root, bools 0 or 1, lists of floats a linear image of the list.

    Args:
        inputs: Which; may be none, then `width` is 0 and `forward` must not be called.
        sizes: Rows by vocabulary file.
        knots: See `Inputs.knots`.
        shared: Tables by vocabulary file, to be used instead of tables of one's own.
        most: Largest width of a table.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        sizes: Mapping[str, int],
        knots: Knots,
        shared: Mapping[str, nn.Embedding] | None = None,
        most: int = 32,
    ) -> None:
        super().__init__()
        shared = shared or {}
        self.keyed = [s for s in inputs if s.vocabulary is not None]
        self.vectors = [s for s in inputs if s.vocabulary is None and s.is_list]
        self.flags = [s for s in inputs if s.vocabulary is None and not s.is_list and s.dtype is DType.BOOL]
        self.numbers = [s for s in inputs if s.vocabulary is None and not s.is_list and s.dtype is not DType.BOOL]
        self.tables = nn.ModuleDict()
        for spec in self.keyed:
            assert spec.vocabulary is not None
            rows = sizes[spec.vocabulary]
            self.tables[spec.name] = shared.get(spec.vocabulary) or table(rows, width_of(rows, most))
        self.images = nn.ModuleDict({s.name: nn.Linear(s.max_length or 0, 8, bias=False) for s in self.vectors})
        self.scales = {s.name: float(knots[s.name][0][0]) for s in self.vectors}
        self.cdf = QuantileCdf([knots[s.name] for s in self.numbers]) if self.numbers else None
        widths = [int(self.tables[s.name].get_parameter("weight").shape[1]) for s in self.keyed]
        self.width = sum(widths) + 8 * len(self.vectors) + 3 * len(self.numbers) + len(self.flags)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tensors by input name, [B] or [B, L], to [B, width]."""
        parts = []
        for spec in self.keyed:
            embedded = self.tables[spec.name](inputs[spec.name])
            parts.append(masked_mean(embedded, inputs[spec.name] != 0) if spec.is_list else embedded)
        for spec in self.vectors:
            values = inputs[spec.name].to(torch.float32)
            padded = functional.pad(values, (0, (spec.max_length or 0) - values.shape[1]))
            # Tame what no training row had, so that the image stays finite.
            parts.append(self.images[spec.name]((padded / self.scales[spec.name]).clamp(-10.0, 10.0)))
        if self.cdf is not None:
            parts.append(powers(self.cdf(torch.stack([inputs[s.name].to(torch.float32) for s in self.numbers], -1))))
        if self.flags:
            parts.append(torch.stack([inputs[s.name].to(torch.float32) for s in self.flags], -1))
        return torch.cat(parts, dim=-1)
