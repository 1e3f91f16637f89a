"""What a ranker is trained by: losses over candidates and lists, and the optimisers of both parts."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from feast_recsys.models.ranking.ftrl import Ftrl
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig


def ranking_loss(
    logits: Tensor,
    liked: Tensor,
    real: Tensor,
    kind: Literal["logistic", "softmax", "both"] = "logistic",
    values: Tensor | None = None,
) -> Tensor:
    """Sum of a loss over the candidates of some queries.

    "logistic" is the log-loss of each candidate. "softmax" is the softmax cross-entropy of
    lists (Bruch et al. 2019): between a softmax over a query's candidates and an even spread over those that were
    liked; queries without any liked candidate add nothing. "both" is the sum.

    With values the logistic loss is that of weighted logistic regression (Covington et al. 2016, section 4.2): a like
    weighs its value, anything else 1. At the optimum the odds p / (1 - p) are the sum of the values over the number of
    candidates that were not liked: the expected value E[T], but for a factor 1 / (1 - share of likes), near 1 where
    likes are few.

    Args:
        logits: [q, c].
        liked: [q, c] float, 1 or 0.
        real: [q, c] float, 0 for padding.
        kind: Which.
        values: [q, c] float, at least 0: of the likes; of the others they mean nothing. None for 1.
    """
    logits = logits.float()
    total = logits.new_zeros(())
    if kind != "softmax":
        weights = real if values is None else real * torch.where(liked > 0, values, 1.0)
        total = total + functional.binary_cross_entropy_with_logits(logits, liked, weight=weights, reduction="sum")
    if kind != "logistic":
        share = torch.log_softmax(logits.masked_fill(real == 0, -1e9), -1)
        hits = liked * real
        total = total - (share * hits / hits.sum(-1, keepdim=True).clamp(min=1.0)).sum()
    return total


def joint_optimizers(ranker: WideDeep, config: WideDeepConfig) -> dict[str, torch.optim.Optimizer]:
    """FTRL with L1 for the wide part, AdaGrad for the deep one (Cheng et al. 2016, section 3.3); each where it is."""
    crosses, linear = ranker.wide_parameters()
    groups: list[dict[str, Any]] = []
    if linear:
        groups.append({"params": linear, "alpha": config.linear_alpha})
    if crosses:
        groups.append({"params": crosses})
    made: dict[str, torch.optim.Optimizer] = {}
    if groups:
        made["wide"] = Ftrl(groups, config.alpha, l1=config.l1)
    # AdaGrad forgets the scale of the loss, FTRL's published form wants a sum: so the loss is one.
    made["deep"] = torch.optim.Adagrad(ranker.deep_parameters(), lr=config.learning_rate)
    return made
