"""Trains the two-tower model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.bundle.signature import Graph, Role, Signature, Stage
from feast_recsys.features.repo import Repo
from feast_recsys.models.data.histories import Ints
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import DataConfig, TrainingData, load_data
from feast_recsys.models.inputs.fitter import InputFitter
from feast_recsys.models.inputs.tensors import ModelTensors, model_tensors
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Report, Run, Stateful, train_epochs
from feast_recsys.models.training.seeds import seeded
from feast_recsys.models.two_tower.build import build_encoders
from feast_recsys.models.two_tower.examples import Batch, Moments, Source, on_cpu
from feast_recsys.models.two_tower.negatives import Columns, Sampler, sampled_softmax
from feast_recsys.models.two_tower.towers import ItemEncoder, TwoTowerConfig, split_sides


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
    run: Run | None = None,
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
        run: How, with a seed and a reporter of its own; on the CPU with the given ones if None.

    Raises:
        InvalidSettings, InvalidRepository: see `load_data`; also when no user can be held out for validation.
    """
    run = run or Run(seed=seed, progress=progress)
    seed, progress = run.seed, run.progress
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
    signature = Signature(retrieval.model, Stage.RETRIEVAL, graphs, config.width, bias=int(config.bias))
    kept: dict[str, Any] = {
        "family": retrieval.family, "hyperparameters": asdict(config), "knots": dict(inputs.knots), "history": history,
    }  # fmt: skip
    sizes = {file: len(v) for file, v in inputs.vocabularies.items()}
    tensors = model_tensors(data, inputs.specs, inputs.vocabularies)
    k = data.settings.candidates
    progress.start("train retrieval")
    with seeded(seed):
        modules = build_encoders(signature, sizes, kept)
        fitted = fit_encoders(modules, tensors, data, data.training, config, seed, recall_at=k, run=run)
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
    signature = replace(signature, metadata=facts)
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
    run: Run | None = None,
) -> Fitted:
    """Trains encoders in place on moments with their features. Build them inside `seeded`.

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
        run: How; on the CPU with the given seed and reporter if None.
    """
    source = Moments(data, tensors, queries, min(config.batch, len(queries.items)), config.neighbourhood)

    def validate() -> float:
        with on_cpu(encoders):
            return recall(retrieve(encoders, tensors, data, data.validation, recall_at or 1), data.validation)

    return fit_source(
        encoders, source, config, run or Run(seed=seed, progress=progress), epochs=epochs,
        validate=None if recall_at is None else validate,
    )  # fmt: skip


def fit_source(
    encoders: Mapping[Role, nn.Module],
    source: Source,
    config: TwoTowerConfig,
    run: Run,
    *,
    epochs: int | None = None,
    validate: Callable[[], float] | None = None,
) -> Fitted:
    """Trains encoders in place, wherever the examples come from.

    Args:
        encoders: Both, untrained.
        source: Where batches come from.
        config: Hyperparameters.
        run: How.
        epochs: Instead of the config's.
        validate: Higher is better; stops early by it. None trains all epochs.

    Raises:
        InvalidSettings: there is nothing to train on.
        InvalidArgument: hard negatives are wanted where a user has nearly all items.
    """
    if not source.counts.sum():
        raise InvalidSettings("there are no likes to train on", field="recsys.interactions")
    modules = nn.ModuleList(encoders.values()).to(run.device)
    adam = torch.optim.Adam(modules.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, config.decay)
    step = _Step(dict(encoders), source, config, run, adam, schedule, modules)
    states: dict[str, Stateful] = {"adam": adam, "schedule": schedule, "updates": step.updates, "mined": step}
    course = train_epochs(
        modules, states, step, run, epochs=epochs or config.epochs, patience=config.patience, validate=validate
    )
    modules.to("cpu")
    item = encoders[Role.ITEM_ENCODER]
    if isinstance(item, ItemEncoder):
        item.settle()
    return Fitted(dict(encoders), course.best, course.values)


