"""Trains the Wide & Deep model on the candidates of a trained retrieval model."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.repo import Repo
from feast_recsys.models.build import build_modules
from feast_recsys.models.calibration import fit_platt
from feast_recsys.models.candidates import RankingSet, retrieved_set, training_set
from feast_recsys.models.checkpoint import Checkpoint
from feast_recsys.models.data import DataConfig, TrainingData, load_data
from feast_recsys.models.events import Ints
from feast_recsys.models.ftrl import Ftrl
from feast_recsys.models.inputs import InputFitter, quantiles
from feast_recsys.models.seeds import seeded
from feast_recsys.models.tensors import Floats, ModelTensors, model_tensors
from feast_recsys.models.two_tower import ItemEncoder
from feast_recsys.models.wide_deep import RETRIEVAL_SCORE, WideDeep, WideDeepConfig

SCORE_INPUT = "retrieval_score"


@dataclass(frozen=True)
class _Batch:
    """Rows of a ranking set as module inputs, padding left in: its labels weigh nothing."""

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor


def train_ranking(
    repo: Repo,
    recommender: str,
    retrieval: Checkpoint,
    *,
    seed: int = 0,
    config: WideDeepConfig | None = None,
    data: TrainingData | None = None,
    progress: Reporter = SILENT,
) -> Checkpoint:
    """Trains the ranking model of a recommender on what its retrieval model finds.

    Stops early by the log-loss of validation users' candidates; the probabilities are calibrated on the same.

    Args:
        repo: The repository.
        recommender: Name in the settings.
        retrieval: What `train_retrieval` gave; its item table is where the ranker's starts from.
        seed: Same seed, same data, same machine: same weights.
        config: Hyperparameters.
        data: What `load_data` gave for this recommender; read here if None.
        progress: Hears of the steps.

    Raises:
        InvalidSettings: the settings have no ranking, no `ranking.features`, or crosses that don't fit; names it.
        InvalidRepository: see `load_data`.
    """
    config = config or WideDeepConfig()
    data = data or load_data(repo, recommender, DataConfig(), progress=progress)
    ranking = data.settings.ranking
    field = f"recsys.recommenders.{recommender}.ranking"
    if ranking is None or not data.ranking_schemas:
        raise InvalidSettings(f"{field}.features is not set; name a feature service", field=f"{field}.features")
    config = dataclasses.replace(config, dimension=retrieval.signature.dimension)
    encoder_inputs = [spec for graph in retrieval.signature.graphs.values() for spec in graph.inputs]
    found_by = model_tensors(data, encoder_inputs, retrieval.vocabularies)
    k = data.settings.candidates
    progress.start("retrieve training candidates")
    train = training_set(data, retrieval, found_by, config, seed, progress=progress)
    held_out = retrieved_set(retrieval.modules, found_by, data, data.validation, k)
    progress.done(f"{int(train.real.sum())} candidates, {int(train.labels.sum())} of them liked")

    fitter = InputFitter(data, config.history_length)
    scores = train.scores[train.real].astype(np.float64)
    score = Input(SCORE_INPUT, RETRIEVAL_SCORE, Side.ITEM, DType.FLOAT32, default=float(np.float32(scores.mean())))
    inputs = fitter.fit(data.ranking_schemas, (fitter.item_id(), score))
    history = next((s.name for s in inputs.specs if s.feature == data.settings.retrieval.history), None)
    kept: dict[str, Any] = {
        "family": ranking.family,
        "hyperparameters": asdict(config),
        "knots": {**inputs.knots, SCORE_INPUT: quantiles(scores)},
        "item_id": inputs.specs[0].name,
        "history": history,
        "crosses": [list(pair) for pair in ranking.crosses],
        "score": [float(scores.mean()), float(scores.std()) or 1.0],
    }
    specs = (*inputs.of(Side.USER), *inputs.of(Side.ITEM))
    graphs = {Role.RANKER: Graph(Role.RANKER, specs, "probability", ranking.features)}
    signature = Signature(ranking.model, Stage.RANKING, graphs)
    tensors = model_tensors(data, specs, inputs.vocabularies)
    progress.start("train ranking")
    with seeded(seed):
        sizes = {file: len(v) for file, v in inputs.vocabularies.items()}
        ranker = build_modules(signature, sizes, kept)[Role.RANKER]
        assert isinstance(ranker, WideDeep)
        _warm_start(ranker, inputs.vocabularies[fitter.item_file], retrieval)
        losses, epochs = _fit(ranker, tensors, data, train, held_out, config, seed, progress)
    logits = score_candidates(ranker, tensors, data, held_out)[held_out.real]
    scale, shift = fit_platt(logits, held_out.labels[held_out.real])
    ranker.scale.fill_(scale)
    ranker.shift.fill_(shift)
    calibrated = _log_loss(scale * logits + shift, held_out.labels[held_out.real])
    progress.done(f"log-loss {calibrated:.4f} on validation, epoch {epochs} of {len(losses)}")
    metrics = {"validation": {"log_loss": calibrated, "users": len(data.validation), "epochs": list(losses)}}
    facts = {
        "training": {"seed": seed, "data": data.fingerprint, "candidates": int(train.real.sum()), "epochs": epochs},
        "metrics": {"validation": {"log_loss": round(calibrated, 6)}},
    }
    signature = Signature(signature.name, signature.stage, graphs, metadata=facts)
    return Checkpoint({Role.RANKER: ranker.eval()}, signature, inputs.vocabularies, kept | {"epochs": epochs}, metrics)


@torch.no_grad()
def score_candidates(ranker: WideDeep, tensors: ModelTensors, data: TrainingData, candidates: RankingSet) -> Floats:
    """[q, c] logits before calibration; those of padding mean nothing."""
    ranker.eval()
    blocks = [np.empty((0, candidates.items.shape[1]), np.float32)]
    for rows in np.array_split(np.arange(len(candidates.queries)), max(len(candidates.queries) // 64, 1)):
        if len(rows):
            batch = _batch(tensors, data, candidates, rows)
            blocks.append(ranker.logits(batch.inputs).reshape(len(rows), -1).numpy())
    return np.concatenate(blocks)


def _fit(
    ranker: WideDeep,
    tensors: ModelTensors,
    data: TrainingData,
    train: RankingSet,
    held_out: RankingSet,
    config: WideDeepConfig,
    seed: int,
    progress: Reporter,
) -> tuple[tuple[float, ...], int]:
    """Trains in place; the log-losses on validation by epoch, and the number of the best one."""
    random = np.random.default_rng(seed)
    usable = np.flatnonzero(train.real.any(1))
    with torch.no_grad():
        share = max(float(train.labels.sum() / train.real.sum()), 1e-6)
        last = ranker.tower[-1]
        assert isinstance(last, nn.Linear)
        last.bias.fill_(float(np.log(share / (1.0 - share))))
    crosses, linear = ranker.wide_parameters()
    groups: list[dict[str, Any]] = [{"params": linear, "alpha": config.linear_alpha}]
    if crosses:
        groups.append({"params": crosses})
    wide = Ftrl(groups, config.alpha, l1=config.l1)
    # AdaGrad forgets the scale of the loss, FTRL's published form wants a sum: so the loss is one.
    deep = torch.optim.Adagrad(ranker.deep_parameters(), lr=config.learning_rate)
    order = np.empty(0, np.int64)
    losses: list[float] = []
    kept, kept_epoch = copy.deepcopy(ranker.state_dict()), 0
    batches = max(min(config.queries, len(usable)) // config.batch, 1)
    real, truth = held_out.real, held_out.labels[held_out.real]
    for epoch in range(config.epochs):
        ranker.train()
        size = batches * min(config.batch, len(usable))
        while len(order) < size:
            order = np.concatenate([order, random.permutation(usable)])
        chosen, order = order[:size], order[size:]
        for step, rows in enumerate(np.array_split(chosen, batches)):
            batch = _batch(tensors, data, train, rows)
            wide.zero_grad()
            deep.zero_grad()
            loss = functional.binary_cross_entropy_with_logits(
                ranker.logits(batch.inputs), batch.labels, weight=batch.weights, reduction="sum"
            )
            loss.backward()  # type: ignore[no-untyped-call]
            wide.step()
            deep.step()
            progress.progress(epoch * batches + step + 1, config.epochs * batches)
        logits = score_candidates(ranker, tensors, data, held_out)[real]
        scale, shift = fit_platt(logits, truth)
        losses.append(_log_loss(scale * logits + shift, truth))
        if losses[-1] < min(losses[:-1], default=np.inf):
            kept, kept_epoch = copy.deepcopy(ranker.state_dict()), epoch + 1
        elif epoch + 1 - kept_epoch >= config.patience:
            break
    ranker.load_state_dict(kept)
    return tuple(losses), kept_epoch


def _batch(tensors: ModelTensors, data: TrainingData, candidates: RankingSet, rows: Ints) -> _Batch:
    queries = candidates.queries
    users, times = queries.users[rows], queries.times[rows]
    states = data.state_rows(users, times)
    items, real = candidates.items[rows], candidates.real[rows]
    item_rows = data.day_of(times)[:, None] * data.items + np.maximum(items, 0)
    inputs = tensors.users(states) | tensors.items(item_rows.reshape(-1))
    inputs[SCORE_INPUT] = torch.from_numpy(candidates.scores[rows].reshape(-1))
    labels = torch.from_numpy(candidates.labels[rows].reshape(-1).astype(np.float32))
    return _Batch(inputs, labels, torch.from_numpy(real.reshape(-1).astype(np.float32)))


def _log_loss(logits: Floats, labels: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    signed = np.where(labels, logits, -logits).astype(np.float64)
    return float(np.mean(np.logaddexp(0.0, -signed)))


def _warm_start(ranker: WideDeep, vocabulary: Vocabulary, retrieval: Checkpoint) -> None:
    """Copies the retrieval model's item vectors for the items that both know."""
    encoder = retrieval.modules[Role.ITEM_ENCODER]
    assert isinstance(encoder, ItemEncoder)
    file = encoder.item_id.vocabulary
    assert file is not None
    rows = torch.from_numpy(retrieval.vocabularies[file].encode(np.array(vocabulary.keys)))
    known = encoder.items.weight.detach()[torch.cat([torch.zeros(1, dtype=torch.int64), rows])]
    with torch.no_grad():
        ranker.items.weight.copy_(known)
        if ranker.history is not None:
            ranker.history.table.weight.copy_(known)
