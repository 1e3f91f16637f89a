"""Platt's two numbers are those that no others beat; weights count as repetitions."""

from __future__ import annotations

import numpy as np
import pytest

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.ranking.calibration import fit_platt, weighted_log_loss


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0.0, np.where(labels, -logits, logits))))


def drawn(scale: float, shift: float, n: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are true with probability sigmoid(scale * logit + shift)."""
    random = np.random.default_rng(0)
    logits = random.normal(size=n).astype(np.float32)
    return logits, random.random(n) < 1 / (1 + np.exp(-(scale * logits + shift)))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, -2.0), (2.0, 1.0)])
def test_finds_the_numbers_that_the_labels_were_drawn_with(scale: float, shift: float) -> None:
    assert fit_platt(*drawn(scale, shift)) == pytest.approx((scale, shift), abs=0.1)


def test_no_other_numbers_nearby_give_a_smaller_loss() -> None:
    logits, labels = drawn(0.5, -2.0)
    scale, shift = fit_platt(logits, labels)
    least = log_loss(scale * logits + shift, labels)
    for other_scale in (scale - 0.02, scale, scale + 0.02):
        for other_shift in (shift - 0.02, shift, shift + 0.02):
            assert log_loss(other_scale * logits + other_shift, labels) >= least - 1e-12


def test_the_mean_probability_is_the_share_of_likes() -> None:
    logits, labels = drawn(0.5, -2.0)
    scale, shift = fit_platt(logits, labels)
    assert np.mean(1 / (1 + np.exp(-(scale * logits + shift)))) == pytest.approx(labels.mean(), abs=1e-6)


@pytest.mark.parametrize("liked", [False, True])
def test_one_kind_of_label_changes_nothing(liked: bool) -> None:
    assert fit_platt(np.arange(5, dtype=np.float32), np.full(5, liked)) == (1.0, 0.0)


def test_an_order_is_never_turned_round() -> None:
    logits, labels = drawn(-1.0, 0.0)
    assert fit_platt(logits, labels) == (1.0, 0.0)


def test_a_row_that_weighs_three_counts_as_three_rows() -> None:
    logits, labels = drawn(0.7, -1.0, 500)
    weights = np.random.default_rng(1).integers(0, 4, 500)
    repeated = np.repeat(np.arange(500), weights)
    weighted = fit_platt(logits, labels, weights=weights.astype(np.float32))
    assert weighted == pytest.approx(fit_platt(logits[repeated], labels[repeated]), abs=1e-5)
    mean = weighted_log_loss(logits, labels, weights.astype(np.float32))
    assert mean == pytest.approx(log_loss(logits[repeated], labels[repeated]))


def test_the_log_loss_of_logits_of_any_size_is_finite() -> None:
    logits, labels = np.array([1e30, -1e30], np.float32), np.array([True, True])
    assert weighted_log_loss(logits, labels) == pytest.approx(5e29)
    with pytest.raises(InvalidArgument, match="no row has any weight"):
        weighted_log_loss(logits, labels, np.zeros(2))
