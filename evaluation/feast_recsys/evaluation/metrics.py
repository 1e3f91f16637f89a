"""Metrics of ranked lists, probabilities and ratings, with their formulas.

For one user, T is the set of relevant items and h_r is 1 if the item at rank r (from 1) is in T, else 0. A ranking
metric gives one value a user, NaN where T is empty; `mean` and the intervals leave NaN out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Hits, Mask, Numbers, Relevant, Rows, Values, divide

__all__ = [
    "Interval", "Relevant", "Reliability", "auc", "auc_per_user", "average_precision_at", "bootstrap_interval",
    "expected_calibration_error", "hit_rate_at", "log_loss", "mae", "mean", "ndcg_at", "paired_interval", "recall_at",
    "reciprocal_rank", "reliability", "rmse", "top_k",
]  # fmt: skip

CLIP = 1e-7
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


def top_k(scores: Numbers, k: int, allowed: Mask | None = None) -> Rows:
    """The k best items of each user; equal scores come in the order of the rows.

    Args:
        scores: [U, N] numbers, not NaN where allowed.
        k: Length of the lists, at least 1.
        allowed: [U, N] or [N] bool, which items may be ranked; None for all.

    Returns:
        [U, k] int64 item rows, best first, then -1 where fewer than k are allowed.

    Raises:
        InvalidArgument: k below 1, NaN among the allowed scores, or shapes that don't fit.
    """
    if scores.ndim != 2:
        raise InvalidArgument(f"scores must be [users, items], not {scores.shape}", field="scores")
    scores = np.asarray(scores, np.result_type(scores, np.float32))
    if k < 1:
        raise InvalidArgument(f"k must be at least 1, not {k}", field="k")
    if allowed is not None and allowed.shape not in (scores.shape, scores.shape[1:]):
        raise InvalidArgument(f"allowed is {allowed.shape}, scores are {scores.shape}", field="allowed")
    masks = None if allowed is None else np.broadcast_to(allowed, scores.shape)
    ranked = np.full((len(scores), k), -1, np.int64)
    for user, row in enumerate(scores):
        eligible = np.arange(len(row)) if masks is None else np.flatnonzero(masks[user])
        values = row[eligible]
        if np.isnan(values).any():
            raise InvalidArgument(f"scores of user {user} hold NaN", field="scores")
        if k < len(values):
            # Nothing below the k-th score can be in the list, and sorting 50 is much faster than sorting 40,000.
            kept = values >= np.partition(values, len(values) - k)[len(values) - k]
            eligible, values = eligible[kept], values[kept]
        best = eligible[np.argsort(-values, kind="stable")[:k]]
        ranked[user, : len(best)] = best
    return ranked


def recall_at(
    ranked: Rows, relevant: Relevant, k: int, *, denominator: Literal["relevant", "min"] = "relevant"
) -> Values:
    """Recall@k = sum of h_r over r <= k, divided by |T|, or by min(k, |T|) (Liang et al. 2018).

    Args:
        ranked: [U, K] int64 item rows, best first, no item twice; -1 where a list is shorter.
        relevant: The relevant items of the same users.
        k: Cut, from 1 to K.
        denominator: "relevant" for |T|, "min" for min(k, |T|).

    Returns:
        [U] float64, NaN for users without relevant items.

    Raises:
        InvalidArgument: k is out of range, or the users don't fit.
    """
    if denominator not in ("relevant", "min"):
        raise InvalidArgument(f"denominator must be 'relevant' or 'min', not {denominator!r}", field="denominator")
    hits = Hits.of(ranked, relevant, k)
    return hits.recall(k) if denominator == "relevant" else hits.recall_min(k)


def ndcg_at(ranked: Rows, relevant: Relevant, k: int) -> Values:
    """NDCG@k = (sum of h_r / log2(r + 1) over r <= k) / (sum of 1 / log2(r + 1) over r <= min(k, |T|)).

    Arguments, result and errors as in `recall_at`.
    """
    return Hits.of(ranked, relevant, k).ndcg(k)


def hit_rate_at(ranked: Rows, relevant: Relevant, k: int) -> Values:
    """HR@k = 1 if any h_r is 1 for r <= k, else 0. Arguments, result and errors as in `recall_at`."""
    return Hits.of(ranked, relevant, k).hit_rate(k)


def average_precision_at(ranked: Rows, relevant: Relevant, k: int) -> Values:
    """AP@k = (sum of h_r Precision@r over r <= k) / min(k, |T|), where Precision@r = (h_1 + ... + h_r) / r.

    Its mean is MAP@k. Arguments, result and errors as in `recall_at`.
    """
    return Hits.of(ranked, relevant, k).average_precision(k)


def reciprocal_rank(ranked: Rows, relevant: Relevant, k: int | None = None) -> Values:
    """RR = 1 / rank of the first hit among the first k (None: the whole list), 0 without a hit.

    Its mean is MRR. Arguments, result and errors as in `recall_at`.
    """
    depth = ranked.shape[-1] if k is None else k
    return Hits.of(ranked, relevant, depth).reciprocal_rank(depth)


def mean(per_user: Values) -> float:
    """Mean over the users whose value is not NaN; NaN if there is none."""
    present = per_user[~np.isnan(per_user)]
    return float(present.mean()) if len(present) else float("nan")


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


def log_loss(labels: Numbers, probabilities: Numbers) -> float:
    """-mean of [y ln p + (1 - y) ln(1 - p)], p clipped to [1e-7, 1 - 1e-7].

    Args:
        labels: [n] 0 or 1.
        probabilities: [n] in [0, 1].

    Raises:
        InvalidArgument: no rows, labels other than 0 and 1, or probabilities outside [0, 1].
    """
    truth, p = _probabilities(labels, probabilities)
    p = np.clip(p, CLIP, 1 - CLIP)
    return float(-np.mean(truth * np.log(p) + (1 - truth) * np.log1p(-p)))


@dataclass(frozen=True)
class Reliability:
    """Predicted against observed shares, in bins of equal count and rising probability.

    Attributes:
        predicted, observed: [b] float64, mean probability and mean label.
        counts: [b] int64, rows.
    """

    predicted: Values
    observed: Values
    counts: Rows


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
    truth, p = _probabilities(labels, probabilities)
    if bins < 1:
        raise InvalidArgument(f"bins must be at least 1, not {bins}", field="bins")
    levels, level = np.unique(p, return_inverse=True)
    shared = np.bincount(level, truth) / np.bincount(level)
    level = np.sort(level)
    sizes = np.array([len(part) for part in np.array_split(level, min(bins, len(level)))], np.int64)
    starts = np.cumsum(sizes) - sizes
    predicted, observed = (np.add.reduceat(values[level], starts) / sizes for values in (levels, shared))
    return Reliability(predicted, observed, sizes)


def expected_calibration_error(labels: Numbers, probabilities: Numbers, bins: int = 15) -> float:
    """ECE = sum over bins of (share of rows) x |mean probability - mean label| (Naeini et al. 2015).

    The bins are of equal count, those of `reliability`; arguments and errors are its, too.
    """
    points = reliability(labels, probabilities, bins)
    return float(np.sum(points.counts * np.abs(points.predicted - points.observed)) / points.counts.sum())


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
