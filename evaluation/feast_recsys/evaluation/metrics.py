"""Metrics of ranked lists, with their formulas.

For one user, T is the set of relevant items and h_r is 1 if the item at rank r (from 1) is in T, else 0. A metric gives
one value a user, NaN where T is empty; `mean` and the intervals leave NaN out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.relevance import Hits, Mask, Numbers, Relevant, Rows, Values


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
