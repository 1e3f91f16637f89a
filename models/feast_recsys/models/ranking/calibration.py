"""Platt scaling: two numbers that make probabilities of a ranker's logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import InvalidArgument

Floats = npt.NDArray[np.floating[Any]]


def fit_platt(
    logits: Floats, labels: npt.NDArray[np.bool_], steps: int = 50, weights: Floats | None = None
) -> tuple[float, float]:
    """Scale a > 0 and shift b for which sigmoid(a * logit + b) has the least log-loss (Platt 1999), by Newton's method.

    Args:
        logits: [n].
        labels: [n].
        steps: At most so many.
        weights: [n], at least 0: of each row's log-loss; None for 1.

    Returns:
        (1, 0), which changes nothing, where there is but one kind of label or the fit would turn the order round.
    """
    weights = np.ones(len(logits)) if weights is None else weights.astype(np.float64)
    counts = weights > 0
    if labels[counts].all() or not labels[counts].any():
        return 1.0, 0.0
    # The mean weight is 1, so that the ridge below and the bound of the step mean the same whatever the unit is.
    weights = weights / weights.mean()
    x = np.stack([logits.astype(np.float64), np.ones(len(logits))], 1)
    y = labels.astype(np.float64)
    theta = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ theta, -30.0, 30.0)))
        gradient = x.T @ (weights * (p - y))
        curvature = (x * (weights * p * (1.0 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        theta = theta - move
        if np.abs(move).max() < 1e-10:
            break
    scale, shift = float(theta[0]), float(theta[1])
    return (scale, shift) if scale > 0 and np.isfinite(theta).all() else (1.0, 0.0)


def weighted_log_loss(logits: Floats, labels: npt.NDArray[np.bool_], weights: Floats | None = None) -> float:
    """Mean log-loss of sigmoid(logits), natural logarithm, exact for logits of any size.

    Args:
        logits, labels: [n].
        weights: [n]: the mean is a weighted one; None for 1.

    Raises:
        InvalidArgument: no rows, or no weight on any.
    """
    weights = np.ones(len(logits)) if weights is None else weights.astype(np.float64)
    if weights.sum() <= 0:
        raise InvalidArgument("no row has any weight; bring rows to judge by", field="weights")
    signed = np.where(labels, logits, -logits).astype(np.float64)
    return float(np.average(np.logaddexp(0.0, -signed), weights=weights))
