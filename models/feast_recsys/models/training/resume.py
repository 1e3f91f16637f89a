"""The state of a training on disk: one safetensors file, whose header holds as JSON what is no tensor."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument, InvalidSettings

STATE_FILE = "training.safetensors"

_FORMAT = "feast-recsys training state 1"
_KEY = "state"


@dataclass(frozen=True)
class TrainingState:
    """A training after a whole epoch.

    Attributes:
        seed: Of the run.
        subject: Of the run: what is learned from what.
        weights: The module's.
        best_weights: Those of the best epoch; None where it is the last, or nothing was validated.
        states: State dicts of optimizers and schedules: nested dicts, lists and tuples of numbers, strings, tensors.
        losses: By epoch.
        values: On validation, by epoch.
        best: Number of the best epoch, from 1.
        batches: So many were trained in all.
    """

    seed: int
    subject: str
    weights: Mapping[str, Tensor]
    best_weights: Mapping[str, Tensor] | None
    states: Mapping[str, Any]
    losses: tuple[float, ...]
    values: tuple[float, ...]
    best: int
    batches: int

    def check(self, weights: Mapping[str, Tensor], names: set[str], seed: int, subject: str) -> None:
        """Refuses to go on with something else.

        Args:
            weights: Of the module that is to be trained on.
            names: Of its optimizers and schedules.
            seed, subject: Of the run.

        Raises:
            InvalidSettings: names what differs.
        """
        differs = ""
        if set(self.weights) != set(weights):
            differs = f"it has other weights: {sorted(set(self.weights) ^ set(weights))[:3]}"
        for name, weight in weights.items():
            if not differs and (self.weights[name].shape != weight.shape or self.weights[name].dtype != weight.dtype):
                there, here = self.weights[name], weight
                differs = f"weight {name!r} is {_described(there)} there and {_described(here)} here"
        if not differs and set(self.states) != names:
            differs = f"it has the states {sorted(self.states)}, not {sorted(names)}"
        if not differs and self.seed != seed:
            differs = f"its seed is {self.seed}, not {seed}"
        if not differs and self.subject != subject:
            differs = f"it is of {self.subject!r}, not of {subject!r}; the data or the settings have changed"
        if differs:
            raise InvalidSettings(f"the state in the folder is of another training: {differs}. Train without "
                                  "resuming, or in another folder", field="resume")  # fmt: skip


def save_state(folder: Path, state: TrainingState) -> None:
    """Writes the state; it replaces an older one at one moment, so that a training that is cut off keeps either.

    Raises:
        InvalidArgument: a state dict holds something other than numbers, strings and tensors; names its path.
    """
    tensors: dict[str, Tensor] = {}
    document = {
        name: pack(getattr(state, name), name, tensors)
        for name in ("seed", "subject", "weights", "best_weights", "states", "losses", "values", "best", "batches")
    }
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{STATE_FILE}.{os.getpid()}"
    try:
        save_file(tensors, draft, {"format": _FORMAT, _KEY: json.dumps(document, allow_nan=False)})
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        draft.replace(folder / STATE_FILE)
    finally:
        draft.unlink(missing_ok=True)


def load_state(folder: Path) -> TrainingState | None:
    """The state in a folder, on the CPU; None if there is none.

    Raises:
        CorruptArtifact: the file is broken or of another version.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            if facts.get("format") != _FORMAT:
                raise CorruptArtifact(f"{path} is no training state of this version; train without resuming")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        parts = {name: unpack(value, tensors) for name, value in json.loads(facts[_KEY]).items()}
        return TrainingState(**parts)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}; train without resuming") from error


def clear_state(folder: Path) -> None:
    """Removes the state, if there is one: call it when what was trained has been saved."""
    (folder / STATE_FILE).unlink(missing_ok=True)


def pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """A nested value as JSON; its tensors and arrays go to `tensors`, under the path where they were found.

    Numbers, strings, bools and None stay as they are. All else becomes a pair of a kind and a content, so that
    tuples stay tuples, keys may be numbers, and infinities are not lost. A tensor that is met twice is kept once.

    Raises:
        InvalidArgument: something else was found; names where.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return ["float", str(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return ["dict", [[pack(k, path, tensors), pack(v, f"{path}/{k}", tensors)] for k, v in value.items()]]
    if isinstance(value, list | tuple):
        items = [pack(item, f"{path}/{n}", tensors) for n, item in enumerate(value)]
        return ["list" if isinstance(value, list) else "tuple", items]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return ["array", _keep(torch.from_numpy(np.ascontiguousarray(value)), path, tensors)]
    if isinstance(value, Tensor) and value.layout is torch.strided:
        return ["tensor", _keep(value.detach().cpu(), path, tensors)]
    raise InvalidArgument(
        f"{path} is a {type(value).__name__}, which a training's state can't keep; use numbers, strings and tensors",
        field=path,
    )


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "float":
        return float(content)
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in content}
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind not in ("list", "tuple"):
        raise ValueError(f"unknown kind {kind!r}")
    items = [unpack(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)


def _keep(tensor: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    tensor = tensor.contiguous()
    # Tables that modules share come once a module.
    for name, other in tensors.items():
        if tensor.numel() and other.data_ptr() == tensor.data_ptr() and _described(other) == _described(tensor):
            return name
    if tensor.untyped_storage().nbytes() != tensor.nbytes:
        tensor = tensor.clone()  # a part of a larger storage, which safetensors would not take
    while path in tensors:
        path += "'"
    tensors[path] = tensor
    return path


def _described(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
