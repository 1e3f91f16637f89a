"""Trains the Wide & Deep model on the candidates of a trained retrieval model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Role
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.events import Ints
from feast_recsys.models.data.training_data import DataConfig, TrainingData, load_data
from feast_recsys.models.inputs.tensors import Floats, ModelTensors, model_tensors
from feast_recsys.models.ranking.build import build_ranker
from feast_recsys.models.ranking.calibration import fit_platt, weighted_log_loss
from feast_recsys.models.ranking.candidates import RankingSet
from feast_recsys.models.ranking.loss import joint_optimizers, ranking_loss
from feast_recsys.models.ranking.setup import (
    SCORE_INPUT,
    SOURCE_INPUT,
    RankingCandidates,
    label_values,
    ranker_setup,
    ranking_candidates,
)
from feast_recsys.models.ranking.sources import check_past
from feast_recsys.models.ranking.warm_start import WarmStart, start_from_ranking, start_from_retrieval, start_width
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.devices import to_device
from feast_recsys.models.training.loop import Course, Report, Run, train_epochs
from feast_recsys.models.training.seeds import seeded


@dataclass(frozen=True)
class _Judge:
    """Judges a ranker by the candidates of the validation users.

    Attributes:
        tensors, data, held_out: What is ranked.
        weights: [n] of the candidates that are there; None for 1.
    """

    tensors: ModelTensors
    data: TrainingData
    held_out: RankingSet
    weights: Floats | None

    def calibrate(self, ranker: WideDeep) -> tuple[float, float, float]:
        """Platt's scale and shift, and the log-loss with them."""
        real = self.held_out.real
        logits, liked = score_candidates(ranker, self.tensors, self.data, self.held_out)[real], self.held_out.labels
        scale, shift = fit_platt(logits, liked[real], weights=self.weights)
        return scale, shift, weighted_log_loss(scale * logits + shift, liked[real], self.weights)


def train_ranking(
    repo: Repo,
    recommender: str,
    retrieval: Checkpoint,
    *,
    seed: int = 0,
    config: WideDeepConfig | None = None,
    data: TrainingData | None = None,
    progress: Reporter = SILENT,
    warm_start: Checkpoint | None = None,
    run: Run | None = None,
    candidates: RankingCandidates | None = None,
) -> Checkpoint:
    """Trains the ranking model of a recommender on what its retrieval model finds.

    Stops early by the log-loss of validation users' candidates; the probabilities are calibrated on the same. With
    `weighted_by` both are weighted as the training is: Platt scaling to plain labels would turn odds that estimate
    expected values back into those of a like.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        retrieval: What `train_retrieval` gave; its item table is where the ranker's starts from.
        seed: Same seed, same data, same machine: same weights.
        config: Hyperparameters.
        data: What `load_data` gave for this recommender; read here if None.
        progress: Hears of the steps.
        warm_start: An older ranking model to start from instead of the retrieval model's item table. What was taken
            over, and the log-loss before the first epoch, are in the metadata under training.warm_start.
        run: How it runs; `seed` and `progress` above take the place of its own.
        candidates: What `ranking_candidates` gave; retrieved here if None.

    Raises:
        InvalidSettings: the settings have no ranking, no `ranking.features`, crosses that don't fit, no label to weigh
            by, or a source whose past candidates can't be known; or the warm start is no Wide & Deep ranker; names it.
        InvalidRepository: see `load_data`.
    """
    config = config or WideDeepConfig()
    data = data or load_data(repo, recommender, DataConfig(), progress=progress)
    field = f"recsys.recommenders.{recommender}.ranking"
    if data.settings.ranking is None or not data.ranking_schemas:
        raise InvalidSettings(f"{field}.features is not set; name a feature service", field=f"{field}.features")
    check_past(data.settings, f"recsys.recommenders.{recommender}", tuple(data.user_columns), tuple(data.item_columns))
    if config.weighted_by is not None and (repo.settings.interactions is None or not repo.settings.interactions.label):
        raise InvalidSettings(
            "weighted_by: label needs a label; name its column in recsys.interactions.label",
            field="recsys.interactions.label",
        )
    config = replace(config, dimension=start_width(retrieval) or config.dimension)
    run = replace(run or Run(), seed=seed, progress=progress)
    found = candidates or ranking_candidates(data, retrieval, config, run)
    setup = ranker_setup(data, found.train, config)
    signature, vocabularies = setup.signature, setup.vocabularies
    tensors = model_tensors(data, signature.graphs[Role.RANKER].inputs, vocabularies)
    real = found.held_out.real
    weights = label_values(found.held_out, data.events)[real] if config.weighted_by is not None else None
    judge = _Judge(tensors, data, found.held_out, weights)

    progress.start("train ranking")
    with seeded(seed):
        ranker = build_ranker(signature, {file: len(v) for file, v in vocabularies.items()}, setup.config)
    assert isinstance(ranker, WideDeep)
    ranker.start_at(float(np.clip(found.train.labels.sum() / max(found.train.real.sum(), 1), 1e-6, 1 - 1e-6)))
    start: WarmStart | None = None
    if warm_start is not None:
        start = start_from_ranking(ranker, vocabularies, warm_start)
        start = replace(start, log_loss=judge.calibrate(ranker)[2])
    elif setup.item_file in vocabularies:
        start_from_retrieval(ranker, vocabularies[setup.item_file], retrieval)
    course = fit_ranker(
        ranker, tensors, data, found.train, config, run, validate=lambda: -judge.calibrate(ranker)[2]
    )  # fmt: skip
    scale, shift, log_loss = judge.calibrate(ranker)
    ranker.scale.fill_(scale)
    ranker.shift.fill_(shift)
    losses = [-value for value in course.values]
    taken = f", started from {start}" if start is not None else ""
    progress.done(f"log-loss {log_loss:.4f} on validation, epoch {course.best} of {len(losses)}{taken}")
    facts: dict[str, Any] = {
        "training": {
            "seed": seed, "data": data.fingerprint, "candidates": int(found.train.real.sum()), "epochs": course.best,
        },
        "metrics": {"validation": {"log_loss": round(log_loss, 6)}},
    }  # fmt: skip
    if start is not None:
        facts["training"]["warm_start"] = start.to_dict()
    return Checkpoint(
        {Role.RANKER: ranker.eval()},
        replace(signature, metadata=facts),
        vocabularies,
        {**setup.config, "epochs": course.best},
        {"validation": {"log_loss": log_loss, "users": len(data.validation), "epochs": losses}},
    )