class _Step:
    """One epoch. What it carries into the next are the hard negatives."""

    def __init__(
        self,
        encoders: dict[Role, nn.Module],
        source: Source,
        config: TwoTowerConfig,
        run: Run,
        adam: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        modules: nn.Module,
    ) -> None:
        self._encoders, self._source, self._config, self._run = encoders, source, config, run
        self._schedule, self._modules = schedule, modules
        self._sampler = Sampler.of_counts(source.counts, uniform=config.uniform, popular=config.popular)
        self._mined: Ints | None = None  # [queries, hard_pool]
        self.updates = run.updates(modules, adam)

    def __call__(self, epoch: int, random: np.random.Generator, report: Report) -> float:
        config = self._config
        if config.hard and epoch and epoch % config.hard_every == 0:
            self._modules.eval()
            self._mined = self._source.hardest(self._encoders, config.hard_pool, config.hard_skip)
            self._modules.train()
        # Losses stay where they are computed until the end, so that a GPU need not wait for each of them.
        total, targets, batches = torch.zeros((), device=self._run.device), 0, self._source.batches
        for done, batch in enumerate(self._source.epoch(random), 1):
            part = batch.share(self._run.world)
            with self._run.autocast():
                loss = self._loss(batch, part, random)
            self.updates(loss)
            total += loss.detach() * len(part.targets)
            targets += len(part.targets)
            report(done, max(batches, done), loss=loss.detach(), examples=len(part.targets))
        self._schedule.step()
        return float(total) / targets

    def _loss(self, whole: Batch, batch: Batch, random: np.random.Generator) -> Tensor:
        """Of this process's part of a batch. All processes draw the same columns, for queries of the whole batch."""
        config, world, device = self._config, self._run.world, self._run.device
        drawn = self._sampler.draw(random)
        of_drawn = random.integers(0, len(whole.asked), len(drawn))
        queries = batch.queries(self._encoders)
        positives = batch.vectors(self._encoders, batch.targets, batch.owners)
        items, vectors = torch.from_numpy(drawn).to(device), [positives[:0]]
        targets = torch.from_numpy(batch.targets).to(device)
        if len(drawn):
            vectors.append(whole.vectors(self._encoders, drawn, of_drawn))
        if config.in_batch:
            items = torch.cat([world.gather(targets), items])
            vectors.insert(0, world.gather(positives))
        log_expected = self._log_expected(items, len(items) - len(drawn))
        return sampled_softmax(
            queries, positives, torch.from_numpy(batch.owners).to(device), targets, torch.cat(vectors),
            Columns(items, log_expected if config.correction != "none" else torch.zeros_like(log_expected)),
            temperature=config.temperature,
            own=self._log_expected(targets, len(items) - len(drawn)) if config.correction == "all" else None,
            hard=self._hard(batch, random),
        )  # fmt: skip

    def _log_expected(self, items: Tensor, in_batch: int) -> Tensor:
        expected = self._sampler.expected(items.cpu().numpy(), in_batch)
        return torch.from_numpy(np.log(expected).astype(np.float32)).to(items.device)

    def _hard(self, batch: Batch, random: np.random.Generator) -> Tensor | None:
        """[Q, hard, d], drawn from the pool of each query."""
        if self._mined is None:
            return None
        pool = self._mined[batch.asked]
        places = random.integers(0, pool.shape[1], (len(pool), self._config.hard))
        items = np.take_along_axis(pool, places, axis=1)
        owners = np.repeat(np.arange(len(pool)), self._config.hard)
        vectors = batch.vectors(self._encoders, items.reshape(-1), owners)
        return vectors.reshape(*items.shape, -1)

    def state_dict(self) -> dict[str, Any]:
        """The hard negatives mined last."""
        return {} if self._mined is None else {"mined": self._mined}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with them."""
        mined = state_dict.get("mined")
        self._mined = None if mined is None else np.asarray(mined, np.int64)
