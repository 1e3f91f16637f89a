"""The way through the epochs that all trainings share: reproducible, stopped early, resumed where it was cut off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from feast_recsys.bundle.progress import SILENT, Reporter

Report = Callable[[int, int], None]


class Stateful(Protocol):
    """What has to be kept to go on: optimizers, schedules."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Goes on from there."""


class EpochStep(Protocol):
    """Trains through the data once."""

    def __call__(self, epoch: int, random: np.random.Generator, report: Report) -> float:
        """The mean loss of the epoch.

        Args:
            epoch: From 0.
            random: Of this epoch: the same seed and epoch give the same numbers, torch's too.
            report: To be told (done, total) batches of the epoch.
        """


@dataclass(frozen=True)
class Run:
    """How a training runs, as opposed to what it learns.

    Attributes:
        seed: Same seed, same data, same machine: same weights.
        device: Where modules and batches live; `best_device()` finds a GPU.
        precision: Of the forward pass; weights stay float32.
        folder: Where the state after each epoch and the TensorBoard scalars go; None for neither.
        resume: Whether to go on from the state in the folder, if there is one.
        progress: Hears of batches.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Literal["float32", "bfloat16"] = "float32"
    folder: Path | None = None
    resume: bool = False
    progress: Reporter = SILENT


@dataclass(frozen=True)
class Course:
    """How a training went.

    Attributes:
        losses: Mean loss of each epoch.
        values: What `validate` gave after each epoch; empty without validation.
        best: Number of the epoch whose weights were kept, from 1.
    """

    losses: tuple[float, ...]
    values: tuple[float, ...]
    best: int


def train_epochs(
    module: nn.Module,
    states: Mapping[str, Stateful],
    step: EpochStep,
    run: Run,
    *,
    epochs: int,
    patience: int = 0,
    validate: Callable[[], float] | None = None,
) -> Course:
    """Trains a module in place, and leaves it in eval mode with the best epoch's weights.

    Args:
        module: Holds all weights.
        states: Optimizers and schedules by name; they are kept for a resumption.
        step: One epoch.
        run: How.
        epochs: At most so many.
        patience: Stops after so many epochs without a gain on validation; 0 never stops early.
        validate: Higher is better; it runs in eval mode. Without it the last epoch's weights are kept.
    """
    losses: list[float] = []
    values: list[float] = []
    kept, best = copy.deepcopy(module.state_dict()), 0
    with torch.random.fork_rng(devices=[]):
        for epoch in range(epochs):
            torch.manual_seed(run.seed * 100_003 + epoch)
            module.train()
            random = np.random.default_rng([run.seed, epoch])
            losses.append(step(epoch, random, _of_whole(run.progress, epoch, epochs)))
            if validate is None:
                best = epoch + 1
                continue
            module.eval()
            values.append(validate())
            if values[-1] > max(values[:-1], default=-np.inf):
                kept, best = copy.deepcopy(module.state_dict()), epoch + 1
            elif patience and epoch + 1 - best >= patience:
                break
    if validate is not None:
        module.load_state_dict(kept)
    module.eval()
    return Course(tuple(losses), tuple(values), best)


def _of_whole(progress: Reporter, epoch: int, epochs: int) -> Report:
    return lambda done, total: progress.progress(epoch * total + done, epochs * total)
