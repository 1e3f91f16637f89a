"""How a recommender is measured: on each user's last interactions, over the full catalogue, stage by stage.

A test user asks once, just before the first of their test events; relevant are the items that they then liked and had
not met before. Every item of the catalogue can be returned but those met before the question. Ties are broken by the
lower item. Baselines learn from all interactions that are not test, which is more than our models do unless they are
trained with --refit, and their parameters are chosen on validation, as everything else is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.evaluation.baselines import CUT, choose_baselines, likes_before_test, recommend
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from feast_recsys.evaluation.metrics import ndcg_at, recall_at
from feast_recsys.evaluation.ranker import Quality, order_of, pooled_quality, quality_from_dict, rank, tensors_of
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.ranking.candidates import retrieved_set
from feast_recsys.models.training.checkpoint import Checkpoint

SLOW = frozenset({"BPR"})
"""Baselines that take longer than the others together: `assess` has them, the table after a training does not."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the test users. Intervals are 95 % bootstrap intervals over users.

    Attributes:
        users: Test users with at least one relevant item.
        items: Size of the catalogue.
        candidates: Number of candidates that Retrieve hands to Rank.
        recall: Recall of those candidates: the ceiling of the second stage.
        ranking: None if the recommender only retrieves.
        ndcg: NDCG@10 end to end, by the name of who made the list; `rank` first.
        gain: By the name of the other: the mean difference in NDCG@10 of our last stage, user by user.
    """

    users: int
    items: int
    candidates: int
    recall: Interval
    ranking: Quality | None
    ndcg: Mapping[str, Interval]
    gain: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_dict`."""
        quality = document["ranking"]
        return cls(
            **{key: document[key] for key in ("users", "items", "candidates")},
            recall=Interval(**document["recall"]),
            ranking=quality_from_dict(quality) if quality is not None else None,
            ndcg={name: Interval(**value) for name, value in document["ndcg"].items()},
            gain={name: Interval(**value) for name, value in document["gain"].items()},
        )


def evaluate_recommender(
    data: TrainingData,
    retrieval: Checkpoint,
    ranking: Checkpoint | None,
    *,
    seed: int = 0,
    progress: Reporter = SILENT,
) -> Evaluation:
    """Measures both stages and the whole on the test users, beside popularity, item-kNN, EASE and ALS.

    Args:
        data: What the models were trained on.
        retrieval: The trained retrieval model.
        ranking: The trained ranking model; None if the recommender only retrieves.
        seed: Of the bootstrap.
        progress: Hears of the steps.
    """
    progress.start("evaluate both stages")
    queries, k = data.test, min(data.settings.candidates, data.items)
    relevant = Relevant(queries.offsets, queries.items)
    tensors, signature = tensors_of(data, retrieval), retrieval.signature
    found = retrieved_set(retrieval.modules, tensors, data, queries, k, bias=signature.bias, metric=signature.metric)
    lists = {"retrieve": found.items}
    quality = None
    if ranking is not None:
        probabilities = rank(data, ranking, found)
        ordered = np.take_along_axis(found.items, order_of(found, probabilities), axis=1)
        lists = {"rank": ordered, **lists}
        quality = pooled_quality(data, ranking, found, probabilities)
    progress.done(f"{len(queries)} test users")
    progress.start("compare with baselines")
    chosen = choose_baselines(data, seed, progress, without=SLOW)
    known = likes_before_test(data)
    for number, (name, fit) in enumerate(chosen.items()):
        lists[name] = recommend(fit(known), data, queries, CUT)
        progress.progress(number + 1, len(chosen))
    progress.done(", ".join(chosen))
    per_user = {name: ndcg_at(items, relevant, min(CUT, items.shape[1])) for name, items in lists.items()}
    ours = next(iter(per_user))
    return Evaluation(
        users=len(queries),
        items=data.items,
        candidates=k,
        recall=bootstrap_interval(recall_at(found.items, relevant, k), seed=seed),
        ranking=quality,
        ndcg={name: bootstrap_interval(values, seed=seed) for name, values in per_user.items()},
        gain={n: paired_interval(per_user[ours], v, seed=seed) for n, v in per_user.items() if n != ours},
    )
