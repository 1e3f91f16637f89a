"""Intervals: of means over users by the bootstrap, and of observed shares for the points of a reliability plot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Rows, Values

_CELLS = 1 << 22  # numbers that a bootstrap draws at a time


@dataclass(frozen=True)
class Interval:
    """A mean over users with its confidence interval.

    Attributes:
        mean: Mean of the values that are not NaN; NaN if there is none.
        low, high: Bounds of the interval.
        n: Number of users behind the mean.
    """

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(per_user: Values, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Percentile bootstrap over users (Efron and Tibshirani 1993, chapter 13).

    Draws as many users as there are with replacement, `resamples` times; the bounds are the (1 - level) / 2 and
    (1 + level) / 2 quantiles of the means.

    Args:
        per_user: [U] float64, NaN for users to leave out.
        seed: Same seed, same interval.
        resamples: Number of resamples, at least 1.
        level: Coverage, above 0 and below 1.

    Raises:
        InvalidArgument: resamples or level out of range.
    """
    if resamples < 1:
        raise InvalidArgument(f"resamples must be at least 1, not {resamples}", field="resamples")
    if not 0 < level < 1:
        raise InvalidArgument(f"level must lie between 0 and 1, not {level}", field="level")
    values = per_user[~np.isnan(per_user)]
    n = len(values)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // n)
    means = np.concatenate([
        values[random.integers(0, n, (min(block, resamples - done), n))].mean(axis=1)
        for done in range(0, resamples, block)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), n)


def paired_interval(a: Values, b: Values, *, seed: int, resamples: int = 2000, level: float = 0.95) -> Interval:
    """Interval of the mean of a - b over the users that have both values.

    Args:
        a, b: [U] float64, the same users in the same order.
        seed, resamples, level: As in `bootstrap_interval`.

    Raises:
        InvalidArgument: a and b differ in length, or as `bootstrap_interval`.
    """
    if a.shape != b.shape:
        raise InvalidArgument(f"a is {a.shape}, b is {b.shape}; both need the same users", field="b")
    return bootstrap_interval(a - b, seed=seed, resamples=resamples, level=level)


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
