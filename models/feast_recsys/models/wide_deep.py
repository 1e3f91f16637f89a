"""Wide & Deep ranking (Cheng et al. 2016): crosses that memorise, a tower that generalises, one logistic loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feast_recsys.bundle.signature import Input, Side
from feast_recsys.models.crosses import Cross, KeyRows, find_input
from feast_recsys.models.layers import Knots, SideFeatures, masked_mean, table

RETRIEVAL_SCORE = "request:retrieval_score"


@dataclass(frozen=True)
class WideDeepConfig:
    """Hyperparameters. The defaults were chosen on the validation part of MovieLens 100K.

    Attributes:
        dimension: Width of the item tables; the retrieval model's, whose table they start from.
        hidden: Widths of the ReLU layers.
        dropout: After each of them.
        pools: The history enters as means over its latest 1, 5, ... items.
        buckets: Most weights of one cross; larger ones are hashed.
        alpha, l1: Of FTRL, for the crosses.
        linear_alpha: Of FTRL, for the linear weights.
        learning_rate: Of AdaGrad, for the rest.
        history_length: Most items of lists.
        candidates: Retrieved candidates of a training query; a third as many come from just below them.
        popular, random: Further candidates, drawn by popularity and evenly.
        folds: The retrieval scores of a training user come from a model trained without a fold that holds the user.
        queries: Training queries in an epoch.
        batch: Queries in a batch.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain.
    """

    dimension: int = 64
    hidden: tuple[int, ...] = (64, 32)
    dropout: float = 0.1
    pools: tuple[int, ...] = (1, 5, 20, 50)
    buckets: int = 262_144
    alpha: float = 0.005
    l1: float = 1.0
    linear_alpha: float = 0.05
    learning_rate: float = 0.03
    history_length: int = 50
    candidates: int = 50
    popular: int = 10
    random: int = 10
    folds: int = 2
    queries: int = 6000
    batch: int = 32
    epochs: int = 10
    patience: int = 3


class HistoryMatch(nn.Module):
    """How well candidates fit what the user liked, the latest likes apart from the older ones.

    Args:
        spec: The input with the history, latest first.
        rows: Rows of its vocabulary.
        config: Hyperparameters.
    """

    def __init__(self, spec: Input, rows: int, config: WideDeepConfig) -> None:
        super().__init__()
        self.spec = spec
        self.table = table(rows, config.dimension)
        self.pools = config.pools
        # Similarities are averaged with weights that fall over the positions, at first at these rates.
        position = torch.arange(spec.max_length or 1, dtype=torch.float32)
        self.fall = nn.Parameter(torch.stack([-position / rate for rate in (1.0, 5.0, 20.0, 200.0)]))
        self.user_width = config.dimension * len(self.pools)
        self.width = self.user_width + len(self.fall)

    def forward(self, inputs: Mapping[str, Tensor], items: Tensor) -> tuple[Tensor, Tensor]:
        """What the history says of the user [U, user_width], and of each candidate [U, C, width].

        Args:
            inputs: Tensors by input name.
            items: [U, C, d] vectors of the candidates.
        """
        rows = inputs[self.spec.name]  # [U, L]
        mask = (rows != 0).to(torch.float32)
        liked = self.table(rows)  # [U, L, d]
        means = [masked_mean(liked[:, :n], mask[:, :n]) for n in self.pools]
        weights = self.fall[:, : rows.shape[1]].exp() * mask.unsqueeze(1)  # [U, K, L]
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)
        similar = items @ liked.transpose(1, 2) @ weights.transpose(1, 2)  # [U, C, K]
        products = [mean.unsqueeze(1) * items for mean in means]
        return torch.cat(means, -1), torch.cat([*products, similar], -1)


class WideDeep(nn.Module):
    """User and item inputs by name to calibrated probabilities [N].

    User inputs have batch U, item inputs N = U * C rows: the candidates of the first user, then those of the second.
    U = 1 is serving, U = N a plain batch; what concerns the user alone is computed U times only.

    Args:
        specs: All inputs.
        sizes: Rows by vocabulary file.
        knots: See `Inputs.knots`.
        item_id, history: Names of the inputs with the item's id and the user's history, if there are such.
        crosses: Pairs of a user-side and an item-side reference.
        score: Mean and standard deviation of the retrieval score.
        config: Hyperparameters.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        specs: Sequence[Input],
        sizes: Mapping[str, int],
        knots: Knots,
        item_id: str,
        history: str | None,
        crosses: Sequence[Sequence[str]],
        score: tuple[float, float],
        config: WideDeepConfig,
    ) -> None:
        super().__init__()
        by_name = {spec.name: spec for spec in specs}
        self.user_specs = [s for s in specs if s.side is not Side.ITEM]
        self.item_specs = [s for s in specs if s.side is Side.ITEM]
        self.item_id, past = by_name[item_id], by_name.get(history or "")
        self.score = next(s for s in specs if s.feature == RETRIEVAL_SCORE)
        self.score_mean, self.score_deviation = score
        d = config.dimension
        self.items = table(self._rows(self.item_id, sizes), d)
        self.history = HistoryMatch(past, self._rows(past, sizes), config) if past is not None else None
        self.users = SideFeatures([s for s in self.user_specs if s is not past], sizes, knots)
        self.content = SideFeatures([s for s in self.item_specs if s is not self.item_id], sizes, knots)
        width, *deeper = config.hidden
        user_width = self.users.width + (self.history.user_width if self.history else 0)
        # One layer over user, candidate and both, as a sum, so that the user's part is computed once.
        self.user_entry = nn.Linear(user_width, width, bias=False) if user_width else None
        self.item_entry = nn.Linear(d + self.content.width, width)
        self.match_entry = nn.Linear(self.history.width, width, bias=False) if self.history else None
        layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(config.dropout)]
        for entry, out in zip(config.hidden, deeper, strict=False):
            layers += [nn.Linear(entry, out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.tower = nn.Sequential(*layers, nn.Linear(config.hidden[-1], 1))
        self.linear = nn.Linear(1 + (len(self.history.fall) if self.history else 0), 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        self.crosses = nn.ModuleList()
        for user, item in crosses:
            keys = [
                KeyRows(spec, sizes.get(spec.vocabulary or ""), knots.get(spec.name))
                for spec in (find_input(self.user_specs, user), find_input(self.item_specs, item))
            ]
            self.crosses.append(Cross(keys[0], keys[1], config.buckets))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, **inputs: Tensor) -> Tensor:
        """Calibrated probabilities [N]."""
        return torch.sigmoid(self.scale * self.logits(inputs) + self.shift)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N], before calibration."""
        groups = inputs[self.user_specs[0].name].shape[0] if self.user_specs else 1
        rows = self.items(inputs[self.item_id.name])  # [N, d]
        items = rows.reshape(groups, -1, rows.shape[-1])  # [U, C, d]
        content = self.content(inputs)
        hidden = self.item_entry(torch.cat([items, content.reshape(groups, -1, content.shape[-1])], -1))
        user = [self.users(inputs)] if self.users.width else []
        score = (inputs[self.score.name] - self.score_mean) / self.score_deviation
        # A caller may send any score.
        linear = [score.clamp(-8.0, 8.0).reshape(groups, -1, 1)]
        if self.history is not None and self.match_entry is not None:
            liked, match = self.history(inputs, items)
            user.append(liked)
            linear.append(match[..., self.history.user_width :])
            hidden = hidden + self.match_entry(match)
        if self.user_entry is not None:
            hidden = hidden + self.user_entry(torch.cat(user, -1)).unsqueeze(1)
        logits = self.tower(hidden).squeeze(-1) + self.linear(torch.cat(linear, -1)).squeeze(-1)  # [U, C]
        for cross in self.crosses:
            logits = logits + cross(inputs, groups)
        flat: Tensor = logits.reshape(-1)
        return flat

    def wide_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The weights of FTRL: those of the crosses, and the linear ones."""
        return [p for cross in self.crosses for p in cross.parameters()], list(self.linear.parameters())

    def deep_parameters(self) -> list[nn.Parameter]:
        """All other weights, those of AdaGrad."""
        wide = {id(p) for group in self.wide_parameters() for p in group}
        return [p for p in self.parameters() if id(p) not in wide]

    @staticmethod
    def _rows(spec: Input, sizes: Mapping[str, int]) -> int:
        assert spec.vocabulary is not None
        return sizes[spec.vocabulary]
