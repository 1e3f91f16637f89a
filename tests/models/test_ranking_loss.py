"""The losses of the ranker are those of PyTorch, candidate by candidate and list by list."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.ranking.loss import ranking_loss
from feast_recsys.models.ranking.wide_deep import WideDeepConfig

LOGITS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, 9.0], [0.3, -0.2, 0.1]])
LIKED = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
REAL = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])


def logistic_by_hand() -> float:
    pairs = [
        (logit, liked)
        for row in range(3)
        for logit, liked, real in zip(LOGITS[row].tolist(), LIKED[row].tolist(), REAL[row].tolist(), strict=True)
        if real
    ]
    return sum(math.log1p(math.exp(-logit if liked else logit)) for logit, liked in pairs)


def softmax_by_hand() -> float:
    """Lists one by one, without their padding; the third has no like."""
    first = -functional.log_softmax(LOGITS[0], 0)[[0, 2]].mean()
    second = functional.cross_entropy(LOGITS[1, :2].unsqueeze(0), torch.tensor([1]))
    return float(first + second)


def test_the_logistic_loss_is_summed_over_candidates_without_padding() -> None:
    assert ranking_loss(LOGITS, LIKED, REAL).item() == pytest.approx(logistic_by_hand(), rel=1e-6)


def test_the_softmax_is_over_the_candidates_of_a_query() -> None:
    assert ranking_loss(LOGITS, LIKED, REAL, "softmax").item() == pytest.approx(softmax_by_hand(), rel=1e-6)


def test_both_is_the_sum() -> None:
    expected = logistic_by_hand() + softmax_by_hand()
    assert ranking_loss(LOGITS, LIKED, REAL, "both").item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["logistic", "softmax", "both"])
def test_padding_gets_no_gradient_whatever_its_logit(kind: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = ranking_loss(logits, LIKED, REAL, kind)  # type: ignore[arg-type]
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[1, 2] == 0.0
    changed = LOGITS.clone()
    changed[1, 2] = -50.0
    assert torch.equal(ranking_loss(changed, LIKED, REAL, kind), loss)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=50)
@given(shift=st.floats(-20, 20), scale=st.floats(0.1, 5.0))
def test_the_softmax_ignores_what_a_query_adds_to_all_its_candidates(shift: float, scale: float) -> None:
    loss = ranking_loss(LOGITS * scale, LIKED, REAL, "softmax").item()
    assert ranking_loss(LOGITS * scale + shift, LIKED, REAL, "softmax").item() == pytest.approx(loss, abs=1e-4)


def test_a_like_weighs_its_value_and_all_else_one() -> None:
    values = torch.tensor([[30.0, 7.0, 2.5], [7.0, 4.0, 7.0], [7.0, 7.0, 7.0]])
    weights = torch.where(LIKED > 0, values, 1.0) * REAL
    expected = functional.binary_cross_entropy_with_logits(LOGITS, LIKED, weight=weights, reduction="sum")
    assert torch.equal(ranking_loss(LOGITS, LIKED, REAL, values=values), expected)


@settings(deadline=None, max_examples=50)
@given(times=st.lists(st.floats(0.1, 500.0), min_size=1, max_size=20), others=st.integers(1, 200))
def test_the_best_odds_are_the_sum_of_the_values_over_the_number_of_the_others(times: list[float], others: int) -> None:
    """Covington et al. 2016, section 4.2: the gradient is zero there."""
    logit = torch.tensor(math.log(sum(times) / others), dtype=torch.float32, requires_grad=True)
    values = torch.tensor([[*times, *([1.0] * others)]])
    liked = torch.tensor([[1.0] * len(times) + [0.0] * others])
    ranking_loss(logit.expand_as(values), liked, torch.ones_like(values), values=values).backward()
    assert logit.grad is not None
    assert abs(logit.grad.item()) < 1e-4 * max(sum(times), others)


def test_settings_that_do_not_go_together_are_refused_by_name() -> None:
    with pytest.raises(InvalidSettings, match="weighted_by needs loss: logistic"):
        WideDeepConfig(loss="both", weighted_by="label")
    with pytest.raises(InvalidSettings, match="parts must be one of both, wide, deep, not 'shallow'"):
        WideDeepConfig(parts="shallow")  # type: ignore[arg-type]
    with pytest.raises(InvalidSettings, match="weighted_by must be 'label' or null"):
        WideDeepConfig(weighted_by="price")  # type: ignore[arg-type]
