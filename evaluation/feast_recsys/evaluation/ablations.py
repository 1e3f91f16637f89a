"""Wide & Deep beside each of its parts alone, trained and judged on the same candidates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.signature import Role
from feast_recsys.evaluation.baselines import CUT
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from feast_recsys.evaluation.metrics import ndcg_at
from feast_recsys.evaluation.ranker import Quality, order_of, pooled_quality, rank, tensors_of
from feast_recsys.evaluation.relevance import Relevant, Values
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.ranking.candidates import RankingSet, retrieved_set
from feast_recsys.models.ranking.setup import ranking_candidates
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig
from feast_recsys.models.refit import refit_ranker
from feast_recsys.models.train import train_family
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.configure import restore
from feast_recsys.models.training.loop import Run

NAMES: Mapping[str, Literal["both", "wide", "deep"]] = {"wide & deep": "both", "wide": "wide", "deep": "deep"}


@dataclass(frozen=True)
class Ablation:
    """How good one form of the ranker is on the candidates of the test users.

    Attributes:
        quality: Pooled over all candidates.
        ndcg: NDCG@10 end to end, with a 95 % bootstrap interval over users.
        loss: How much less that is than with both parts, user by user; None for both parts.
        weights: Number of weights that are not 0.
    """

    quality: Quality
    ndcg: Interval
    loss: Interval | None
    weights: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def ablations(
    repo: Repo,
    recommender: str,
    data: TrainingData,
    retrieval: Checkpoint,
    ranking: Checkpoint,
    *,
    seed: int = 0,
    run: Run | None = None,
) -> dict[str, Ablation]:
    """The wide part, the deep part and both, trained alike on the same candidates; judged on the test by name.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        data: What the models were trained on; loaded with `DataConfig(refit=True)` if they were trained again with
            validation, as the parts then are, too.
        retrieval: The trained retrieval model.
        ranking: The trained ranker. The others get its hyperparameters and its seed; it stands for both parts unless
            it has but one, or was started from an older model.
        seed: Of the bootstrap.
        run: How the trainings run.

    Raises:
        InvalidArgument: the ranker is no Wide & Deep.
        InvalidSettings, InvalidRepository: see `train_ranking`.
    """
    if not isinstance(ranking.modules.get(Role.RANKER), WideDeep):
        raise InvalidArgument(f"{ranking.signature.name} is no Wide & Deep ranker; it has no parts", field="ranking")
    training = ranking.signature.metadata["training"]
    run = replace(run or Run(), seed=int(training["seed"]))
    config = restore(WideDeepConfig, ranking.config["hyperparameters"])
    usable = config.parts == "both" and "warm_start" not in training
    refitted = bool(training.get("refit"))
    # A retrieval model that has learned from validation would find its likes too well.
    base = train_family(repo, recommender, data=data, run=run.within("base")) if refitted else retrieval
    candidates = ranking_candidates(data, base, config, run)
    k = min(data.settings.candidates, data.items)
    tensors, signature = tensors_of(data, retrieval), retrieval.signature
    found = retrieved_set(retrieval.modules, tensors, data, data.test, k, bias=signature.bias, metric=signature.metric)
    rows: dict[str, Ablation] = {}
    main: Values | None = None
    for name, parts in NAMES.items():
        trained = ranking
        if not (usable and parts == "both"):
            form = replace(config, parts=parts)
            trained = train_ranking(
                repo, recommender, base, seed=run.seed, config=form, data=data, progress=run.progress,
                run=run.within(parts), candidates=candidates,
            )  # fmt: skip
            trained = refit_ranker(trained, retrieval, data, run) if refitted else trained
        quality, per_user = judge_form(data, trained, found)
        main = per_user if main is None else main
        rows[name] = Ablation(
            quality,
            bootstrap_interval(per_user, seed=seed),
            None if parts == "both" else paired_interval(main, per_user, seed=seed),
            sum(int((weight != 0).sum()) for m in trained.modules.values() for weight in m.parameters()),
        )
    return rows


def judge_form(data: TrainingData, ranking: Checkpoint, found: RankingSet) -> tuple[Quality, Values]:
    """Quality of a ranker on some candidates, and [q] NDCG@10 of the lists that it makes of them."""
    probabilities = rank(data, ranking, found)
    ordered = np.take_along_axis(found.items, order_of(found, probabilities), axis=1)
    relevant = Relevant(found.queries.offsets, found.queries.items)
    return pooled_quality(data, ranking, found, probabilities), ndcg_at(ordered, relevant, min(CUT, ordered.shape[1]))
