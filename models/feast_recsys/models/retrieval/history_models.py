"""Families that know users by the items of their histories, and items by their ids: trained, rebuilt, refitted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings
from feast_recsys.bundle.signature import Graph, Input, Role, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.data.events import Ints, Part
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.fitter import InputFitter
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.configure import configure, restore
from feast_recsys.models.training.loop import Run
from feast_recsys.models.training.seeds import seeded

Validate = Callable[[Encoders], float]


@dataclass(frozen=True)
class HistoryOptions:
    """What all these families have beside their own hyperparameters.

    Attributes:
        history_length: Most items of the history that count, the latest.
    """

    history_length: int = 500


@dataclass(frozen=True)
class HistoryFit:
    """A fitted model.

    Attributes:
        encoders: In eval mode.
        config: What `HistoryFamily.build` takes to rebuild them.
        epochs: Number of the epoch that was kept; 0 where there are none.
        values: What validation said after each epoch.
        facts: For the signature's metadata. Plain YAML.
    """

    encoders: Encoders
    config: Any
    epochs: int = 0
    values: tuple[float, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class HistoryFamily:
    """One family.

    Attributes:
        config: Its hyperparameters, a frozen dataclass.
        build: Untrained encoders for a number of items.
        fit: Trained ones; the last argument is a number of epochs to train for, instead of the config's.
        bias: How many of the last columns of item vectors are biases; see `Signature.bias`.
    """

    config: type[Any]
    build: Callable[[int, Any], Encoders]
    fit: Callable[[Histories, Any, Run, Validate | None, int | None], HistoryFit]
    bias: int


class NamedQuery(nn.Module):
    """A history encoder that takes its inputs by the names of a signature."""

    def __init__(self, encoder: HistoryEncoder, history: str, ratings: str | None) -> None:
        super().__init__()
        self.encoder, self.history, self.ratings = encoder, history, ratings

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, d]."""
        ratings = inputs[self.ratings] if self.ratings is not None else None
        vectors: Tensor = self.encoder(inputs[self.history], ratings)
        return vectors


