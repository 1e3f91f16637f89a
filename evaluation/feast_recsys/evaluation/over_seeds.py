"""Several trainings of one recommender as one figure: chance is in the training, not only in the choice of users."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.assessment import Assessment, assess, plain
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.refit import refit_ranker, refit_retrieval
from feast_recsys.models.train import train_family, train_ranker
from feast_recsys.models.training.loop import Run


@dataclass(frozen=True)
class OverSeeds:
    """A figure over n seeds.

    Attributes:
        mean: Of the seeds' means.
        deviation: Sample standard deviation, n - 1 in the denominator; NaN for one seed.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom; NaN for one seed.
        n: Number of seeds.
        values: Of each seed.
    """

    mean: float
    deviation: float
    low: float
    high: float
    n: int
    values: tuple[float, ...]


@dataclass(frozen=True)
class SeedSummary:
    """Assessments of one recommender, trained with several seeds.

    Attributes:
        seeds: Of the trainings.
        metrics: By contender and metric.
        gains: By the name of the other: how much better our last stage is in NDCG@10.
        ranker: Pooled figures of the ranker by name, those that are defined; none if the recommender only retrieves.
    """

    seeds: tuple[int, ...]
    metrics: Mapping[str, Mapping[str, OverSeeds]]
    gains: Mapping[str, OverSeeds]
    ranker: Mapping[str, OverSeeds]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not defined is null."""
        document: dict[str, Any] = plain(asdict(self))
        return document


def summarize(values: Sequence[float]) -> OverSeeds:
    """Mean, deviation and interval of one figure a seed.

    Raises:
        InvalidArgument: no value, or one that is not finite.
    """
    n = len(values)
    if not n or not all(map(math.isfinite, values)):
        raise InvalidArgument("every seed needs a finite value, and there must be one seed at least", field="values")
    mean = float(np.mean(values))
    if n == 1:
        return OverSeeds(mean, math.nan, math.nan, math.nan, 1, tuple(values))
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return OverSeeds(mean, deviation, mean - half, mean + half, n, tuple(values))


def over_seeds(runs: Mapping[int, Assessment]) -> SeedSummary:
    """Assessments of the same recommender by the seed of its training, as means and deviations.

    Raises:
        InvalidArgument: no run, or runs on different users or catalogues, or with different contenders.
    """
    found = list(runs.values())
    if len({(run.users, run.items, tuple(run.metrics)) for run in found}) != 1:
        raise InvalidArgument("the runs differ in users, catalogue or contenders; compare like with like", field="runs")
    pooled = [asdict(run.ranker.pooled) for run in found if run.ranker is not None]
    figures = {name: [float(run[name]) for run in pooled] for name in (pooled[0] if pooled else ())}
    return SeedSummary(
        tuple(runs),
        {
            name: {metric: summarize([run.metrics[name][metric].mean for run in found]) for metric in metrics}
            for name, metrics in found[0].metrics.items()
        },
        {name: summarize([run.gains[name].mean for run in found]) for name in found[0].gains},
        {name: summarize(own) for name, own in figures.items() if all(map(math.isfinite, own))},
    )


def train_and_assess(
    repo: Repo, recommender: str, data: TrainingData, run: Run, *, baselines: bool = True, refit: bool = False
) -> Assessment:
    """Trains a recommender as its settings say, and measures it; nothing is kept.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        data: What `load_data` gave.
        run: How. Its seed is that of training, baselines and bootstrap.
        baselines: Whether to compare with baselines; see `assess`.
        refit: Whether to train again with validation once it has chosen; the data needs `DataConfig(refit=True)`.

    Raises:
        InvalidSettings, InvalidRepository: see `train_family` and `train_ranker`.
    """
    run = replace(run, folder=None, resume=False, scalars=False)
    retrieval = train_family(repo, recommender, data=data, run=run)
    ranking = None
    if data.settings.ranking is not None:
        ranking = train_ranker(repo, recommender, retrieval, data=data, run=run)
    if refit:
        retrieval = refit_retrieval(retrieval, data, run)
        ranking = refit_ranker(ranking, retrieval, data, run) if ranking is not None else None
    return assess(recommender, data, retrieval, ranking, baselines=baselines, seed=run.seed, progress=run.progress)
