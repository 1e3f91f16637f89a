"""Data-parallel training: several processes, each with its share of every batch, that learn the weights of one.

Started by `torchrun --nproc-per-node N`. Batches are shared out so that all processes have equally many examples,
in-batch negatives are gathered from all of them, and gradients are averaged before each step: loss and weights are
those of one process with the whole batch, up to rounding. What happens at random inside a module (dropout) differs
from process to process, as it differs from example to example.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.training.devices import device_named


@dataclass(frozen=True)
class World:
    """The processes of a training, seen from one of them. With one process every method does nothing.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this process computes, and its messages lie.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def share(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """This process's part of the rows of a batch, which all processes know: [n, ...] to [n // size, ...].

        All parts are equally long. The last n % size rows are left out.

        Raises:
            InvalidArgument: fewer rows than processes.
        """
        length = len(rows) // self.size
        if length == 0 and len(rows):
            raise InvalidArgument(f"{len(rows)} rows can't be shared by {self.size} processes; make batches larger",
                                  field="batch")  # fmt: skip
        return rows[self.rank * length : (self.rank + 1) * length]

    def gather(self, tensor: Tensor) -> Tensor:
        """The rows of all processes, this one's first: [n, ...] to [size * n, ...], with n the same everywhere.

        The gradient of a row is the sum of what all processes make of it. For in-batch negatives: what stood at
        column i of the process's own batch still stands there, the others' columns follow.
        """
        if self.size == 1:
            return tensor
        gathered: Tensor = _Gather.apply(tensor, self.rank, self.size)  # type: ignore[no-untyped-call]
        return gathered

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its mean over all processes; call between `backward` and the optimizer's step.

        A weight that only some processes used counts as zero in the others; one that none used stays without.

        Raises:
            InvalidSettings: a gradient is sparse.
        """
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in parameters:
            if parameter.grad is not None and parameter.grad.is_sparse:
                raise InvalidSettings("gradients of sparse tables can't be averaged over processes; build the table "
                                      "with sparse=False, or train in one process", field="sparse")  # fmt: skip
            if parameter.requires_grad:
                by_dtype.setdefault(parameter.dtype, []).append(parameter)
        for group in by_dtype.values():
            self._average(group)

    def _average(self, group: list[nn.Parameter]) -> None:
        # One message for all: many small ones would mostly wait.
        have = [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
        used = torch.tensor([p.grad is not None for p in group], dtype=group[0].dtype, device=group[0].device)
        message = torch.cat([used, *(g.reshape(-1) for g in have)])
        dist.all_reduce(message)
        by_any = message[: len(group)].tolist()
        means = torch.split(message[len(group) :] / self.size, [p.numel() for p in group])
        for parameter, mean, count in zip(group, means, by_any, strict=True):
            parameter.grad = mean.view_as(parameter) if count else None

    def mean(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.size == 1:
            return value
        message = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(message)
        return float(message) / self.size

    def of_first(self, value: float) -> float:
        """The first process's number, in all of them."""
        if self.size == 1:
            return value
        message = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(message, 0)
        return float(message)

    def unite(self, module: nn.Module) -> None:
        """Gives all processes the first one's weights and buffers."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size = rank, size
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(size)]
        dist.all_gather(parts, tensor)
        return torch.cat([*parts[rank:], *parts[:rank]])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        length = len(gradients[0]) // ctx.size
        # Back from own-first to the order by rank, which all processes share.
        total = gradients[0].roll(ctx.rank * length, 0).contiguous()
        dist.all_reduce(total)
        return total[ctx.rank * length : (ctx.rank + 1) * length], None, None


@contextmanager
def torchrun_world(device: str = "auto") -> Iterator[World]:
    """The processes that torchrun has started, connected; one process where it was not torchrun that started us.

    Args:
        device: See `device_named`. With CUDA each process takes the GPU of its local rank and they talk through
            NCCL; on CPUs they talk through Gloo.

    Raises:
        InvalidSettings: the environment is not torchrun's, or there are fewer GPUs than processes on this machine.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(device=device_named(device))
        return
    try:
        rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise InvalidSettings(f"WORLD_SIZE is set, but not all of what torchrun sets: {error}; start with torchrun, or "
                              "unset it", field="WORLD_SIZE") from error  # fmt: skip
    chosen = device_named(device)
    if chosen.type == "cuda":
        if local >= torch.cuda.device_count():
            raise InvalidSettings(f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                                  "start fewer processes, or train on the cpu", field="device")  # fmt: skip
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def blocks_of(order: npt.NDArray[np.int64], batch: int) -> Iterator[npt.NDArray[np.int64]]:
    """Cuts an order of examples into batches of equal length, as processes need them; what is left over is left out.

    Raises:
        InvalidArgument: a batch is longer than the order.
    """
    if not 1 <= batch <= len(order):
        raise InvalidArgument(f"batches of {batch} can't be cut from {len(order)} examples", field="batch")
    yield from order[: len(order) // batch * batch].reshape(-1, batch)
