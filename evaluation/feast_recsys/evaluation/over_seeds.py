"""Several trainings of one model as one figure: chance is in the training, not only in the choice of users."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.assessment import Assessment


@dataclass(frozen=True)
class OverSeeds:
    """A metric over n seeds.

    Attributes:
        mean: Of the seeds' means.
        deviation: Sample standard deviation, n - 1 in the denominator; NaN for one seed.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom; NaN for one seed.
        n: Number of seeds.
    """

    mean: float
    deviation: float
    low: float
    high: float
    n: int


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
        return OverSeeds(mean, math.nan, math.nan, math.nan, 1)
    deviation = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return OverSeeds(mean, deviation, mean - half, mean + half, n)


def over_seeds(runs: Sequence[Assessment]) -> dict[str, dict[str, OverSeeds]]:
    """By contender and metric, over assessments of the same recommender trained with different seeds.

    Raises:
        InvalidArgument: no run, or runs on different users or catalogues, or with different contenders.
    """
    if len({(run.users, run.items, tuple(run.metrics)) for run in runs}) != 1:
        raise InvalidArgument("the runs differ in users, catalogue or contenders; compare like with like", field="runs")
    return {
        name: {metric: summarize([run.metrics[name][metric].mean for run in runs]) for metric in metrics}
        for name, metrics in runs[0].metrics.items()
    }
