"""Families that put new items among the factors of usage by what they are made of: `content` and `audio`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository, InvalidSettings
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.audio import LogMel
from feast_recsys.features.repo import Repo
from feast_recsys.models.content.factors import FactorConfig, usage_factors
from feast_recsys.models.content.from_data import ContentFit, fit_content, zeros_are_none
from feast_recsys.models.content.networks import (
    Convolutions,
    FactorQuery,
    Layers,
    NumbersTower,
    SoundTower,
    WarmOrContent,
)
from feast_recsys.models.content.training import (
    AudioConfig,
    DescriptorConfig,
)
from feast_recsys.models.data.histories import Floats, Ints
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.fitter import InputFitter
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.retrieval.history_models import NamedQuery, history_input, liked
from feast_recsys.models.retrieval.scoring import recall, retrieve
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.configure import configure, restore
from feast_recsys.models.training.loop import Run

AUDIO_INPUT = "sound"


@dataclass(frozen=True)
class ContentOptions:
    """What both families have beside factors and network.

    Attributes:
        history_length: Most items of the history that count, the latest.
        bias: What popularity counts for beside a cosine; 0 leaves it out, but for users without known items, who get
            the most popular ones.
    """

    history_length: int = 200
    bias: float = 0.0


CONTENT: tuple[type[Any], ...] = (FactorConfig, DescriptorConfig, ContentOptions)
AUDIO: tuple[type[Any], ...] = (FactorConfig, LogMel, AudioConfig, ContentOptions)
_CONFIGURATIONS = {"content": CONTENT, "audio": AUDIO}


class NamedContentItem(nn.Module):
    """An item encoder that takes id and content by the names of a signature."""

    def __init__(self, items: WarmOrContent, item_id: str, content: Sequence[Input]) -> None:
        super().__init__()
        self.items, self.item_id, self.content = items, item_id, tuple(content)

    def forward(self, **inputs: Tensor) -> Tensor:
        """[B, d + 2]."""
        parts = []
        for spec in self.content:
            value = inputs[spec.name].to(torch.float32)
            if spec.max_length is not None:
                parts.append(nn.functional.pad(value, (0, spec.max_length - value.shape[1])))
            else:
                parts.append(value.unsqueeze(-1))
        vectors: Tensor = self.items(inputs[self.item_id], torch.cat(parts, -1))
        return vectors


def train_content_model(repo: Repo, data: TrainingData, recommender: str, run: Run) -> Checkpoint:
    """Trains factors from the likes of the training part, and a network that gives them from the items' content.

    Args:
        repo: Sound files are relative to its folder.
        data: What `load_data` gave.
        recommender: Its name in the settings.
        run: How.

    Raises:
        InvalidSettings: a hyperparameter is wrong, or the settings lack history, item service or audio; names it.
        InvalidRepository: a feature that they name is not there, or the item service has none that is a number.
        CorruptArtifact: a sound file can't be read.
    """
    settings, where = data.settings.retrieval, f"recsys.recommenders.{recommender}.retrieval"
    configs = _configure(settings.family, settings.hyperparameters, f"{where}.hyperparameters")
    options: ContentOptions = configs[-1]
    fitter = InputFitter(data, options.history_length)
    query = (history_input(data, fitter, recommender, "history", settings.history),)
    item, vocabulary = fitter.item_id(), fitter.item_vocabulary
    vocabularies = {fitter.item_file: vocabulary}
    content = _content_inputs(data, recommender, configs)
    users = np.arange(len(data.events.user_ids))
    run.progress.start("train retrieval")
    fit = fit_content(repo, data, content, liked(data, vocabulary, users, ratings=False), configs, run)
    modules = _named(fit.encoders, query[0], item, content)
    if settings.family == "audio":
        assert isinstance(fit.encoders.item, WarmOrContent)
        known, file = fit.encoders.item.warm[1:].numpy(), f"known_{fitter.item_file}"
        vocabularies[file] = Vocabulary(tuple(np.array(vocabulary.keys)[known].tolist()))
        content = tuple(replace(spec, known=file) for spec in content)
    quality = float("nan")
    k = data.settings.candidates
    if len(data.validation) and settings.family == "content":
        tensors = model_tensors(data, (*query, item, *content), vocabularies)
        quality = recall(retrieve(modules, tensors, data, data.validation, k), data.validation)
    run.progress.done(_outcome(fit, k, quality))
    graphs = {
        Role.QUERY_ENCODER: Graph(Role.QUERY_ENCODER, query, "query", settings.query),
        Role.ITEM_ENCODER: Graph(Role.ITEM_ENCODER, (item, *content), "vector", settings.item),
    }
    facts = {
        "training": {"family": settings.family, "seed": run.seed, "data": data.fingerprint, **fit.config["facts"]},
        "metrics": {"validation": {f"recall@{k}": round(quality, 6)}} if np.isfinite(quality) else {},
    }
    kept = {"family": settings.family, "history": query[0].name, "item_id": item.name, **fit.config}
    dimension = configs[0].dimension + 2
    signature = Signature(settings.model, Stage.RETRIEVAL, graphs, dimension, facts, bias=2)
    metrics = {"validation": {f"recall@{k}": quality}} if np.isfinite(quality) else {}
    return Checkpoint(modules, signature, vocabularies, kept, metrics)


def build_content_modules(
    signature: Signature, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> dict[Role, nn.Module]:
    """The modules of a checkpoint, untrained."""
    query = signature.graphs[Role.QUERY_ENCODER].input(config["history"])
    inputs = signature.graphs[Role.ITEM_ENCODER].inputs
    item = next(spec for spec in inputs if spec.name == config["item_id"])
    assert item.vocabulary is not None
    rows = sizes[item.vocabulary]
    tower: NumbersTower | SoundTower = (
        SoundTower(restore(Convolutions, config["shape"]))
        if config["family"] == "audio"
        else NumbersTower(restore(Layers, config["shape"]))
    )
    least, most, weight = config["popularity"]
    content = [spec for spec in inputs if spec is not item]
    items = WarmOrContent(
        torch.zeros(rows, tower.dimension + 1), torch.zeros(rows, dtype=torch.bool), tower, weight,
        zeros_are_none=zeros_are_none(content),
    )  # fmt: skip
    items.least, items.most = least, most
    encoders = Encoders(FactorQuery(torch.zeros(rows, tower.dimension)), items)
    return _named(encoders, query, item, content)


def refit_content_model(checkpoint: Checkpoint, data: TrainingData, users: Ints, run: Run) -> dict[Role, nn.Module]:
    """The same model from the likes of some users only.

    Warm items get factors of these users, turned to lie as the old ones. The network stays as it is, and with it the
    vectors of items that are known by content.
    """
    old = checkpoint.modules[Role.ITEM_ENCODER]
    assert isinstance(old, NamedContentItem)
    configs = _configure(checkpoint.config["family"], checkpoint.config["hyperparameters"], "hyperparameters")
    item = checkpoint.signature.graphs[Role.ITEM_ENCODER].input(checkpoint.config["item_id"])
    vocabulary = checkpoint.vocabularies[item.vocabulary or ""]
    factors = usage_factors(liked(data, vocabulary, users, ratings=False), configs[0], run)
    before = old.items.vectors[1:, :-2].numpy()
    warm = old.items.warm[1:].numpy()
    turned = _turn(factors.items, before, factors.trusted & warm)
    directions = np.where(warm[:, None], turned, before)
    kept = np.concatenate([directions, factors.popularity[:, None]], 1)
    table = torch.from_numpy(np.concatenate([np.zeros((1, kept.shape[1]), np.float32), kept]))
    items = WarmOrContent(
        table, old.items.warm, old.items.tower, old.items.weight, zeros_are_none=old.items.zeros_are_none
    )
    encoders = Encoders(FactorQuery(table[:, :-1]).eval(), items.eval())
    query = checkpoint.signature.graphs[Role.QUERY_ENCODER].input(checkpoint.config["history"])
    return _named(encoders, query, item, old.content)


def _turn(factors: Floats, like: Floats, both: np.ndarray[Any, np.dtype[np.bool_]]) -> Floats:
    """Factors turned so that those of `both` lie as near to the others as a rotation can bring them (Procrustes)."""
    u, _, vt = np.linalg.svd(factors[both].T.astype(np.float64) @ like[both])
    return np.asarray(factors @ (u @ vt), np.float32)


def _configure(family: str, values: Mapping[str, Any], field: str) -> tuple[Any, ...]:
    """The configurations of a family from one mapping of hyperparameters."""
    kinds = _CONFIGURATIONS[family]
    names = [{f.name for f in dataclasses.fields(kind)} for kind in kinds]
    known = set().union(*names)
    for name in values:
        if name not in known:
            raise InvalidSettings(
                f"{field}.{name}: there is no such hyperparameter; there are {', '.join(sorted(known))}",
                field=f"{field}.{name}",
            )
    return tuple(
        configure(kind, {k: v for k, v in values.items() if k in own}, field)
        for kind, own in zip(kinds, names, strict=True)
    )


def _content_inputs(data: TrainingData, recommender: str, configs: tuple[Any, ...]) -> tuple[Input, ...]:
    settings, where = data.settings.retrieval, f"recsys.recommenders.{recommender}.retrieval"
    schemas = {schema.reference: schema for schema in data.item_schemas}
    if settings.family == "audio":
        schema = schemas.get(settings.audio or "")
        if schema is None or schema.is_list or schema.dtype is not DType.STRING:
            raise InvalidRepository(
                f"{where}.audio: {settings.audio} is no text feature of feature service {settings.item!r}; name the "
                "feature with the paths of sound files, and add it there",
                field=f"{where}.audio",
            )
        heard: LogMel = configs[1]
        return (
            Input(AUDIO_INPUT, schema.reference, Side.ITEM, DType.FLOAT32, heard.length,
                  audio=asdict(heard)),
        )  # fmt: skip
    for schema in schemas.values():
        if schema.dtype is DType.STRING or (schema.is_list and schema.dtype is not DType.FLOAT32):
            raise InvalidRepository(
                f"{schema.reference} of feature service {settings.item!r} is no number; family content takes numbers "
                "and lists of floats only: name a feature service of such",
                field=schema.reference,
            )
    if not schemas:
        raise InvalidSettings(
            f"{where}.item is not set; name a feature service with numbers of the items", field=f"{where}.item"
        )
    fitter = InputFitter(data, 4096)
    return fitter.fit(tuple(schemas.values())).specs


def _named(encoders: Encoders, history: Input, item: Input, content: Sequence[Input]) -> dict[Role, nn.Module]:
    assert isinstance(encoders.item, WarmOrContent)
    return {
        Role.QUERY_ENCODER: NamedQuery(encoders.query, history.name, None),
        Role.ITEM_ENCODER: NamedContentItem(encoders.item, item.name, content),
    }


def _outcome(fit: ContentFit, k: int, quality: float) -> str:
    facts = fit.config["facts"]
    told = f", recall@{k} {quality:.3f} on validation" if np.isfinite(quality) else ""
    return f"{facts['warm']} items by usage, the others by content{told}"
