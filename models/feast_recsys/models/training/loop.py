"""The way through the epochs that all trainings share: reproducible, stopped early, resumed where it was cut off."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings, JobFailed
from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.models.training.devices import Precision, Updates, autocast, check_precision
from feast_recsys.models.training.distributed import World
from feast_recsys.models.training.resume import TrainingState, load_state, save_state
from feast_recsys.models.training.scalars import POINTS, Scalars, learning_rates, open_scalars


class Report(Protocol):
    """Hears of the batches of an epoch."""

    def __call__(self, done: int, total: int, *, loss: float | Tensor | None = None, examples: int = 0) -> None:
        """So many batches of the epoch are done.

        Args:
            done, total: Batches.
            loss: Of the last batch, for TensorBoard. A tensor is read for some batches only, so a GPU need not wait.
            examples: In the last batch, for the examples per second.
        """


class Stateful(Protocol):
    """What has to be kept to go on: optimizers, schedules, and whatever else a step keeps between epochs."""

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes: nested dicts, lists and tuples of numbers, strings, arrays and tensors."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Goes on from there."""


class EpochStep(Protocol):
    """Trains through the data once."""

    def __call__(self, epoch: int, random: np.random.Generator, report: Report) -> float:
        """The mean loss of the epoch.

        Args:
            epoch: From 0.
            random: Of this epoch: the same seed and epoch give the same numbers, torch's too. With several processes
                all have the same numbers here, and each its own of torch's.
            report: To be told (done, total) batches of the epoch.
        """


