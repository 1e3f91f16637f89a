"""Ranking the whole catalogue for many users, and every ranking metric of the lists. One evaluator for all models.

The rule: a user's list holds every item of the catalogue but those the user has, best first, equal scores by the
lower row. Sampled candidates order models otherwise than this (Krichene and Rendle 2020), so there are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.evaluation.metrics import top_k
from feast_recsys.evaluation.relevance import Hits, Relevant, Rows, Values
from feast_recsys.models.data.histories import Histories

Scores = npt.NDArray[np.float32]

BLOCK = 512  # users whose scores over the whole catalogue are held at once
_CACHED = 64  # users sorted out at once: their scores stay in the cache of a processor


class Scorer(Protocol):
    """Whatever scores the catalogue for users by what they have: a trained model or a baseline."""

    def score(self, histories: Histories, chosen: Rows, /) -> Scores:
        """Scores of all items for some users.

        Args:
            histories: What all users have, out of a catalogue of n items.
            chosen: [m] int64, which of the users.

        Returns:
            [m, n] float32, higher is better; what a user has is scored like everything else.
        """


def rank_users(
    scorer: Scorer,
    given: Histories,
    k: int,
    *,
    chosen: npt.ArrayLike | None = None,
    seen: Histories | None = None,
    block: int = BLOCK,
    progress: Reporter = SILENT,
) -> Rows:
    """The k best items of each user, without those the user has.

    Args:
        scorer: Scores the catalogue.
        given: What the users have: the scorer's input, and what their lists leave out.
        k: Length of the lists, at least 1.
        chosen: [m] users of `given`; all if None.
        seen: What the lists of the same users leave out, where that is not what is given.
        block: Users scored at once.
        progress: Hears of users.

    Returns:
        [m, k] int64 items, best first, ties by the lower row; -1 behind the last item there is.

    Raises:
        InvalidArgument: k or block below 1, scores of a wrong shape, or NaN among them.
    """
    if k < 1 or block < 1:
        raise InvalidArgument(f"k and block must be at least 1, not {k} and {block}", field="k")
    users = np.arange(len(given)) if chosen is None else np.asarray(chosen, np.int64)
    without = given if seen is None else seen
    ranked = np.full((len(users), k), -1, np.int64)
    for start in range(0, len(users), block):
        part = users[start : start + block]
        found = scorer.score(given, part)
        if found.shape != (len(part), given.catalogue):
            raise InvalidArgument(
                f"scores are {found.shape}, there are {len(part)} users and {given.catalogue} items", field="scores"
            )
        for row in range(0, len(part), _CACHED):
            # A copy: the scores of popularity, say, may be one row shown many times.
            scores = np.array(found[row : row + _CACHED], np.float32)
            ranked[start + row : start + row + len(scores)] = _best(scores, without.take(part[row : row + _CACHED]), k)
        progress.progress(start + len(part), len(users))
    return ranked


def measure(ranked: Rows, relevant: Relevant, cuts: Sequence[int]) -> dict[str, Values]:
    """Every ranking metric of each user at each cut; for definitions see `Hits`.

    Args:
        ranked: [U, K] int64 items, best first; -1 where a list is shorter.
        relevant: The relevant items of the same users.
        cuts: Where to cut, each from 1 to K.

    Returns:
        recall@k, recall_min@k (over min(k, |T|)), ndcg@k, map@k and hit_rate@k for each cut: [U] float64, NaN for
        users without relevant items.

    Raises:
        InvalidArgument: a cut is out of range, or the users don't fit.
    """
    hits = Hits.of(ranked, relevant, max(cuts, default=1))
    values: dict[str, Values] = {}
    for k in cuts:
        values[f"recall@{k}"] = hits.recall(k)
        values[f"recall_min@{k}"] = hits.recall_min(k)
        values[f"ndcg@{k}"] = hits.ndcg(k)
        values[f"map@{k}"] = hits.average_precision(k)
        values[f"hit_rate@{k}"] = hits.hit_rate(k)
    return values


def means(values: Mapping[str, Values]) -> dict[str, float]:
    """The mean of each metric over the users that have a value; 0 users give NaN."""
    present = {name: v[~np.isnan(v)] for name, v in values.items()}
    return {name: float(v.mean()) if len(v) else float("nan") for name, v in present.items()}


def _best(scores: Scores, seen: Histories, k: int) -> Rows:
    """[m, k] as `metrics.top_k` gives, without a Python step for most of the users. Overwrites the scores."""
    scores[seen.users, seen.items] = -np.inf
    if scores.size and np.isnan(scores.max(axis=1)).any():  # the maximum of a row with NaN is NaN
        raise InvalidArgument("scores hold NaN", field="scores")
    users, items = scores.shape
    if k >= items:
        return _slow_best(scores, seen, k)
    least = np.partition(scores, items - k, axis=1)[:, items - k]
    row, item = np.divmod(np.flatnonzero(scores > least[:, None]), items)
    missing = k - np.bincount(row, minlength=users)
    # Scores at the k-th place: as many as are missing, lowest rows first. One user at a time, since sparse models
    # have thousands of them.
    ties = [np.flatnonzero(mine == last)[:m] for mine, last, m in zip(scores, least, missing.tolist(), strict=True)]
    row = np.concatenate([row, np.repeat(np.arange(users), missing)])
    item = np.concatenate([item, *ties])
    order = np.lexsort((item, -scores[row, item], row))
    ranked: Rows = item[order].reshape(users, k)
    # -inf at the k-th place: fewer than k unseen items, or a scorer that uses -inf itself.
    few = np.flatnonzero(least == -np.inf)
    if len(few):
        ranked[few] = _slow_best(scores[few], seen.take(few), k)
    return ranked


def _slow_best(scores: Scores, seen: Histories, k: int) -> Rows:
    allowed = np.ones(scores.shape, np.bool_)
    allowed[seen.users, seen.items] = False
    return top_k(scores, k, allowed)
