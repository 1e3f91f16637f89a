"""Collaborative models that a recommender is compared with: chosen on validation, with the same number of trials."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.evaluation.full_ranking import Scorer
from feast_recsys.evaluation.metrics import mean, ndcg_at, top_k
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.collaborative.als import AlsConfig, fit_als
from feast_recsys.models.collaborative.bpr import BprConfig, fit_bpr
from feast_recsys.models.collaborative.ease import EaseConfig, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.collaborative.shared import Model
from feast_recsys.models.collaborative.tuning import Contender, tune
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.retrieval.scoring import seen_mask
from feast_recsys.models.training.loop import Run

Ints = npt.NDArray[np.int64]

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
    "BPR": Contender(
        fit_bpr,
        BprConfig,
        {"iterations": (50,), "learning_rate": (0.02, 0.05), "regularization": (0.01, 0.02, 0.05)},
    ),
}


def choose_baselines(
    data: TrainingData, seed: int = 0, progress: Reporter = SILENT, *, without: Collection[str] = ()
) -> dict[str, Callable[[Histories], Model]]:
    """Baselines with the parameters that gave the best NDCG@10 on validation, as functions that fit histories.

    Those that have parameters have the same number of trials. EASE is left out of catalogues that are too large for it.

    Args:
        data: What they learn from, and are judged by.
        seed: Of the fits.
        progress: Hears of trials.
        without: Names of `CONTENDERS` to leave out.
    """
    contenders = {
        name: contender
        for name, contender in CONTENDERS.items()
        if name not in without and (name != "EASE" or data.items <= EASE_ITEMS)
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