@dataclass(frozen=True)
class Run:
    """How a training runs, as opposed to what it learns.

    Attributes:
        seed: Same seed, same data, same machine: same weights.
        device: Where modules and batches live; `best_device()` finds a GPU.
        precision: Of the forward pass; weights stay float32. float16 needs CUDA and `updates`.
        folder: Where the state after each epoch and the TensorBoard scalars go; None for neither. A folder is for one
            training; see `within`.
        resume: Whether to go on from the state in the folder, if there is one.
        progress: Hears of batches.
        scalars: Whether to write curves for TensorBoard to `folder`/scalars.
        subject: What is learned from what, such as a fingerprint of data and settings. A state of another subject is
            refused.
        world: The processes that train together; see `distributed.torchrun_world`.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    folder: Path | None = None
    resume: bool = False
    progress: Reporter = SILENT
    scalars: bool = False
    subject: str = ""
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        check_precision(self.precision, self.device)
        for name in ("resume", "scalars"):
            if getattr(self, name) and self.folder is None:
                raise InvalidSettings(f"{name} needs a folder for the state of the training", field=name)

    def within(self, name: str, subject: str = "") -> Run:
        """The run of one training out of several, with a folder of its own inside this one."""
        folder = None if self.folder is None else self.folder / name
        return replace(self, folder=folder, subject=subject or self.subject)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for a forward pass and its loss; `backward` belongs outside."""
        return autocast(self.precision, self.device)

    def updates(self, module: nn.Module, *optimizers: torch.optim.Optimizer, clip: float = 0.0) -> Updates:
        """What turns losses into steps under this run's precision and world; belongs among the states."""
        return Updates(module, optimizers, self.world, scaled=self.precision == "float16", clip=clip)


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

    With a folder, the state after each epoch is kept there, also after the last one: a run that resumes it comes back
    at once with the same result. `resume.clear_state` removes it when the result has been saved.

    With several processes all begin with the first one's weights; only the first one validates, writes and reports.

    Args:
        module: Holds all weights.
        states: Optimizers and schedules by name, and whatever else `step` carries from one epoch into the next.
        step: One epoch.
        run: How.
        epochs: At most so many.
        patience: Stops after so many epochs without a gain on validation; 0 never stops early.
        validate: Higher is better; it runs in eval mode. Without it the last epoch's weights are kept.

    Raises:
        InvalidSettings: the state in the folder is of another training; or TensorBoard is missing.
        CorruptArtifact: the state in the folder can't be read.
        JobFailed: a loss is not finite, or a validation is not a number.
    """
    course, kept, batches = _begin(module, states, run)
    world = run.world
    world.unite(module)
    if validate is not None and kept is None:
        kept = copy.deepcopy(module.state_dict())
    places = [run.device] if run.device.type == "cuda" else []
    folder = run.folder if world.is_first else None
    with torch.random.fork_rng(devices=places), open_scalars(_curves(run), batches) as scalars:
        while len(course.losses) < epochs and not _exhausted(course, patience):
            epoch = len(course.losses)
            torch.manual_seed(run.seed * 100_003 + epoch + world.rank * 10_000_019)
            module.train()
            watch = _Watch(run, scalars, epoch, epochs, batches, learning_rates(states))
            loss = world.mean(float(step(epoch, np.random.default_rng([run.seed, epoch]), watch)))
            _check(math.isfinite(loss), f"the loss of epoch {epoch + 1} is {loss}; lower the learning rate", "loss")
            course = replace(course, losses=(*course.losses, loss), best=epoch + 1 if validate is None else course.best)
            batches = watch.finish(loss)
            if validate is not None:
                module.eval()
                value = world.of_first(validate() if world.is_first else math.nan)
                _check(not math.isnan(value), f"the validation after epoch {epoch + 1} is {value}", "validate")
                if value > max(course.values, default=-math.inf):
                    kept, course = copy.deepcopy(module.state_dict()), replace(course, best=epoch + 1)
                course = replace(course, values=(*course.values, value))
                scalars.add("validation", value, batches)
            if folder is not None:
                _keep(folder, module, states, run, course, kept, batches)
    if validate is not None and kept is not None:
        module.load_state_dict(kept)
    module.eval()
    return course


def _begin(module: nn.Module, states: Mapping[str, Stateful], run: Run) -> tuple[Course, dict[str, Tensor] | None, int]:
    """How far the training is: its course, the best weights, and the batches so far."""
    state = load_state(run.folder) if run.resume and run.folder is not None else None
    done = 0 if state is None else len(state.losses)
    if run.world.of_first(done) != done:
        raise JobFailed(
            f"process {run.world.rank} finds {done} epochs in {run.folder} and the first process finds others; the "
            "folder must be one that all processes share",
            field="folder",
        )
    if state is None:
        return Course((), (), 0), None, 0
    state.check(module.state_dict(), set(states), run.seed, run.subject)
    module.load_state_dict(dict(state.weights))
    for name, kept in state.states.items():
        try:
            states[name].load_state_dict(kept)
        except (ValueError, KeyError) as error:
            raise InvalidSettings(
                f"the state in {run.folder} does not fit {name!r}: {error}; train without resuming", field="resume"
            ) from error
    best = state.weights if state.best_weights is None else state.best_weights
    on_device = {name: tensor.to(run.device) for name, tensor in best.items()} if state.values else None
    return Course(state.losses, state.values, state.best), on_device, state.batches


def _keep(
    folder: Path,
    module: nn.Module,
    states: Mapping[str, Stateful],
    run: Run,
    course: Course,
    best: Mapping[str, Tensor] | None,
    batches: int,
) -> None:
    if course.best == len(course.losses):
        best = None  # the weights themselves
    by_name = {name: state.state_dict() for name, state in states.items()}
    save_state(
        folder,
        TrainingState(
            run.seed,
            run.subject,
            module.state_dict(),
            best,
            by_name,
            course.losses,
            course.values,
            course.best,
            batches,
        ),
    )


def _exhausted(course: Course, patience: int) -> bool:
    return bool(patience and course.values) and len(course.values) - course.best >= patience


def _check(holds: bool, message: str, field: str) -> None:
    if not holds:
        raise JobFailed(message, field=field)


def _curves(run: Run) -> Path | None:
    return run.folder / "scalars" if run.scalars and run.folder is not None and run.world.is_first else None


class _Watch:
    """What an epoch's step reports to: passes it on to people and curves."""

    def __init__(
        self, run: Run, scalars: Scalars, epoch: int, epochs: int, before: int, rates: Mapping[str, float]
    ) -> None:
        self._progress = run.progress if run.world.is_first else SILENT
        self._size = run.world.size
        self._scalars = scalars
        self._epoch, self._epochs = epoch, epochs
        self._before = before  # batches of earlier epochs
        self._rates = rates  # as the epoch begins; schedules step at its end
        self._done = 0
        self._examples = 0
        self._began = time.perf_counter()

    def __call__(self, done: int, total: int, *, loss: float | Tensor | None = None, examples: int = 0) -> None:
        self._done = done
        self._examples += examples
        if loss is not None and done % max(total // POINTS, 1) == 0:
            self._scalars.add("loss/batch", loss, self._before + done)
        self._progress.progress(self._epoch * total + done, self._epochs * total)

    def finish(self, loss: float) -> int:
        """Writes the epoch's points; gives the batches so far."""
        batches = self._before + max(self._done, 1)
        self._scalars.add("epoch", self._epoch + 1, batches)
        self._scalars.add("loss/epoch", loss, batches)
        for name, rate in self._rates.items():
            self._scalars.add(f"learning_rate/{name}", rate, batches)
        if self._examples:
            seconds = max(time.perf_counter() - self._began, 1e-9)
            self._scalars.add("examples_per_second", self._examples * self._size / seconds, batches)
        return batches
