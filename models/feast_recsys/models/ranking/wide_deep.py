"""Wide & Deep ranking (Cheng et al. 2016): crosses that memorise, a tower that generalises, one logistic loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.models.inputs.layers import Knots, SideFeatures, masked_mean, table
from feast_recsys.models.inputs.pieces import PieceFeatures
from feast_recsys.models.ranking.crosses import build_crosses, sides_of

RETRIEVAL_SCORE = "request:retrieval_score"
RETRIEVAL_SOURCE = "request:retrieval_source"


@dataclass(frozen=True)
class ScoreScale:
    """Scores of one source in training: they can be compared within it only.

    Attributes:
        source: Name of the source.
        mean, deviation: Of its scores.
    """

    source: str
    mean: float
    deviation: float


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
        parts: Which parts the graph has. "wide" has the crosses, the retrieval score and an intercept. "deep" has the
            tower, which then gets the retrieval score as well.
        numbers: How the tower gets numbers: the quantile with its square and root, or pieces of the quantile scale.
        loss: Over single candidates, over each query's list, or the sum of both; see `ranking_loss`.
        weighted_by: "label" makes a like weigh its label, so that the odds p / (1 - p) estimate it: for watch times
            (Covington et al. 2016, section 4.2). None lets each candidate weigh 1.
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
    parts: Literal["both", "wide", "deep"] = "both"
    numbers: Literal["powers", "pieces"] = "powers"
    loss: Literal["logistic", "softmax", "both"] = "logistic"
    weighted_by: Literal["label"] | None = None

    def __post_init__(self) -> None:
        for field in ("parts", "numbers", "loss"):
            known = get_args(get_type_hints(WideDeepConfig)[field])
            if getattr(self, field) not in known:
                message = f"{field} must be one of {', '.join(known)}, not {getattr(self, field)!r}"
                raise InvalidSettings(message, field=field)
        if self.weighted_by not in (None, "label"):
            raise InvalidSettings(f"weighted_by must be 'label' or null, not {self.weighted_by!r}", field="weighted_by")
        if self.weighted_by is not None and self.loss != "logistic":
            raise InvalidSettings(
                "weighted_by needs loss: logistic; a softmax over a list says nothing about the size of a label",
                field="weighted_by",
            )


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
        specs: All inputs; at least one of the item.
        sizes: Rows by vocabulary file.
        knots: See `Inputs.knots`.
        item_id, history: Names of the inputs with the item's id and the user's history, if there are such. A history
            needs an id, whose table it is compared in. The wide part needs neither.
        crosses: References, the user's before the item's; see `build_crosses`.
        score: Mean and standard deviation of the retrieval score, if there is such an input.
        config: Hyperparameters.
        scales: Of the sources, in the order of their vocabulary, if candidates come from several.

    Raises:
        InvalidSettings: the crosses don't fit, or nothing is left of the model without the other part.
    """

    scale: Tensor
    shift: Tensor
    source_means: Tensor
    source_weights: Tensor

    def __init__(
        self,
        specs: Sequence[Input],
        sizes: Mapping[str, int],
        knots: Knots,
        item_id: str | None,
        history: str | None,
        crosses: Sequence[Sequence[str]],
        score: tuple[float, float],
        config: WideDeepConfig,
        scales: Sequence[ScoreScale] = (),
    ) -> None:
        super().__init__()
        by_name = {spec.name: spec for spec in specs}
        self.parts = config.parts
        self.user_specs = [s for s in specs if s.side is not Side.ITEM]
        self.item_specs = [s for s in specs if s.side is Side.ITEM]
        if not self.item_specs:
            raise InvalidSettings("the ranker has no input of the item; name a feature of it", field="features")
        self.score = next((s for s in specs if s.feature == RETRIEVAL_SCORE), None)
        self.source = next((s for s in specs if s.feature == RETRIEVAL_SOURCE), None) if scales else None
        self.score_mean, self.score_deviation = score
        self.scales = tuple(scales) if self.source is not None else ()
        if self.scales:
            # Row 0 is a source that training did not have: its scores say nothing.
            means, weights = [0.0, *(s.mean for s in self.scales)], [0.0, *(1.0 / s.deviation for s in self.scales)]
            self.register_buffer("source_means", torch.tensor(means), persistent=False)
            self.register_buffer("source_weights", torch.tensor(weights), persistent=False)
        self.item_id = by_name[item_id] if item_id is not None and self.parts != "wide" else None
        past = by_name.get(history or "") if self.item_id is not None else None
        self.items = table(_rows(self.item_id, sizes), config.dimension) if self.item_id is not None else None
        self.history = HistoryMatch(past, _rows(past, sizes), config) if past is not None else None
        score_width = int(self.score is not None) * (len(self.scales) or 1) + len(self.scales)
        linear_width = score_width + (len(self.history.fall) if self.history is not None else 0)
        if self.parts != "wide":
            self._build_tower(past, sizes, knots, config)
        if self.parts != "deep":
            # A layer of no inputs would be a constant of no use.
            self.linear = nn.Linear(linear_width, 1, bias=False) if linear_width else None
            if self.linear is not None:
                nn.init.zeros_(self.linear.weight)
            self.crosses = build_crosses(crosses, specs, sizes, knots, config.buckets)
        if self.parts == "wide":
            if self.linear is None and not len(self.crosses):
                raise InvalidSettings("parts: wide leaves nothing without crosses; name some", field="crosses")
            self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("shift", torch.zeros(()))

    def _build_tower(self, past: Input | None, sizes: Mapping[str, int], knots: Knots, config: WideDeepConfig) -> None:
        features = SideFeatures if config.numbers == "powers" else PieceFeatures
        self.users = features([s for s in self.user_specs if s is not past], sizes, knots)
        self.content = features([s for s in self.item_specs if s is not self.item_id], sizes, knots)
        width, *deeper = config.hidden
        user_width = self.users.width + (self.history.user_width if self.history is not None else 0)
        item_width = self.content.width + (config.dimension if self.items is not None else 0)
        # One layer over user, candidate and both, as a sum, so that the user's part is computed once.
        self.user_entry = nn.Linear(user_width, width, bias=False) if user_width else None
        self.item_entry = nn.Linear(item_width, width)
        self.match_entry = nn.Linear(self.history.width, width, bias=False) if self.history is not None else None
        layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(config.dropout)]
        for entry, out in zip(config.hidden, deeper, strict=False):
            layers += [nn.Linear(entry, out), nn.ReLU(), nn.Dropout(config.dropout)]
        self.tower = nn.Sequential(*layers, nn.Linear(config.hidden[-1], 1))

    def forward(self, **inputs: Tensor) -> Tensor:
        """Calibrated probabilities [N]."""
        return torch.sigmoid(self.scale * self.logits(inputs) + self.shift)

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N], before calibration."""
        groups = inputs[self.user_specs[0].name].shape[0] if self.user_specs else 1
        linear = self._scores(inputs, groups) if self.parts != "deep" else []
        terms: list[Tensor] = []  # [U, C], or [U, 1] of the user alone
        if self.parts != "wide":
            deep, similar = self._tower(inputs, groups)
            terms.append(deep)
            linear += similar
        if self.parts != "deep":
            if self.linear is not None:
                terms.append(self.linear(torch.cat(linear, -1)).squeeze(-1))
            terms += [cross(inputs, groups) for cross in self.crosses]
        logits = sum(terms[1:], terms[0])
        if self.parts == "wide":
            # Crosses of the user alone know nothing of the number of candidates.
            count = inputs[self.item_specs[0].name].shape[0] // groups
            logits = (logits + self.bias).expand(groups, count)
        flat: Tensor = logits.reshape(-1)
        return flat

    def _scores(self, inputs: Mapping[str, Tensor], groups: int) -> list[Tensor]:
        """Standardized retrieval scores, [U, C, 1]; with several sources [U, C, S], each in the column of its source,
        and [U, C, S] which that is."""
        if self.source is None:
            if self.score is None:
                return []
            score = (inputs[self.score.name] - self.score_mean) / self.score_deviation
            # A caller may send any score.
            return [score.clamp(-8.0, 8.0).reshape(groups, -1, 1)]
        rows = inputs[self.source.name]
        columns = (rows.unsqueeze(-1) == torch.arange(1, len(self.scales) + 1, device=rows.device)).to(torch.float32)
        parts = [columns]
        if self.score is not None:
            score = (inputs[self.score.name] - self.source_means[rows]) * self.source_weights[rows]
            parts.insert(0, score.clamp(-8.0, 8.0).unsqueeze(-1) * columns)
        return [part.reshape(groups, -1, len(self.scales)) for part in parts]

    def _tower(self, inputs: Mapping[str, Tensor], groups: int) -> tuple[Tensor, list[Tensor]]:
        """Logits [U, C], and the similarities to the history, [U, C, K], that the linear part gets too."""
        entry, similar = [], []
        user = [self.users(inputs)] if self.users.width else []
        items: Tensor | None = None
        if self.items is not None and self.item_id is not None:
            rows = self.items(inputs[self.item_id.name])  # [N, d]
            items = rows.reshape(groups, -1, rows.shape[-1])  # [U, C, d]
            entry.append(items)
        if self.content.width:
            content = self.content(inputs)
            entry.append(content.reshape(groups, -1, content.shape[-1]))
        hidden = self.item_entry(torch.cat(entry, -1))
        if self.history is not None and self.match_entry is not None and items is not None:
            liked, match = self.history(inputs, items)
            user.append(liked)
            similar.append(match[..., self.history.user_width :])
            hidden = hidden + self.match_entry(match)
        if self.user_entry is not None:
            hidden = hidden + self.user_entry(torch.cat(user, -1)).unsqueeze(1)
        return self.tower(hidden).squeeze(-1), similar

    def start_at(self, share: float) -> None:
        """Sets the intercept so that an untrained model gives about `share`, which lies between 0 and 1."""
        logit = math.log(share / (1.0 - share))
        with torch.no_grad():
            if self.parts == "wide":
                self.bias.fill_(logit)
            else:
                last = self.tower[-1]
                assert isinstance(last, nn.Linear)
                last.bias.fill_(logit)

    def wide_parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The weights of FTRL: those of the crosses, and the linear ones."""
        if self.parts == "deep":
            return [], []
        linear = list(self.linear.parameters()) if self.linear is not None else []
        return [p for cross in self.crosses for p in cross.parameters()], linear

    def deep_parameters(self) -> list[nn.Parameter]:
        """All other weights, those of AdaGrad; of "wide" the intercept, which no L1 should shrink."""
        wide = {id(p) for group in self.wide_parameters() for p in group}
        return [p for p in self.parameters() if id(p) not in wide]


def used_inputs(specs: Sequence[Input], crosses: Sequence[Sequence[str]], config: WideDeepConfig) -> tuple[Input, ...]:
    """The inputs that a model of some parts looks at, in their order; errors as in `build_crosses`."""
    crossed = {spec.name for references in crosses for side in sides_of(references, specs) for spec in side}
    if config.parts != "wide":
        return tuple(specs)
    handed_over = (RETRIEVAL_SCORE, RETRIEVAL_SOURCE)
    return tuple(spec for spec in specs if spec.name in crossed or spec.feature in handed_over)


def _rows(spec: Input, sizes: Mapping[str, int]) -> int:
    assert spec.vocabulary is not None
    return sizes[spec.vocabulary]
