"""Hyperparameters by validation, with the same number of trials for every model of a comparison."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.collaborative.shared import Model
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.training.loop import Run


@dataclass(frozen=True)
class Contender:
    """A model whose hyperparameters are to be chosen.

    Attributes:
        fit: Such as `fit_als`.
        config: Its config class.
        grid: Values to try by field; fields left out keep their default.
    """

    fit: Callable[[Histories, Any, Run], Model]
    config: Callable[..., Any]
    grid: Mapping[str, Sequence[Any]]

    def configs(self, budget: int, seed: int) -> list[Any]:
        """`budget` points of the grid, without repetition: drawn by the seed, in the order of the grid."""
        points = list(itertools.product(*self.grid.values()))
        drawn = np.sort(np.random.default_rng(seed).permutation(len(points))[:budget])
        return [self.config(**dict(zip(self.grid, points[n], strict=True))) for n in drawn]


@dataclass(frozen=True)
class Trial:
    """One config and what validation said of it."""

    config: Any
    value: float


@dataclass(frozen=True)
class Tuned:
    """What was tried for one model.

    Attributes:
        best: The trial with the highest value, the first of several.
        trials: All of them, for the report.
    """

    best: Trial
    trials: tuple[Trial, ...]


def tune(
    contenders: Mapping[str, Contender],
    training: Histories,
    metric: Callable[[Model], float],
    *,
    budget: int,
    run: Run,
) -> dict[str, Tuned]:
    """Fits each model with `budget` configs, and chooses.

    A grid with fewer points is tried as a whole: it has nothing more to gain from the budget.

    Args:
        contenders: By name.
        training: What all are fitted on.
        metric: Of a fitted model on the validation part, higher is better.
        budget: Trials for each, at least 1.
        run: Its seed is that of every fit, and of the drawing.

    Raises:
        InvalidArgument: a budget below 1, a grid without points, or a metric that gives NaN.
        InvalidSettings: a value of a grid is wrong; names the field.
    """
    if budget < 1:
        raise InvalidArgument(f"budget must be at least 1, not {budget}", field="budget")
    plans = {name: contender.configs(budget, run.seed) for name, contender in contenders.items()}
    tuned = {}
    for name, configs in plans.items():
        if not configs:
            raise InvalidArgument(f"{name}: a field of the grid has no values", field="grid")
        run.progress.start(f"tune {name}")
        trials = []
        for config in configs:
            trials.append(Trial(config, float(metric(contenders[name].fit(training, config, run)))))
            if np.isnan(trials[-1].value):
                raise InvalidArgument(f"{name}: the metric gives NaN for {config}", field="metric")
        best = max(trials, key=lambda trial: trial.value)
        run.progress.done(f"{best.value:.4f} after {len(trials)} trials")
        tuned[name] = Tuned(best, tuple(trials))
    return tuned
