"""Trains the two-tower model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Graph, Role, Signature, Stage
from feast_recsys.features.repo import Repo
from feast_recsys.models.build import build_modules
from feast_recsys.models.checkpoint import Checkpoint
from feast_recsys.models.data import DataConfig, TrainingData, load_data
from feast_recsys.models.events import Ints
from feast_recsys.models.inputs import InputFitter
from feast_recsys.models.queries import Queries
from feast_recsys.models.scoring import recall, retrieve
from feast_recsys.models.seeds import seeded
from feast_recsys.models.tensors import ModelTensors, model_tensors
from feast_recsys.models.two_tower import TwoTowerConfig, in_batch_loss, log_sampling_probability, split_sides


@dataclass(frozen=True)
class Fitted:
    """Trained encoders.

    Attributes:
        encoders: By role, in eval mode, as of the best epoch.
        epochs: Number of the best epoch, from 1.
        recalls: Validation recall after each epoch; empty without validation.
    """

    encoders: dict[Role, nn.Module]
    epochs: int
    recalls: tuple[float, ...]


def train_retrieval(
    repo: Repo,
    recommender: str,
    *,
    seed: int = 0,
    config: TwoTowerConfig | None = None,
    data: TrainingData | None = None,
    progress: Reporter = SILENT,
) -> Checkpoint:
    """Trains the retrieval model of a recommender on the interactions and feature services of its settings.

    Stops early by the recall of validation users' likes among as many candidates as the recommender serves.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        seed: Same seed, same data, same machine: same weights.
        config: Hyperparameters.
        data: What `load_data` gave for this recommender; read here if None.
        progress: Hears of the steps.

    Raises:
        InvalidSettings, InvalidRepository: see `load_data`; also when no user can be held out for validation.
    """
    config = config or TwoTowerConfig()
    data = data or load_data(repo, recommender, DataConfig(), progress=progress)
    if not len(data.validation):
        raise InvalidSettings(
            "no user has enough interactions to be held out for validation; at least 8 are needed",
            field="recsys.interactions",
        )
    fitter = InputFitter(data, config.history_length)
    inputs = fitter.fit((*data.query_schemas, *data.item_schemas), (fitter.item_id(),))
    query, item = split_sides(inputs)
    retrieval = data.settings.retrieval
    history = next((s.name for s in query if s.feature == retrieval.history), None)
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, query, "query", retrieval.query),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, item, "vector", retrieval.item),
    }
    signature = Signature(retrieval.model, Stage.RETRIEVAL, graphs, config.dimension)
    kept: dict[str, Any] = {
        "family": retrieval.family, "hyperparameters": asdict(config), "knots": dict(inputs.knots), "history": history,
    }  # fmt: skip
    sizes = {file: len(v) for file, v in inputs.vocabularies.items()}
    tensors = model_tensors(data, inputs.specs, inputs.vocabularies)
    k = data.settings.candidates
    progress.start("train retrieval")
    with seeded(seed):
        modules = build_modules(signature, sizes, kept)
        fitted = fit_encoders(modules, tensors, data, data.training, config, seed, recall_at=k, progress=progress)
    best = fitted.recalls[fitted.epochs - 1]
    progress.done(f"recall@{k} {best:.3f} on validation, epoch {fitted.epochs} of {len(fitted.recalls)}")
    metrics = {"validation": {f"recall@{k}": best, "users": len(data.validation), "epochs": list(fitted.recalls)}}
    facts = {
        "training": {
            "seed": seed,
            "data": data.fingerprint,
            "likes": len(data.training.items),
            "epochs": fitted.epochs,
        },
        "metrics": {"validation": {f"recall@{k}": round(best, 6)}},
    }
    signature = Signature(signature.name, signature.stage, graphs, config.dimension, facts)
    return Checkpoint(fitted.encoders, signature, inputs.vocabularies, kept | {"epochs": fitted.epochs}, metrics)


def fit_encoders(
    encoders: Mapping[Role, nn.Module],
    tensors: ModelTensors,
    data: TrainingData,
    queries: Queries,
    config: TwoTowerConfig,
    seed: int,
    *,
    recall_at: int | None = None,
    epochs: int | None = None,
    progress: Reporter = SILENT,
) -> Fitted:
    """Trains encoders in place. Call inside `seeded`.

    Args:
        encoders: Both, untrained.
        tensors: Their inputs.
        data: Training data.
        queries: What to train on, with the likes of one moment each.
        config: Hyperparameters.
        seed: Of the order of the likes.
        recall_at: Stops early by the recall of this many candidates on validation; None trains all epochs.
        epochs: Instead of the config's.
        progress: Hears of batches.
    """
    random = np.random.default_rng(seed)
    rows, liked = queries.rows, queries.items
    states, days = data.states(queries)[rows], data.day_of(queries.times)[rows]
    order = np.argsort(np.argsort(queries.times[rows], kind="stable"))
    counts = torch.from_numpy(np.bincount(liked, minlength=data.items))
    batch = min(config.batch, len(liked))
    log_q = log_sampling_probability(counts, batch, config.uniform)
    modules = nn.ModuleList(encoders.values())
    adam = torch.optim.Adam(modules.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, config.decay)
    recalls: list[float] = []
    kept, kept_epoch = copy.deepcopy(modules.state_dict()), 0
    total = epochs or config.epochs
    batches = max(len(liked) // batch, 1)
    for epoch in range(total):
        modules.train()
        moved = np.argsort(order + random.uniform(0, config.neighbourhood, len(order)), kind="stable")
        parts = np.array_split(moved, batches)
        for step, n in enumerate(random.permutation(batches).tolist()):
            chosen = parts[n]
            adam.zero_grad()
            loss = _loss(encoders, tensors, data, states[chosen], days[chosen], liked[chosen], log_q, config, random)
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            progress.progress(epoch * batches + step + 1, total * batches)
        schedule.step()
        if recall_at is None:
            continue
        recalls.append(recall(retrieve(encoders, tensors, data, data.validation, recall_at), data.validation))
        if recalls[-1] > max(recalls[:-1], default=-1.0):
            kept, kept_epoch = copy.deepcopy(modules.state_dict()), epoch + 1
        elif epoch + 1 - kept_epoch >= config.patience:
            break
    if recall_at is not None:
        modules.load_state_dict(kept)
    modules.eval()
    return Fitted(dict(encoders), kept_epoch or total, tuple(recalls))


def _loss(
    encoders: Mapping[Role, nn.Module],
    tensors: ModelTensors,
    data: TrainingData,
    states: Ints,
    days: Ints,
    liked: Ints,
    log_q: torch.Tensor,
    config: TwoTowerConfig,
    random: np.random.Generator,
) -> torch.Tensor:
    drawn = random.integers(0, data.items, config.uniform)
    columns = np.concatenate([liked, drawn])
    column_days = np.concatenate([days, random.choice(days, config.uniform)])
    queries = encoders[Role.QUERY_ENCODER](**tensors.users(states))
    vectors = encoders[Role.ITEM_ENCODER](**tensors.items(column_days * data.items + columns))
    index = torch.from_numpy(columns)
    return in_batch_loss(queries, vectors, torch.from_numpy(liked), index, log_q[index], config.temperature)
