"""The optimiser of the wide part does what Algorithm 1 of McMahan et al. (KDD 2013) does, coordinate by coordinate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feast_recsys.models.ranking.ftrl import Ftrl

RATES = st.floats(0.01, 2.0)
PENALTIES = st.floats(0.0, 2.0)
GRADIENTS = st.lists(st.floats(-3.0, 3.0), min_size=1, max_size=12)


def published(gradients: list[float], alpha: float, beta: float, l1: float, l2: float) -> float:
    """Algorithm 1 for one coordinate: the weight after all gradients."""
    z = n = 0.0

    def weight() -> float:
        if abs(z) <= l1:
            return 0.0
        return -(z - math.copysign(l1, z)) / ((beta + math.sqrt(n)) / alpha + l2)

    for g in gradients:
        w = weight()
        sigma = (math.sqrt(n + g * g) - math.sqrt(n)) / alpha
        z += g - sigma * w
        n += g * g
    return weight()


def descend(weight: torch.Tensor, optimizer: Ftrl, gradient: torch.Tensor) -> None:
    weight.grad = gradient
    optimizer.step()


@settings(deadline=None, max_examples=60)
@given(gradients=GRADIENTS, alpha=RATES, beta=RATES, l1=PENALTIES, l2=PENALTIES)
def test_every_weight_follows_the_published_algorithm(
    gradients: list[float], alpha: float, beta: float, l1: float, l2: float
) -> None:
    # The second coordinate gets the gradients in reverse, so that coordinates can't get mixed up unnoticed.
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = Ftrl([weight], alpha, beta, l1, l2)
    for here, there in zip(gradients, reversed(gradients), strict=True):
        descend(weight, optimizer, torch.tensor([here, there], dtype=torch.float64))
    expected = [published(gradients, alpha, beta, l1, l2), published(gradients[::-1], alpha, beta, l1, l2)]
    assert weight.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_l1_keeps_weights_without_evidence_at_exactly_zero() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.zeros(40, requires_grad=True)
    optimizer = Ftrl([weight], alpha=0.1, l1=2.0)
    noise = torch.arange(40) >= 20
    for _ in range(15):
        gradient = torch.rand(40, generator=random) + 0.5
        gradient[noise] = (torch.rand(20, generator=random) - 0.5) * 0.1
        descend(weight, optimizer, gradient)
    assert (weight[noise] == 0.0).all()
    assert (weight[~noise] < 0.0).all()


def test_a_weight_returns_to_exactly_zero_when_the_evidence_is_taken_back() -> None:
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = Ftrl([weight], alpha=1.0, l1=1.0)
    descend(weight, optimizer, torch.tensor([3.0], dtype=torch.float64))
    assert weight.item() < 0.0
    descend(weight, optimizer, torch.tensor([-3.0], dtype=torch.float64))
    assert weight.item() == 0.0


def test_a_sparse_gradient_is_the_same_as_its_dense_form() -> None:
    dense, sparse = (torch.zeros(5, 2, requires_grad=True) for _ in range(2))
    optimizers = [Ftrl([weight], alpha=0.5, l1=0.1) for weight in (dense, sparse)]
    # Row 3 comes twice in one gradient: its parts add up before the update.
    for rows in ([3, 0, 3], [3, 1], [0]):
        values = torch.arange(2.0 * len(rows)).reshape(-1, 2) - 1.5
        gradient = torch.sparse_coo_tensor(torch.tensor([rows]), values, (5, 2), check_invariants=True)
        descend(dense, optimizers[0], gradient.to_dense())
        descend(sparse, optimizers[1], gradient)
    assert torch.equal(dense, sparse)
    assert (sparse[[2, 4]] == 0.0).all()
    assert (sparse[[0, 1, 3]] != 0.0).any(1).all()


def test_groups_have_learning_rates_of_their_own() -> None:
    slow, fast = (torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = Ftrl([{"params": [slow]}, {"params": [fast], "alpha": 0.5}], alpha=0.1, beta=1.0, l1=0.2)
    for gradient in (1.0, 0.7):
        slow.grad, fast.grad = (torch.tensor([gradient], dtype=torch.float64) for _ in range(2))
        optimizer.step()
    assert slow.item() == pytest.approx(published([1.0, 0.7], 0.1, 1.0, 0.2, 0.0))
    assert fast.item() == pytest.approx(published([1.0, 0.7], 0.5, 1.0, 0.2, 0.0))


def test_weights_without_a_gradient_stay() -> None:
    weight = torch.ones(3, requires_grad=True)
    Ftrl([weight]).step()
    assert weight.tolist() == [1.0, 1.0, 1.0]


@settings(deadline=None, max_examples=60)
@given(start=st.floats(-3.0, 3.0), gradients=GRADIENTS, alpha=RATES, l1=PENALTIES, l2=PENALTIES)
def test_a_start_is_where_the_weight_goes_on_from(
    start: float, gradients: list[float], alpha: float, l1: float, l2: float
) -> None:
    """As if one earlier gradient of the right size, which left no trace in n, had brought it there."""
    weight = torch.tensor([start], dtype=torch.float64, requires_grad=True)
    optimizer = Ftrl([weight], alpha, 1.0, l1, l2)
    descend(weight, optimizer, torch.zeros(1, dtype=torch.float64))
    assert weight.item() == pytest.approx(start, abs=1e-9)
    z, n, w = -start * (1.0 / alpha + l2) - math.copysign(l1, start) * (start != 0), 0.0, start
    for g in gradients:
        descend(weight, optimizer, torch.tensor([g], dtype=torch.float64))
        z += g - (math.sqrt(n + g * g) - math.sqrt(n)) / alpha * w
        n += g * g
        w = 0.0 if abs(z) <= l1 else -(z - math.copysign(l1, z)) / ((1.0 + math.sqrt(n)) / alpha + l2)
    assert weight.item() == pytest.approx(w, rel=1e-6, abs=1e-7)
