"""How good a ranker is on given candidates: the order, and whether its probabilities or values can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import nn

from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval
from feast_recsys.evaluation.metrics import mean
from feast_recsys.evaluation.predictions import (
    CLIP,
    Reliability,
    auc,
    auc_per_user,
    expected_calibration_error,
    log_loss,
    reliability,
    value_reliability,
)
from feast_recsys.evaluation.relevance import Hits, Mask, Relevant, Rows, Values
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.ranking.candidates import RankingSet
from feast_recsys.models.ranking.setup import label_values
from feast_recsys.models.ranking.train import score_candidates
from feast_recsys.models.ranking.wide_deep import WideDeep
from feast_recsys.models.training.checkpoint import Checkpoint


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
class ValueQuality:
    """How good a ranker is that was trained with `weighted_by`, given the candidates of retrieval.

    Its probabilities are not those of a like: their odds p / (1 - p) are what a candidate is expected to bring, watch
    time say (Covington et al. 2016, section 4.2). A candidate that was not liked brings 0. The odds are too high by
    1 / (1 - share of likes); that is part of the calibration error here, as it is of what callers get.

    Attributes:
        candidates, liked: As in `RankingQuality`.
        auc: Pooled, of the likes: odds order as probabilities do.
        log_loss: Natural logarithm, each like weighing its value and everything else 1, as in training.
        constant_log_loss: That of the best constant.
        value: What a candidate brought on average, in the label's unit.
        expected: What the ranker expected of it on average.
        calibration_error: Mean distance of expected and brought value over 15 bins of equal count, in that unit.
    """

    candidates: int
    liked: float
    auc: float
    log_loss: float
    constant_log_loss: float
    value: float
    expected: float
    calibration_error: float


Quality: TypeAlias = RankingQuality | ValueQuality


@dataclass(frozen=True)
class RankerQuality:
    """The ranker, given the candidates of retrieval.

    Attributes:
        pooled: Over all candidates.
        auc_per_user: Mean over the users with candidates of both kinds.
        ndcg: NDCG@10 over what can be reached: relevant are the liked candidates only.
        ndcg_retrieve: The same for retrieval's order of the same candidates.
        points: Of the reliability plot: probabilities, or values for a ranker of values.
        brought: What the first 10 brought a user together, for a ranker of values only.
        brought_retrieve: The same for retrieval's order.
    """

    pooled: Quality
    auc_per_user: float
    ndcg: Interval
    ndcg_retrieve: Interval
    points: Reliability
    brought: Interval | None = None
    brought_retrieve: Interval | None = None


def rank(data: TrainingData, ranking: Checkpoint, candidates: RankingSet) -> Values:
    """[q, c] calibrated probabilities; those of padding mean nothing."""
    ranker: nn.Module = ranking.modules[Role.RANKER]
    assert isinstance(ranker, WideDeep)
    logits = score_candidates(ranker, tensors_of(data, ranking), data, candidates).astype(np.float64)
    return np.asarray(1.0 / (1.0 + np.exp(-(float(ranker.scale) * logits + float(ranker.shift)))))


def order_of(candidates: RankingSet, probabilities: Values) -> Rows:
    """[q, c] int64: the candidates' columns, most probable first, padding last; equal ones as they stand."""
    return np.argsort(np.where(candidates.real, -probabilities, np.inf), axis=1, kind="stable")


def tensors_of(data: TrainingData, checkpoint: Checkpoint) -> ModelTensors:
    """The inputs of a checkpoint's models for all rows of the data."""
    inputs = [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]
    return model_tensors(data, inputs, checkpoint.vocabularies)


def brought_values(data: TrainingData, ranking: Checkpoint, candidates: RankingSet) -> Values | None:
    """[q, c] what the candidates of a ranker of values brought: the label of a like, else 0. None for other rankers."""
    if ranking.config["hyperparameters"].get("weighted_by") is None:
        return None
    return np.where(candidates.labels, label_values(candidates, data.events), 0.0).astype(np.float64)


def judge(labels: Mask, probabilities: Values) -> RankingQuality:
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


def judge_values(labels: Mask, probabilities: Values, values: Values) -> ValueQuality:
    """Measures the odds of probabilities against what the candidates brought; all [n], values 0 where not liked."""
    weights = np.where(labels, values, 1.0)
    total = float(weights.sum())
    constant = float(values.sum()) / total if total else 0.0
    expected = odds(probabilities)
    return ValueQuality(
        candidates=len(labels),
        liked=float(labels.mean()) if len(labels) else float("nan"),
        auc=auc(labels, probabilities),
        log_loss=log_loss(labels, probabilities, weights),
        constant_log_loss=log_loss(labels, np.full(len(labels), constant), weights),
        value=float(values.mean()),
        expected=float(expected.mean()),
        calibration_error=value_reliability(values, expected).error,
    )


def judge_ranker(
    data: TrainingData, ranking: Checkpoint, candidates: RankingSet, probabilities: Values, cut: int, seed: int
) -> RankerQuality:
    """Measures a ranker on candidates from all sides.

    Args:
        data: What it was trained on.
        ranking: The trained ranker.
        candidates: With what became of them.
        probabilities: [q, c], of `rank`.
        cut: Length of the lists, at most c.
        seed: Of the bootstrap.
    """
    real, labels = candidates.real, candidates.labels
    user = np.nonzero(real)[0]
    offsets = np.concatenate([[0], np.cumsum(labels.sum(axis=1))]).astype(np.int64)
    reachable = Relevant(offsets, candidates.items[labels])
    order = order_of(candidates, probabilities)
    ranked = np.take_along_axis(candidates.items, order, axis=1)

    def ndcg(lists: Rows) -> Interval:
        return bootstrap_interval(Hits.of(lists, reachable, cut).ndcg(cut), seed=seed)

    liked, p = labels[real], probabilities[real]
    within = mean(auc_per_user(liked, p, user))
    values = brought_values(data, ranking, candidates)
    if values is None:
        pooled = judge(liked, p)
        return RankerQuality(pooled, within, ndcg(ranked), ndcg(candidates.items), reliability(liked, p))
    return RankerQuality(
        judge_values(liked, p, values[real]),
        within,
        ndcg(ranked),
        ndcg(candidates.items),
        value_reliability(values[real], odds(p)),
        bootstrap_interval(np.take_along_axis(values, order, axis=1)[:, :cut].sum(axis=1), seed=seed),
        bootstrap_interval(values[:, :cut].sum(axis=1), seed=seed),
    )


def pooled_quality(data: TrainingData, ranking: Checkpoint, candidates: RankingSet, probabilities: Values) -> Quality:
    """`judge` or `judge_values`, whichever the ranker was trained for."""
    real, values = candidates.real, brought_values(data, ranking, candidates)
    labels, p = candidates.labels[real], probabilities[real]
    return judge(labels, p) if values is None else judge_values(labels, p, values[real])


def quality_from_dict(document: Mapping[str, Any]) -> Quality:
    """The inverse of `asdict`."""
    return ValueQuality(**document) if "expected" in document else RankingQuality(**document)


def odds(probabilities: Values) -> Values:
    """p / (1 - p); finite, as p counts as 1 - 1e-7 at most."""
    p = np.minimum(probabilities, 1 - CLIP)
    return np.asarray(p / (1 - p))
