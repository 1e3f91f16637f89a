"""Intervals of observed shares, for the points of a reliability plot."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Rows, Values


def wilson_interval(shares: Values, counts: Rows, level: float = 0.95) -> tuple[Values, Values]:
    """Bounds of the true shares behind some observed ones (Wilson 1927).

    With z the normal quantile: (s + z^2 / 2n +- z sqrt(s (1 - s) / n + z^2 / 4n^2)) / (1 + z^2 / n). It stays within
    [0, 1] and holds for shares near 0, as those of clicks are.

    Args:
        shares: [b] float64 in [0, 1]; of a reliability curve its `observed`.
        counts: [b] int64, rows behind each, at least 1.
        level: Coverage, above 0 and below 1.

    Raises:
        InvalidArgument: an argument is out of its range, or the lengths differ.
    """
    if shares.shape != counts.shape or not ((shares >= 0) & (shares <= 1)).all():
        raise InvalidArgument(f"shares must be [{len(counts)}] numbers in [0, 1]", field="shares")
    if not (counts >= 1).all():
        raise InvalidArgument("counts must be at least 1", field="counts")
    if not 0 < level < 1:
        raise InvalidArgument(f"level must lie between 0 and 1, not {level}", field="level")
    square = float(norm.ppf((1 + level) / 2)) ** 2
    centre = shares + square / (2 * counts)
    half = np.sqrt(square * (shares * (1 - shares) / counts + square / (4.0 * counts**2)))
    scale = 1 + square / counts
    return np.clip((centre - half) / scale, 0.0, 1.0), np.clip((centre + half) / scale, 0.0, 1.0)
