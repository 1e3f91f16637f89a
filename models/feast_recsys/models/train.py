"""Training by the settings of a recommender: whatever families they name, with the hyperparameters that they give."""

from __future__ import annotations

from dataclasses import replace

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.models.content.families import train_content_model
from feast_recsys.models.data.training_data import DataConfig, TrainingData, load_data
from feast_recsys.models.families.registry import CONTENT_FAMILIES, HISTORY_FAMILIES, history_family
from feast_recsys.models.ranking.train import train_ranking
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.retrieval.history_models import train_history_model
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.configure import configure
from feast_recsys.models.training.loop import Run
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import train_retrieval


def train_family(
    repo: Repo, recommender: str, *, data: TrainingData | None = None, run: Run | None = None
) -> Checkpoint:
    """Trains the retrieval model of a recommender.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        data: What `load_data` gave for this recommender; read here if None.
        run: How; with seed 0 on the CPU if None.

    Raises:
        InvalidSettings, InvalidRepository: settings or features don't fit the family; names the setting.
    """
    run = run or Run()
    data = data or load_data(repo, recommender, DataConfig(), progress=run.progress)
    settings = data.settings.retrieval
    if not len(data.validation):
        raise InvalidSettings(
            "no user has enough interactions to be held out for validation; at least 8 are needed",
            field="recsys.interactions",
        )
    run = replace(run, subject=f"{data.fingerprint} {data.settings.model_dump_json()}")
    if settings.family in HISTORY_FAMILIES:
        return train_history_model(history_family(settings.family), data, recommender, run, settings.hyperparameters)
    if settings.family in CONTENT_FAMILIES:
        return train_content_model(repo, data, recommender, run)
    where = f"recsys.recommenders.{recommender}.retrieval.hyperparameters"
    config = configure(TwoTowerConfig, settings.hyperparameters, where)
    return train_retrieval(repo, recommender, config=config, data=data, run=run)


def train_ranker(
    repo: Repo,
    recommender: str,
    retrieval: Checkpoint,
    *,
    data: TrainingData | None = None,
    run: Run | None = None,
    warm_start: Checkpoint | None = None,
) -> Checkpoint:
    """Trains the ranking model of a recommender on what its retrieval model finds.

    Args:
        repo, recommender, data, run: As in `train_family`.
        retrieval: The trained retrieval model.
        warm_start: An older ranking model to start from; see `train_ranking`.

    Raises:
        InvalidSettings, InvalidRepository: see `train_ranking`.
    """
    run = run or Run()
    data = data or load_data(repo, recommender, DataConfig(), progress=run.progress)
    subject = f"{data.fingerprint} {data.settings.model_dump_json()}"
    if warm_start is not None:
        # A state that began elsewhere is another training.
        subject += f" from {warm_start.signature.name} {warm_start.signature.metadata.get('training')}"
    return train_ranking(
        repo, recommender, retrieval, seed=run.seed, config=ranker_config(data, recommender), data=data,
        progress=run.progress, warm_start=warm_start,
        run=replace(run, subject=subject),
    )  # fmt: skip


def ranker_config(data: TrainingData, recommender: str) -> WideDeepConfig:
    """The hyperparameters of a recommender's ranker.

    Raises:
        InvalidSettings: one is wrong; names it.
    """
    values = data.settings.ranking.hyperparameters if data.settings.ranking is not None else {}
    return configure(WideDeepConfig, values, f"recsys.recommenders.{recommender}.ranking.hyperparameters")
