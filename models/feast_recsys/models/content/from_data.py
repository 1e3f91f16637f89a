"""A model of content from the training data of a recommender: factors of usage, and what gives them from content."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.features.audio import LogMel, decode, log_mel
from feast_recsys.features.repo import Repo
from feast_recsys.models.content.factors import Factors, usage_factors
from feast_recsys.models.content.networks import NumbersTower, SoundTower, WarmOrContent
from feast_recsys.models.content.training import (
    AudioConfig,
    Usage,
    fit_numbers,
    fit_sound,
    join,
    number_vectors,
    sound_vectors,
)
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.fitter import InputFitter
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.loop import Run

HELD_OUT = 0.1  # of the items with usage: they tell when to stop


@dataclass(frozen=True)
class ContentFit:
    """Encoders in eval mode, with the plain JSON that rebuilds them."""

    encoders: Encoders
    config: Mapping[str, Any]


def fit_content(
    repo: Repo, data: TrainingData, content: Sequence[Input], plays: Histories, configs: tuple[Any, ...], run: Run
) -> ContentFit:
    """Factors of usage, and a network that gives them from content.

    Args:
        repo: Sound files are relative to its folder.
        data: Training data.
        content: Inputs of the items with what they are made of.
        plays: Who liked what in the training part.
        configs: Of factors, of sound if it is heard, of the network, and `ContentOptions`.
        run: How.

    Raises:
        CorruptArtifact: a sound file can't be read.
    """
    factors = usage_factors(plays, configs[0], run)
    learning = configs[-2]
    trusted = np.flatnonzero(factors.trusted)
    random = np.random.default_rng(run.seed)
    held_out = random.permutation(trusted)[: int(HELD_OUT * len(trusted))] if learning.patience else trusted[:0]
    chosen = np.setdiff1d(trusted, held_out)
    usage = Usage(factors.users, plays, configs[0].alpha, configs[0].epsilon) if learning.loss == "wpe" else None
    # Content as of the last day of the training part, of the items in the vocabulary's order.
    last = data.events.times[data.events.parts == Part.TRAIN].max(keepdims=True)
    rows = data.day_of(last) * data.items + _positions(data, plays)
    tower: NumbersTower | SoundTower
    if isinstance(learning, AudioConfig):
        tower, heard = _hear(repo, data, content[0], rows, factors, chosen, held_out, configs, run, usage)
    else:
        numbers = _numbers(data, content, rows)
        there = np.asarray(numbers.any(1), np.bool_) if zeros_are_none(content) else np.ones(len(numbers), np.bool_)
        chosen, held_out = chosen[there[chosen]], held_out[there[held_out]]
        validate = _closeness(factors, held_out, lambda t: number_vectors(t, numbers[held_out]))
        tower = by_numbers = fit_numbers(factors, numbers, chosen, learning, run, usage=usage, validate=validate)
        heard = number_vectors(by_numbers, numbers)
        heard[~there] = 0.0
    encoders = join(factors, heard, tower, configs[-1].bias, zeros_are_none=zeros_are_none(content))
    assert isinstance(encoders.item, WarmOrContent)
    merged: dict[str, Any] = {}
    for config in configs:
        merged |= asdict(config)
    kept = {
        "hyperparameters": merged,
        "shape": asdict(tower.shape),
        "popularity": [encoders.item.least, encoders.item.most, encoders.item.weight],
        "facts": {"warm": int(factors.trusted.sum()), "learned_from": len(chosen)},
    }
    return ContentFit(encoders, json.loads(json.dumps(kept)))


def zeros_are_none(content: Sequence[Input]) -> bool:
    """Whether zeros mean that an item has no content: lists and sound that are missing do, numbers have defaults."""
    return all(spec.is_list for spec in content)


def _positions(data: TrainingData, plays: Histories) -> Ints:
    """[n] positions in `Events.item_ids` of the vocabulary's items: both are sorted."""
    fitter = InputFitter(data, 1)
    keys = np.array(fitter.item_vocabulary.keys, data.events.item_ids.dtype)
    assert len(keys) == plays.catalogue
    return np.searchsorted(data.events.item_ids, keys)


def _numbers(data: TrainingData, content: Sequence[Input], rows: Ints) -> Floats:
    parts = []
    for spec in content:
        values = to_tensor(data.item_columns[spec.feature].take(rows), spec).astype(np.float32)
        if spec.max_length is not None:
            parts.append(np.pad(values, ((0, 0), (0, spec.max_length - values.shape[1]))))
        else:
            parts.append(values[:, None])
    return np.concatenate(parts, axis=1)


def _hear(
    repo: Repo, data: TrainingData, spec: Input, rows: Ints, factors: Factors, chosen: Ints, held_out: Ints,
    configs: tuple[Any, ...], run: Run, usage: Usage | None,
) -> tuple[SoundTower, Floats]:  # fmt: skip
    """The network, and the vectors of all items that have a sound file; the others are zeros."""
    settings: LogMel = configs[1]
    paths = data.item_columns[spec.feature].take(rows).to_list()
    there = np.array([path is not None for path in paths], np.bool_)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def mels(row: int) -> Floats:
            kept = folder / f"{row}.npy"
            if not kept.exists():
                np.save(kept, log_mel(decode(repo.path / str(paths[row]), settings.rate), settings))
            found: Floats = np.load(kept, mmap_mode="r")
            return found

        validate = _closeness(
            factors, held_out[there[held_out]],
            lambda tower: sound_vectors(tower, mels, settings, held_out[there[held_out]]),
        )  # fmt: skip
        tower = fit_sound(
            factors, mels, settings, chosen[there[chosen]], configs[2], run, usage=usage, validate=validate
        )
        heard = np.zeros((len(rows), tower.dimension + 1), np.float32)
        heard[there] = sound_vectors(tower, mels, settings, np.flatnonzero(there))
    return tower, heard


def _closeness(factors: Factors, held_out: Ints, vectors: Callable[[Any], Floats]) -> Callable[[Any], float] | None:
    """Mean cosine between what the content gives and what usage gave, of items that are not learned from."""
    if not len(held_out):
        return None

    def validate(tower: Any) -> float:
        return float(np.mean(np.sum(vectors(tower)[:, :-1] * factors.items[held_out], axis=1)))

    return validate
