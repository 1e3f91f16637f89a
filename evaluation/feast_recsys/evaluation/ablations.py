"""Wide & Deep beside each of its parts alone, trained and judged on the same candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval
from feast_recsys.evaluation.metrics import ndcg_at
from feast_recsys.evaluation.predictions import auc, expected_calibration_error, log_loss
from feast_recsys.evaluation.protocol import CUT, rank
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.training_data import DataConfig, TrainingData, load_data
from feast_recsys.models.ranking.candidates import RankingSet
from feast_recsys.models.ranking.setup import ranking_candidates
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.warm_start import start_width
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run

NAMES: Mapping[str, Literal["both", "wide", "deep"]] = {"wide & deep": "both", "wide": "wide", "deep": "deep"}


@dataclass(frozen=True)
class Ablation:
    """How good one form of the ranker is on the candidates of the validation users.

    Early stopping and Platt scaling look at the same users, alike for every form: the rows compare forms with each
    other, and say nothing about the test.

    Attributes:
        log_loss, auc, calibration_error: Pooled over all candidates; ECE over 15 bins of equal count.
        ndcg: NDCG@10 of the candidates in the ranker's order, with a 95 % bootstrap interval over users.
        weights: Number of weights that are not 0.
    """

    log_loss: float
    auc: float
    calibration_error: float
    ndcg: Interval
    weights: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def ablations(
    repo: Repo,
    recommender: str,
    retrieval: Checkpoint,
    *,
    seed: int = 0,
    config: WideDeepConfig | None = None,
    data: TrainingData | None = None,
    ranking: Checkpoint | None = None,
    run: Run | None = None,
    progress: Reporter = SILENT,
) -> dict[str, Ablation]:
    """Trains the wide part, the deep part and both on the same candidates; metrics on validation by name.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        retrieval: The trained retrieval model.
        seed: Of everything.
        config: Hyperparameters; its `parts` is replaced.
        data: What `load_data` gave; read here if None.
        ranking: What `train_ranking` gave with the same arguments and `parts: both`; trained here if None.
        run: How the trainings run.
        progress: Hears of the steps.

    Raises:
        InvalidSettings, InvalidRepository: see `train_ranking`.
    """
    config = config or WideDeepConfig()
    config = replace(config, dimension=start_width(retrieval) or config.dimension)
    data = data or load_data(repo, recommender, DataConfig(), progress=progress)
    candidates = ranking_candidates(data, retrieval, config, seed=seed, progress=progress)
    rows: dict[str, Ablation] = {}
    for name, parts in NAMES.items():
        trained = ranking if parts == "both" else None
        if trained is None:
            trained = train_ranking(
                repo,
                recommender,
                retrieval,
                seed=seed,
                config=replace(config, parts=parts),
                data=data,
                progress=progress,
                run=None if run is None else run.within(parts),
                candidates=candidates,
            )
        rows[name] = judge_ranker(data, trained, candidates.held_out, seed=seed)
    return rows


def judge_ranker(data: TrainingData, ranking: Checkpoint, found: RankingSet, *, seed: int = 0) -> Ablation:
    """Measures a ranker on some candidates.

    Args:
        data: What it was trained on.
        ranking: The trained ranker.
        found: Candidates, with what became of them.
        seed: Of the bootstrap.
    """
    probabilities = rank(data, ranking, found)
    order = np.argsort(np.where(found.real, -probabilities, np.inf), axis=1, kind="stable")
    ordered = np.take_along_axis(found.items, order, axis=1)
    relevant = Relevant(found.queries.offsets, found.queries.items)
    labels, p = found.labels[found.real], probabilities[found.real]
    return Ablation(
        log_loss=log_loss(labels, p),
        auc=auc(labels, p),
        calibration_error=expected_calibration_error(labels, p),
        ndcg=bootstrap_interval(ndcg_at(ordered, relevant, min(CUT, ordered.shape[1])), seed=seed),
        weights=sum(int((weight != 0).sum()) for m in ranking.modules.values() for weight in m.parameters()),
    )