class NamedItem(nn.Module):
    """Item vectors that are looked up by the input of that name."""

    def __init__(self, items: nn.Module, item_id: str) -> None:
        super().__init__()
        self.items, self.item_id = items, item_id

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, d]."""
        vectors: Tensor = self.items(inputs[self.item_id])
        return vectors


def train_history_model(
    family: HistoryFamily, data: TrainingData, recommender: str, run: Run, values: Mapping[str, Any]
) -> Checkpoint:
    """Trains a family on the likes of a recommender's training part.

    Args:
        family: Which.
        data: What `load_data` gave.
        recommender: Its name in the settings.
        run: How.
        values: Hyperparameters from the settings.

    Raises:
        InvalidSettings: a hyperparameter is wrong, or the settings name no history; names it.
        InvalidRepository: a feature that they name is not in the query's feature service.
    """
    settings, where = data.settings.retrieval, f"recsys.recommenders.{recommender}.retrieval"
    common = {f.name for f in dataclasses.fields(HistoryOptions)}
    options = configure(HistoryOptions, {k: v for k, v in values.items() if k in common}, f"{where}.hyperparameters")
    config = configure(family.config, {k: v for k, v in values.items() if k not in common}, f"{where}.hyperparameters")
    fitter = InputFitter(data, options.history_length)
    takes_ratings = family.build(1, config).query.takes_ratings
    wanted = {"history": settings.history, **({"ratings": settings.ratings} if takes_ratings else {})}
    query = tuple(history_input(data, fitter, recommender, name, reference) for name, reference in wanted.items())
    item = fitter.item_id()
    vocabulary = fitter.item_vocabulary
    vocabularies = {fitter.item_file: vocabulary}
    histories = liked(data, vocabulary, np.arange(len(data.events.user_ids)), ratings=takes_ratings)
    tensors = model_tensors(data, (*query, item), vocabularies)
    k = data.settings.candidates

    def validate(encoders: Encoders) -> float:
        found = retrieve(_named(encoders, query, item), tensors, data, data.validation, k)
        return recall(found, data.validation)

    run.progress.start("train retrieval")
    with seeded(run.seed):
        fit = family.fit(histories, config, run, validate if len(data.validation) else None, None)
    modules = _named(fit.encoders, query, item)
    quality = validate(fit.encoders) if len(data.validation) else float("nan")
    chosen = f", epoch {fit.epochs} of {len(fit.values)}" if fit.values else ""
    run.progress.done(f"recall@{k} {quality:.3f} on validation{chosen}")
    dimension = fit.encoders.vectors(1).shape[1]
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, query, "query", settings.query),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (item,), "vector", settings.item),
    }
    facts = {
        "training": {
            "family": settings.family, "seed": run.seed, "data": data.fingerprint, "likes": len(histories.items),
            "epochs": fit.epochs, **fit.facts,
        },
        "metrics": {"validation": {f"recall@{k}": round(quality, 6)}},
    }  # fmt: skip
    kept = {
        "family": settings.family, "hyperparameters": json.loads(json.dumps(asdict(fit.config))),
        "history": query[0].name, "ratings": query[1].name if takes_ratings else None, "item_id": item.name,
        "epochs": fit.epochs,
    }  # fmt: skip
    metrics = {
        "validation": {f"recall@{k}": quality, "users": len(data.validation), "epochs": list(fit.values)},
    }
    signature = Signature(settings.model, Stage.RETRIEVAL, graphs, dimension, facts, family.bias)
    return Checkpoint(modules, signature, vocabularies, kept, metrics)


def build_history_modules(
    family: HistoryFamily, signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> dict[Role, nn.Module]:
    """The modules of a checkpoint, untrained."""
    item = signature.graphs[Role.ITEM_ENCODER].input(config["item_id"])
    assert item.vocabulary is not None
    encoders = family.build(sizes[item.vocabulary] - 1, restore(family.config, config["hyperparameters"]))
    query = signature.graphs[Role.QUERY_ENCODER].inputs
    return _named(encoders, query, item)


def refit_history_model(
    family: HistoryFamily, checkpoint: Checkpoint, data: TrainingData, users: Ints, run: Run
) -> dict[Role, nn.Module]:
    """The same model from the likes of some users only, for as many epochs as the checkpoint's.

    Args:
        family: Of the checkpoint.
        checkpoint: Its inputs, vocabularies and hyperparameters.
        data: What it was trained on.
        users: Positions in `Events.user_ids`.
        run: How.
    """
    config = restore(family.config, checkpoint.config["hyperparameters"])
    item = checkpoint.signature.graphs[Role.ITEM_ENCODER].input(checkpoint.config["item_id"])
    vocabulary = checkpoint.vocabularies[item.vocabulary or ""]
    histories = liked(data, vocabulary, users, ratings=checkpoint.config["ratings"] is not None)
    with seeded(run.seed):
        fit = family.fit(histories, config, run, None, int(checkpoint.config["epochs"]) or None)
    return _named(fit.encoders, checkpoint.signature.graphs[Role.QUERY_ENCODER].inputs, item)


def liked(data: TrainingData, vocabulary: Vocabulary, users: Ints, *, ratings: bool) -> Histories:
    """What some users liked in the training part, or rated if `ratings`; latest last, each item once.

    Args:
        data: Interactions.
        vocabulary: Of items; what it lacks is left out. Its keys are the catalogue, in that order.
        users: Positions in `Events.user_ids`.
        ratings: Whether all that was rated counts, with its label.
    """
    events = data.events
    positions = vocabulary.encode(events.item_ids) - 1
    chosen = (events.parts == Part.TRAIN) & (positions[events.items] >= 0) & np.isin(events.users, users)
    if not ratings:
        chosen &= events.positive
    rows = np.flatnonzero(chosen)
    # An item that comes again counts as of its last time.
    keys = (events.users[rows] * len(events.item_ids) + events.items[rows])[::-1]
    rows = np.sort(rows[len(rows) - 1 - np.unique(keys, return_index=True)[1]])
    row_of = np.full(len(events.user_ids), -1, np.int64)
    row_of[users] = np.arange(len(users))
    labels = events.labels[rows] if ratings else None
    return Histories.from_pairs(
        row_of[events.users[rows]], positions[events.items[rows]], len(vocabulary.keys), labels, size=len(users)
    )


def _named(encoders: Encoders, query: tuple[Input, ...], item: Input) -> dict[Role, nn.Module]:
    ratings = query[1].name if encoders.query.takes_ratings else None
    return {
        Role.QUERY_ENCODER: NamedQuery(encoders.query, query[0].name, ratings),
        Role.ITEM_ENCODER: NamedItem(encoders.item, item.name),
    }


def history_input(
    data: TrainingData, fitter: InputFitter, recommender: str, setting: str, reference: str | None
) -> Input:
    """The input of a list feature that a setting names.

    Args:
        data: With the features of the query's service.
        fitter: Of that data.
        recommender: Its name, for messages.
        setting: `history` or `ratings`.
        reference: What it says.

    Raises:
        InvalidSettings: it says nothing.
        InvalidRepository: that is no list feature of the service.
    """
    settings, where = data.settings.retrieval, f"recsys.recommenders.{recommender}.retrieval.{setting}"
    if reference is None:
        raise InvalidSettings(
            f"{where} is not set, and {settings.family} needs it: name a list feature of the user", field=where
        )
    schema = next((s for s in data.query_schemas if s.reference == reference), None)
    if schema is None or not schema.is_list:
        raise InvalidRepository(
            f"{where}: {reference} is no list feature of feature service {settings.query!r}; add it there",
            field=reference,
        )
    [spec] = fitter.fit([schema]).specs
    return spec