@torch.no_grad()
def score_candidates(ranker: WideDeep, tensors: ModelTensors, data: TrainingData, candidates: RankingSet) -> Floats:
    """[q, c] logits before calibration; those of padding mean nothing."""
    ranker.eval()
    blocks = [np.empty((0, candidates.items.shape[1]), np.float32)]
    for rows in np.array_split(np.arange(len(candidates.queries)), max(len(candidates.queries) // 64, 1)):
        if len(rows):
            inputs = to_device(_inputs(tensors, data, candidates, rows), ranker.scale.device)
            blocks.append(ranker.logits(inputs).reshape(len(rows), -1).cpu().numpy())
    return np.concatenate(blocks)


def fit_ranker(
    ranker: WideDeep,
    tensors: ModelTensors,
    data: TrainingData,
    train: RankingSet,
    config: WideDeepConfig,
    run: Run,
    *,
    epochs: int | None = None,
    validate: Callable[[], float] | None = None,
) -> Course:
    """Trains in place; the ranker is on the CPU before and after.

    Args:
        ranker: With the weights to start from.
        tensors: Its inputs.
        data: Training data.
        train: Candidates to learn from.
        config: Hyperparameters.
        run: How.
        epochs: Instead of the config's.
        validate: Higher is better; stops early by it. None trains all epochs.
    """
    ranker.to(run.device)
    usable = np.flatnonzero(train.real.any(1))
    batches = max(min(config.queries, len(usable)) // config.batch, 1)
    size = batches * min(config.batch, len(usable))
    optimizers = joint_optimizers(ranker, config)
    updates = run.updates(ranker, *optimizers.values())
    values = label_values(train, data.events) if config.weighted_by is not None else None

    def batch(rows: Ints, array: np.ndarray[Any, Any]) -> Tensor:
        return torch.from_numpy(array[rows].astype(np.float32)).to(run.device)

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        chosen = random.permutation(usable)[:size]
        total = 0.0
        for done, rows in enumerate(np.array_split(chosen, batches), start=1):
            inputs = to_device(_inputs(tensors, data, train, rows), run.device)
            liked, real = batch(rows, train.labels), batch(rows, train.real)
            weights = batch(rows, values) if values is not None else None
            with run.autocast():
                logits = ranker.logits(inputs).reshape(liked.shape)
                # Padding stays in, and counts for nothing.
                loss = ranking_loss(logits, liked, real, config.loss, weights)
            updates(loss)
            mean = float(loss.detach() / real.sum())
            total += mean
            report(done, batches, loss=mean, examples=len(rows))
        return total / batches

    course = train_epochs(
        ranker, {**optimizers, "updates": updates}, step, run,
        epochs=epochs or config.epochs, patience=config.patience, validate=validate,
    )  # fmt: skip
    ranker.cpu()
    return course


def _inputs(tensors: ModelTensors, data: TrainingData, candidates: RankingSet, rows: Ints) -> dict[str, Tensor]:
    """Module inputs of some queries, padding left in."""
    users, times = candidates.queries.users[rows], candidates.queries.times[rows]
    item_rows = data.day_of(times)[:, None] * data.items + np.maximum(candidates.items[rows], 0)
    inputs = tensors.users(data.state_rows(users, times)) | tensors.items(item_rows.reshape(-1))
    inputs[SCORE_INPUT] = torch.from_numpy(candidates.scores[rows].reshape(-1))
    if candidates.sources is not None:
        # The vocabulary has the sources in their order, from row 1.
        inputs[SOURCE_INPUT] = torch.from_numpy(candidates.sources[rows].reshape(-1) + 1)
    return inputs
