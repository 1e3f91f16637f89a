"""Devices and number formats of training: which GPU, which precision, and the update that both need."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings

Precision = Literal["float32", "bfloat16", "float16"]

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

# Of a loss with float16. Torch begins with 65,536, with which a two-tower model's first two batches overflowed and were
# left out: after 48 updates that cost .02 of recall@15 on the mean of four seeds. It grows from here where it may.
_FIRST_SCALE = 1024.0


def best_device() -> torch.device:
    """A CUDA GPU if there is one that works, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_named(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: `auto` for `best_device()`, `cpu`, `cuda`, or `cuda:1` for the second GPU.

    Raises:
        InvalidSettings: no such name, or no such GPU here.
    """
    if name == "auto":
        return best_device()
    found = re.fullmatch(r"cpu|cuda(?::(\d+))?", name)
    if found is None:
        raise InvalidSettings(f"device {name!r} is unknown; give auto, cpu, cuda or cuda:N", field="device")
    if name != "cpu" and int(found[1] or 0) >= torch.cuda.device_count():
        raise InvalidSettings(
            f"device {name!r} is not there: torch sees {torch.cuda.device_count()} GPUs; give cpu, or install a torch "
            "built for CUDA",
            field="device",
        )
    return torch.device(name)


def gpu_name(device: torch.device) -> str | None:
    """What a person calls a GPU, such as "cuda:1 (NVIDIA L4)"; None for the CPU."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else None


def to_device(tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device; tensors that are there already stay as they are."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuses what the device can't do.

    Raises:
        InvalidSettings: an unknown precision, or float16 without CUDA.
    """
    if precision != "float32" and precision not in _DTYPES:
        raise InvalidSettings(
            f"precision {precision!r} is unknown; give float32, bfloat16 or float16", field="precision"
        )
    if precision == "float16" and device.type != "cuda":
        raise InvalidSettings("float16 needs a CUDA device; bfloat16 works on CPUs, too", field="precision")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context of a forward pass and its loss. With float32 it does nothing at all."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


class _Averages(Protocol):
    """What an update needs of the world; see `distributed.World`."""

    def average_gradients(self, parameters: Any) -> None: ...


class Updates:
    """The step from a loss to new weights: backward, the mean over all processes, the optimizers.

    Keep it among the states of `train_epochs`: with float16 it has a state, the scale of the loss, which is raised
    and lowered so that small gradients don't vanish (Micikevicius et al., ICLR 2018).

    Args:
        module: Holds all weights.
        optimizers: Step in this order.
        world: The processes of the training.
        scaled: Whether the forward pass is in float16.
        clip: Largest norm of all gradients together; 0 for no limit.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        world: _Averages,
        *,
        scaled: bool = False,
        clip: float = 0.0,
    ) -> None:
        self._module = module
        self._optimizers = tuple(optimizers)
        self._world = world
        self._clip = clip
        self._scaler = torch.amp.GradScaler("cuda", init_scale=_FIRST_SCALE, enabled=scaled)

    def __call__(self, loss: Tensor) -> None:
        """One update. A batch whose scaled gradients overflow is left out, as it must be, and the scale is halved."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # of torch
        self._world.average_gradients(self._module.parameters())
        if self._clip:
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self._module.parameters(), self._clip)
        for optimizer in self._optimizers:
            self._scaler.step(optimizer)
        self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The scale of the loss; nothing without float16."""
        return self._scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        if state_dict:
            self._scaler.load_state_dict(state_dict)
