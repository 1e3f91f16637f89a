"""Every model of a comparison gets the same number of trials, and the best of its own is taken."""

from __future__ import annotations

import math

import pytest

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.collaborative.ease import EaseConfig, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.collaborative.tuning import Contender, tune
from feast_recsys.models.data.histories import from_lists
from feast_recsys.models.training.loop import Run

TRAINING = from_lists([[0, 1], [0, 1, 2], [1, 3]], 4)
CONTENDERS = {
    "ease": Contender(fit_ease, EaseConfig, {"regularization": [1.0, 5.0, 9.0], "rank": [1, 2, 4]}),
    "item_knn": Contender(fit_item_knn, ItemKnnConfig, {"k": [1, 2, 3], "shrinkage": [0.0, 7.0]}),
    "popularity": Contender(fit_popularity, PopularityConfig, {}),
}


def closeness_to_five(model):
    """Of all models' hyperparameters, so that the right choice is known."""
    return -abs(getattr(model.config, "regularization", 5.0) - 5.0) - getattr(model.config, "shrinkage", 0.0)


def test_all_get_the_budget_and_the_best_is_chosen():
    tuned = tune(CONTENDERS, TRAINING, closeness_to_five, budget=5, run=Run(seed=1))
    assert [len(t.trials) for t in tuned.values()] == [5, 5, 1]  # popularity has nothing to choose
    for result in tuned.values():
        assert len({trial.config for trial in result.trials}) == len(result.trials)
        assert result.best.value == max(trial.value for trial in result.trials)
        assert result.best in result.trials


def test_a_budget_beyond_the_grid_tries_all_of_it_in_order():
    tuned = tune(CONTENDERS, TRAINING, closeness_to_five, budget=99, run=Run())
    grid = [(r, k) for r in (1.0, 5.0, 9.0) for k in (1, 2, 4)]
    assert [(t.config.regularization, t.config.rank) for t in tuned["ease"].trials] == grid
    assert tuned["ease"].best.config == EaseConfig(5.0, 1)  # the first of equal ones


def test_the_seed_draws_the_trials():
    drawn = [CONTENDERS["ease"].configs(4, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(InvalidArgument, match="budget"):
        tune(CONTENDERS, TRAINING, closeness_to_five, budget=0, run=Run())
    with pytest.raises(InvalidArgument, match="no values"):
        tune({"ease": Contender(fit_ease, EaseConfig, {"rank": []})}, TRAINING, closeness_to_five, budget=1, run=Run())
    with pytest.raises(InvalidArgument, match="NaN"):
        tune(CONTENDERS, TRAINING, lambda model: math.nan, budget=1, run=Run())
