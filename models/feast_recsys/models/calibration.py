"""Platt scaling: two numbers that make probabilities of a ranker's logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def fit_platt(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_], steps: int = 50) -> tuple[float, float]:
    """Scale a > 0 and shift b for which sigmoid(a * logit + b) has the least log-loss (Platt 1999), by Newton's method.

    Args:
        logits: [n].
        labels: [n].
        steps: At most so many.

    Returns:
        (1, 0), which changes nothing, where there is but one kind of label or the fit would turn the order round.
    """
    if labels.all() or not labels.any():
        return 1.0, 0.0
    x = np.stack([logits.astype(np.float64), np.ones(len(logits))], 1)
    y = labels.astype(np.float64)
    theta = np.array([1.0, 0.0])
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ theta, -30.0, 30.0)))
        gradient = x.T @ (p - y)
        curvature = (x * (p * (1.0 - p))[:, None]).T @ x + 1e-6 * np.eye(2)
        move = np.linalg.solve(curvature, gradient)
        theta = theta - move
        if np.abs(move).max() < 1e-10:
            break
    scale, shift = float(theta[0]), float(theta[1])
    return (scale, shift) if scale > 0 and np.isfinite(theta).all() else (1.0, 0.0)
