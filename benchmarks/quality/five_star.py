"""Top-N on the five-star ratings of MovieLens 1M: the multinomial autoencoders beside collaborative baselines.

The protocol of the "ours" split in "A Troubling Analysis of Reproducibility and Progress in Recommender Systems
Research" (Ferrari Dacrema et al. 2021): 80/20 by user, whole catalogue, seen items left out, recall over |T|.
Everything is chosen by Recall@20 on a tenth of the training pairs; the final model has them all, and as many epochs as
were best.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.quality.data import Split, five_star
from benchmarks.quality.study import MINUTES, Options, Study

from feast_recsys.evaluation.full_ranking import Scorer, means, measure, rank_users
from feast_recsys.evaluation.relevance import Relevant
from feast_recsys.models.autoencoders.multinomial import MultDaeConfig, MultVaeConfig
from feast_recsys.models.autoencoders.multinomial_training import fit_mult_dae, fit_mult_vae
from feast_recsys.models.collaborative.als import AlsConfig, fit_als
from feast_recsys.models.collaborative.bpr import BprConfig, fit_bpr
from feast_recsys.models.collaborative.ease import EaseConfig, fit_ease
from feast_recsys.models.collaborative.item_knn import ItemKnnConfig, fit_item_knn
from feast_recsys.models.collaborative.popularity import PopularityConfig, fit_popularity
from feast_recsys.models.collaborative.tuning import Contender, tune
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.loop import Run

CUTS = (20, 100)
TRIALS = 12
BASELINES = {
    "popularity": Contender(fit_popularity, PopularityConfig, {}),
    "item-kNN": Contender(fit_item_knn, ItemKnnConfig, {"k": (50, 100, 200, 400), "shrinkage": (0.0, 10.0, 50.0)}),
    "EASE": Contender(
        fit_ease,
        EaseConfig,
        {"regularization": (100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 750.0, 900.0, 1100.0, 1400.0, 1700.0, 2000.0)},
    ),
    "ALS": Contender(
        fit_als, AlsConfig, {"factors": (64, 96), "regularization": (50.0, 100.0, 200.0), "alpha": (10.0, 20.0)}
    ),
    "BPR": Contender(
        fit_bpr,
        BprConfig,
        {"learning_rate": (0.02, 0.05), "regularization": (0.01, 0.02, 0.04), "correction": (0.5, 1.0)},
    ),
}
DAE = MultDaeConfig()
VAE = MultVaeConfig()

Floats = npt.NDArray[np.float32]


def study(options: Options) -> Study:
    """Rows of the five-star table."""
    folder = options.data / "ml1m-five-star"
    trials = 1 if options.small else TRIALS
    dae, vae = (replace(config, epochs=1) if options.small else config for config in (DAE, VAE))
    rows = {
        **{name: partial(_baseline, folder, contender, trials) for name, contender in BASELINES.items()},
        "Mult-VAE": partial(_autoencoder, folder, fit_mult_vae, vae),
        "Mult-DAE": partial(_autoencoder, folder, fit_mult_dae, dae),
    }
    return Study(
        name="five_star",
        title="ML-1M, ratings of 5 as positives, random 80/20 by user, whole catalogue of 3,232, recall over |T|",
        rows=rows,
        metrics=("recall@20", "map@20", "recall@100"),
        facts={
            "checksums": dict(_split(folder, options.seeds[0]).checksums),
            "settings": {"Mult-DAE": asdict(dae), "Mult-VAE": asdict(vae)},
            "searched": {name: dict(contender.grid) for name, contender in BASELINES.items()},
            "trials": trials,
            "chosen by": "Recall@20 on validation: baselines and the number of epochs for each seed, the autoencoders' "
            "other hyperparameters on seed 0",
        },
        published={
            "popularity": {"recall@20": 0.1892, "map@20": 0.0584, "recall@100": 0.4226},
            "item-kNN cosine": {"recall@20": 0.2929, "map@20": 0.1154, "recall@100": 0.5829},
            "iALS": {"recall@20": 0.3033, "map@20": 0.1183, "recall@100": 0.5925},
            "SLIM ElasticNet": {"recall@20": 0.3069, "map@20": 0.1265, "recall@100": 0.6001},
            "EASE": {"recall@20": 0.3085, "map@20": 0.1249, "recall@100": 0.6010},
        },
        notes=(
            "Published: one random split of the same kind, table 33 of the paper's appendix; ours are five others.",
            "Final models are fitted on train and validation together, networks for the chosen number of epochs.",
        ),
    )


def _baseline(folder: Path, contender: Contender, trials: int, seed: int) -> Mapping[str, float]:
    split, run = _split(folder, seed), Run(seed=seed)
    tuned = tune(
        {"it": contender}, split.train, lambda m: _recall(m, split.train, split.wanted), budget=trials, run=run
    )
    best = tuned["it"].best
    began = time.monotonic()
    model = contender.fit(split.both, best.config, run)
    minutes = (time.monotonic() - began) / 60
    chosen = {name: float(getattr(best.config, name)) for name in contender.grid}
    return {**_test(model, split), **chosen, MINUTES: minutes}


def _autoencoder(
    folder: Path, fit: Callable[..., tuple[Encoders, Any]], config: MultDaeConfig | MultVaeConfig, seed: int
) -> Mapping[str, float]:
    split = _split(folder, seed)
    began = time.monotonic()
    _, course = fit(split.train, config, Run(seed=seed), validate=lambda e: _recall(e, split.train, split.wanted))
    encoders, _ = fit(split.both, config, Run(seed=seed), epochs=course.best)
    minutes = (time.monotonic() - began) / 60
    chosen = {"epochs": float(course.best), "validation recall@20": max(course.values)}
    return {**_test(encoders, split), **chosen, MINUTES: minutes}


def _recall(scorer: Scorer, given: Histories, wanted: Relevant) -> float:
    return means(measure(_ranked(scorer, given, 20), wanted, (20,)))["recall@20"]


def _test(scorer: Scorer, split: Split) -> dict[str, float]:
    return means(measure(_ranked(scorer, split.both, max(CUTS)), split.test, CUTS))


def _ranked(scorer: Scorer, given: Histories, k: int) -> npt.NDArray[np.int64]:
    """Users of about the same length side by side: encoders then have little padding."""
    order = np.argsort(given.lengths, kind="stable")
    ranked = np.empty((len(given), k), np.int64)
    ranked[order] = rank_users(scorer, given, k, chosen=order)
    return ranked


@lru_cache(maxsize=1)
def _split(folder: Path, seed: int) -> Split:
    return five_star(folder, seed)
