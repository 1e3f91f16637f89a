"""Curves of a training for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from feast_recsys.bundle.errors import InvalidSettings

POINTS = 100  # batches of an epoch whose loss is written, about


class Scalars(Protocol):
    """Takes the points of curves."""

    def add(self, name: str, value: float | Tensor, batch: int) -> None:
        """One point; `batch` counts all batches since the beginning of the training. A tensor holds one number."""


class Nowhere:
    """Curves that nobody asked for."""

    def add(self, name: str, value: float | Tensor, batch: int) -> None:
        """Does nothing."""


class _Events:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def add(self, name: str, value: float | Tensor, batch: int) -> None:
        self._writer.add_scalar(name, value.item() if isinstance(value, Tensor) else value, batch)


@contextmanager
def open_scalars(folder: Path | None, batches: int) -> Iterator[Scalars]:
    """Curves in TensorBoard's event files.

    Args:
        folder: Where; None for nowhere.
        batches: So many were trained before, by a training that is now resumed. Points beyond are of an epoch that
            was cut off; TensorBoard leaves them out.

    Raises:
        InvalidSettings: TensorBoard is not installed.
    """
    if folder is None:
        yield Nowhere()
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InvalidSettings(
            "scalars need TensorBoard, which is not installed: pip install tensorboard", field="scalars"
        ) from error
    writer = SummaryWriter(str(folder), purge_step=batches + 1 if batches else None)
    try:
        yield _Events(writer)
    finally:
        writer.close()


def learning_rates(states: Mapping[str, Any]) -> dict[str, float]:
    """The rate of each optimizer's first group, by the name of its state; FTRL calls it alpha."""
    rates = {}
    for name, state in states.items():
        if isinstance(state, torch.optim.Optimizer):
            group = state.param_groups[0]
            rates[name] = float(group["lr"] if "lr" in group else group["alpha"])
    return rates
