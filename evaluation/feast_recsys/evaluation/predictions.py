"""Metrics of what models predict: probabilities, expected values, ratings. With their formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Numbers, Rows, Values, divide

CLIP = 1e-7


def auc(labels: Numbers, scores: Numbers) -> float:
    """Pooled AUC: share of (positive, negative) pairs with the positive scored higher, ties count half.

    Args:
        labels: [n] 0 or 1.
        scores: [n] numbers; only their order matters.

    Returns:
        A number in [0, 1]; NaN where one class is missing.

    Raises:
        InvalidArgument: no rows, NaN or infinite numbers, or labels other than 0 and 1.
    """
    return float(auc_per_user(labels, scores, np.zeros(len(labels), np.int64))[0])


def auc_per_user(labels: Numbers, scores: Numbers, groups: Numbers) -> Values:
    """AUC within each group, one value a group; their `mean` is the AUC per user.

    With midranks R of the scores of P positives and N negatives: (sum of R over positives - P (P + 1) / 2) / (P N),
    which is the share of pairs that `auc` defines (Mann-Whitney).

    Args:
        labels, scores: As in `auc`.
        groups: [n] user of each row.

    Returns:
        [G] float64 in ascending order of the groups, NaN where a group has one class only.

    Raises:
        InvalidArgument: as `auc`, or groups of another length.
    """
    truth, values = _pair(labels, scores, binary=True)
    if groups.shape != truth.shape:
        raise InvalidArgument(f"groups is {groups.shape}, labels are {truth.shape}", field="groups")
    _, group = np.unique(groups, return_inverse=True)
    order = np.lexsort((values, group))
    truth, values, group = truth[order], values[order], group[order]
    sizes = np.bincount(group)
    starts = np.cumsum(sizes) - sizes
    level = np.cumsum(np.r_[0, (np.diff(values) != 0) | (np.diff(group) != 0)])
    level_sizes = np.bincount(level)
    level_ends = np.cumsum(level_sizes)
    midranks = (level_ends - (level_sizes - 1) / 2)[level] - starts[group]
    positives = np.bincount(group, truth)
    concordant = np.bincount(group, truth * midranks) - positives * (positives + 1) / 2
    return divide(concordant, positives * (sizes - positives))


def log_loss(labels: Numbers, probabilities: Numbers, weights: Numbers | None = None) -> float:
    """-mean of [y ln p + (1 - y) ln(1 - p)], p clipped to [1e-7, 1 - 1e-7].

    Args:
        labels: [n] 0 or 1.
        probabilities: [n] in [0, 1].
        weights: [n], at least 0: the mean is a weighted one; None for 1.

    Raises:
        InvalidArgument: no rows, labels other than 0 and 1, probabilities outside [0, 1], or no weight on any row.
    """
    truth, p = _probabilities(labels, probabilities)
    p = np.clip(p, CLIP, 1 - CLIP)
    losses = -(truth * np.log(p) + (1 - truth) * np.log1p(-p))
    if weights is None:
        return float(losses.mean())
    _, weigh = _pair(labels, weights)
    if weigh.min() < 0 or weigh.sum() <= 0:
        raise InvalidArgument("weights must be at least 0, and one above it", field="weights")
    return float(np.average(losses, weights=weigh))


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed shares or values, in bins of equal count, ascending by the prediction.

    Attributes:
        predicted, observed: [b] float64, mean prediction and mean label.
        counts: [b] int64, rows.
    """

    predicted: Values
    observed: Values
    counts: Rows

    @property
    def error(self) -> float:
        """Sum over bins of (share of rows) x |mean prediction - mean label|."""
        return float(np.sum(self.counts * np.abs(self.predicted - self.observed)) / self.counts.sum())


def reliability(labels: Numbers, probabilities: Numbers, bins: int = 15) -> Reliability:
    """The points of a reliability plot.

    The rows are sorted by probability and cut into bins whose sizes differ by at most one; with fewer rows than bins
    each row is a bin. Rows of equal probability share their mean label, so that a bin boundary among them does not
    depend on the order of the rows.

    Args:
        labels, probabilities: As in `log_loss`.
        bins: Number of bins, at least 1.

    Raises:
        InvalidArgument: as `log_loss`, or bins below 1.
    """
    return _binned(*_probabilities(labels, probabilities), bins)


def value_reliability(values: Numbers, expected: Numbers, bins: int = 15) -> Reliability:
    """The same for expected values instead of probabilities.

    Args:
        values: [n] what it came to.
        expected: [n] what was predicted, in the same unit.
        bins: Number of bins, at least 1.

    Raises:
        InvalidArgument: no rows, numbers that are not finite, or bins below 1.
    """
    return _binned(*_pair(values, expected), bins)


def expected_calibration_error(labels: Numbers, probabilities: Numbers, bins: int = 15) -> float:
    """ECE = sum over bins of (share of rows) x |mean probability - mean label| (Naeini et al. 2015).

    The bins are of equal count, those of `reliability`; arguments and errors are its, too.
    """
    return reliability(labels, probabilities, bins).error


def rmse(labels: Numbers, predictions: Numbers) -> float:
    """Square root of the mean of (prediction - label)^2, pooled over all rows; clip to the scale beforehand.

    Raises:
        InvalidArgument: no rows, other lengths, NaN or infinite numbers.
    """
    truth, values = _pair(labels, predictions)
    return float(np.sqrt(np.mean((values - truth) ** 2)))


def mae(labels: Numbers, predictions: Numbers) -> float:
    """Mean of |prediction - label|, pooled over all rows; clip to the scale beforehand. Errors as in `rmse`."""
    truth, values = _pair(labels, predictions)
    return float(np.mean(np.abs(values - truth)))


def _pair(labels: Numbers, values: Numbers, *, binary: bool = False) -> tuple[Values, Values]:
    truth, other = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    if truth.ndim != 1 or truth.shape != other.shape or not len(truth):
        raise InvalidArgument(f"labels {truth.shape} and values {other.shape} must be [n], n >= 1", field="labels")
    if not (np.isfinite(truth).all() and np.isfinite(other).all()):
        raise InvalidArgument("labels and values must be finite", field="labels")
    if binary and not np.isin(truth, (0, 1)).all():
        raise InvalidArgument("labels must be 0 or 1", field="labels")
    return truth, other


def _probabilities(labels: Numbers, probabilities: Numbers) -> tuple[Values, Values]:
    truth, p = _pair(labels, probabilities, binary=True)
    if p.min() < 0 or p.max() > 1:
        raise InvalidArgument("probabilities must lie in [0, 1]; apply the sigmoid first", field="probabilities")
    return truth, p


def _binned(truth: Values, p: Values, bins: int) -> Reliability:
    if bins < 1:
        raise InvalidArgument(f"bins must be at least 1, not {bins}", field="bins")
    levels, level = np.unique(p, return_inverse=True)
    shared = np.bincount(level, truth) / np.bincount(level)
    level = np.sort(level)
    sizes = np.array([len(part) for part in np.array_split(level, min(bins, len(level)))], np.int64)
    starts = np.cumsum(sizes) - sizes
    predicted, observed = (np.add.reduceat(values[level], starts) / sizes for values in (levels, shared))
    return Reliability(predicted, observed, sizes)
