"""How a recommender is measured: on each user's last interactions, over the full catalogue, stage by stage.

A test user asks once, just before the first of their test events; relevant are the items that they then liked and had
not met before. Every item of the catalogue can be returned but those met before the question. Ties are broken by the
lower item. Baselines learn from all interactions that are not test, which is more than our models do, and their
parameters are chosen on validation, as everything else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.full_ranking import Scorer
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from feast_recsys.evaluation.metrics import mean, ndcg_at, recall_at, top_k
from feast_recsys.evaluation.predictions import auc, expected_calibration_error, log_loss
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.collaborative.als import AlsConfig, fit_als
from feast_recsys.models.collaborative.ease import EaseConfig, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.collaborative.shared import Model
from feast_recsys.models.collaborative.tuning import Contender, tune
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.ranking.candidates import RankingSet, retrieved_set
from feast_recsys.models.ranking.train import score_candidates
from feast_recsys.models.ranking.wide_deep import WideDeep
from feast_recsys.models.retrieval.scoring import seen_mask
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

CUT = 10
BLOCK = 512  # users whose scores over the whole catalogue are held at once
EASE_ITEMS = 10_000
"""Largest catalogue for which EASE, which inverts a matrix of items by items, is tried so many times."""
TRIALS = 6
"""Configurations tried of each baseline."""
CONTENDERS = {
    "popularity": Contender(fit_popularity, PopularityConfig, {}),
    "item-kNN": Contender(fit_item_knn, ItemKnnConfig, {"k": (50, 200), "shrinkage": (0.0, 10.0, 50.0)}),
    "EASE": Contender(fit_ease, EaseConfig, {"regularization": (50.0, 100.0, 200.0, 350.0, 500.0, 1000.0)}),
    "ALS": Contender(fit_als, AlsConfig, {"factors": (32, 64), "regularization": (10.0, 50.0, 200.0)}),
}


@dataclass(frozen=True)
class RankingQuality:
    """How good the ranker's probabilities are, given the candidates of retrieval.

    Attributes:
        candidates: Number of candidates judged.
        liked: Share of them that the user came to like.
        auc: Pooled over all candidates.
        log_loss: Natural logarithm.
        constant_log_loss: That of predicting `liked` for all.
        calibration_error: ECE over 15 bins of equal count.
    """

    candidates: int
    liked: float
    auc: float
    log_loss: float
    constant_log_loss: float
    calibration_error: float


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
    ranking: RankingQuality | None
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
            ranking=RankingQuality(**quality) if quality is not None else None,
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
    found = retrieved_set(retrieval.modules, tensors_of(data, retrieval), data, queries, k)
    lists = {"retrieve": found.items}
    quality = None
    if ranking is not None:
        probabilities = rank(data, ranking, found)
        order = np.argsort(np.where(found.real, -probabilities, np.inf), axis=1, kind="stable")
        lists = {"rank": np.take_along_axis(found.items, order, axis=1), **lists}
        quality = judge(found.labels[found.real], probabilities[found.real])
    progress.done(f"{len(queries)} test users")
    progress.start("compare with baselines")
    chosen = choose_baselines(data, seed, progress)
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


def rank(data: TrainingData, ranking: Checkpoint, candidates: RankingSet) -> Floats:
    """[q, c] calibrated probabilities; those of padding mean nothing."""
    ranker: nn.Module = ranking.modules[Role.RANKER]
    assert isinstance(ranker, WideDeep)
    logits = score_candidates(ranker, tensors_of(data, ranking), data, candidates).astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-(float(ranker.scale) * logits + float(ranker.shift)))))


def judge(labels: npt.NDArray[np.bool_], probabilities: Floats) -> RankingQuality:
    """Measures probabilities against what happened; both [n]."""
    share = float(labels.mean()) if len(labels) else float("nan")
    return RankingQuality(
        candidates=len(labels),
        liked=share,
        auc=auc(labels, probabilities),
        log_loss=log_loss(labels, probabilities),
        constant_log_loss=log_loss(labels, np.full(len(labels), share)),
        calibration_error=expected_calibration_error(labels, probabilities),
    )


def choose_baselines(
    data: TrainingData, seed: int = 0, progress: Reporter = SILENT
) -> dict[str, Callable[[Histories], Model]]:
    """Baselines with the parameters that gave the best NDCG@10 on validation, as functions that fit histories.

    Those that have parameters have the same number of trials. EASE is left out of catalogues that are too large for it.
    """
    contenders = {
        name: contender for name, contender in CONTENDERS.items() if name != "EASE" or data.items <= EASE_ITEMS
    }
    training, run = _likes(data, data.events.parts == Part.TRAIN), Run(seed=seed)
    relevant = Relevant(data.validation.offsets, data.validation.items)
    total, done = TRIALS * (len(contenders) - 1), 0

    def judged(model: Model) -> float:
        nonlocal done
        done += 1
        progress.progress(min(done, total), total)
        return mean(ndcg_at(recommend(model, data, data.validation, CUT), relevant, CUT))

    tuned = tune(contenders, training, judged, budget=TRIALS, run=run)
    return {name: partial(_fit, CONTENDERS[name].fit, found.best.config, run) for name, found in tuned.items()}


def recommend(model: Scorer, data: TrainingData, queries: Queries, k: int) -> Ints:
    """[q, k] items, best first, -1 where there are fewer; from the likes before each question."""
    blocks = [np.empty((0, k), np.int64)]
    for rows in _blocks(len(queries)):
        liked = from_lists([np.unique(_liked_before(data, queries, row)) for row in rows.tolist()], data.items)
        blocks.append(top_k(model.score(liked, np.arange(len(rows))), k, ~seen_mask(data, queries, rows)))
    return np.concatenate(blocks)


def likes_before_test(data: TrainingData) -> Histories:
    """What users liked in all that is not test: what baselines learn from in the end."""
    return _likes(data, data.events.parts != Part.TEST)


def _fit(fit: Callable[[Histories, Any, Run], Model], config: Any, run: Run, histories: Histories) -> Model:
    return fit(histories, config, run)


def _blocks(n: int) -> Iterator[Ints]:
    for start in range(0, n, BLOCK):
        yield np.arange(start, min(start + BLOCK, n))


def _liked_before(data: TrainingData, queries: Queries, row: int) -> Ints:
    events, user = data.events, int(queries.users[row])
    start, end = int(events.starts[user]), int(events.starts[user + 1])
    end = start + int(np.searchsorted(events.times[start:end], queries.times[row]))
    return np.asarray(events.items[start:end][events.positive[start:end]])


def _likes(data: TrainingData, chosen: npt.NDArray[np.bool_]) -> Histories:
    """The likes among some events, each item once."""
    events = data.events
    likes = chosen & events.positive
    return from_lists(
        [
            np.unique(events.items[start:end][likes[start:end]])
            for start, end in zip(events.starts[:-1].tolist(), events.starts[1:].tolist(), strict=True)
        ],
        data.items,
    )


def tensors_of(data: TrainingData, checkpoint: Checkpoint) -> ModelTensors:
    """The inputs of a checkpoint's models for all rows of the data."""
    inputs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    return model_tensors(data, inputs, checkpoint.vocabularies)
