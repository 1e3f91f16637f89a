"""Both stages on MovieLens 100K, end to end: what `make demo` trains, with several seeds.

The repository of the demo is copied into DIR/movielens-repo, with its data, and trained there as `feast-recsys train
--refit` does. Every row of a seed comes from one training; intervals over users are those of `feast-recsys evaluate`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.quality.study import MINUTES, Options, Study

from feast_recsys.evaluation.protocol import Evaluation, evaluate_recommender
from feast_recsys.features.repo import open_repo
from feast_recsys.models.data.training_data import DataConfig, load_data
from feast_recsys.models.refit import refit_ranker, refit_retrieval
from feast_recsys.models.train import train_family, train_ranker
from feast_recsys.models.training.loop import Run

NAMES = {
    "popularity": "popularity", "item-kNN": "item-kNN", "EASE": "EASE", "ALS": "ALS",
    "Retrieve's own order": "retrieve", "Retrieve + Rank": "rank",
}  # fmt: skip


def study(options: Options) -> Study:
    """Rows of the pipeline's table."""
    folder = options.data / "movielens-repo"
    return Study(
        "pipeline",
        "MovieLens 100K, the last ten ratings of each user, whole catalogue of 1,682, two-tower and Wide & Deep",
        {name: partial(_row, folder, key) for name, key in NAMES.items()},
        ("ndcg@10", "recall@50", "ours is better by", "lower end", "auc", "log_loss", "ece"),
        facts={"chosen by": "validation: epochs, calibration, baselines with six trials each"},
        notes=(
            "Ours is better by: NDCG@10 of Retrieve + Rank less that of the row, user by user; below it the lower end "
            "of its 95 % bootstrap interval over users. All three are means over the seeds.",
            "Minutes are of training, refit included: of the first stage beside its own order, of both beside Rank. "
            "Beside the baselines stands the time of the whole evaluation, which tunes and trains all of them.",
        ),
    )


def _row(folder: Path, key: str, seed: int) -> Mapping[str, float]:
    run = _trained(folder, seed)
    found = run.found
    row = {"ndcg@10": found.ndcg[key].mean, MINUTES: run.minutes.get(key, run.minutes["evaluation"])}
    if key in found.gain:
        row |= {"ours is better by": found.gain[key].mean, "lower end": found.gain[key].low}
    if key == "retrieve":
        row["recall@50"] = found.recall.mean
    if key == "rank" and found.ranking is not None:
        quality = found.ranking
        row |= {"auc": quality.auc, "log_loss": quality.log_loss, "ece": quality.calibration_error}
    return row


@dataclass(frozen=True)
class Trained:
    """One seed: what the evaluation found, and the minutes of both stages, of the first and of the evaluation."""

    found: Evaluation
    minutes: Mapping[str, float]


@lru_cache(maxsize=8)
def _trained(folder: Path, seed: int) -> Trained:
    _prepare(folder)
    repo = open_repo(folder)
    [name] = repo.settings.recommenders
    data, run = load_data(repo, name, DataConfig(refit=True)), Run(seed=seed)
    clock = Stopwatch()
    retrieval = train_family(repo, name, data=data, run=run)
    first = clock.lap()
    ranking = train_ranker(repo, name, retrieval, data=data, run=run)
    second = clock.lap()
    retrieval = refit_retrieval(retrieval, data, run)
    first += clock.lap()
    ranking = refit_ranker(ranking, retrieval, data, run)
    second += clock.lap()
    found = evaluate_recommender(data, retrieval, ranking, seed=seed)
    return Trained(found, {"retrieve": first, "rank": first + second, "evaluation": clock.lap()})


class Stopwatch:
    """Minutes since the last look."""

    def __init__(self) -> None:
        self._since = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        minutes, self._since = (now - self._since) / 60, now
        return minutes


def _prepare(folder: Path) -> None:
    """The demo's repository, with data, applied; once."""
    if (folder / "data" / "registry.db").exists():
        return
    shutil.copytree(ROOT / "feature_repo", folder, dirs_exist_ok=True)
    feast = Path(sys.executable).parent / "feast"
    for command in ([sys.executable, "prepare.py"], [str(feast), "apply"]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
