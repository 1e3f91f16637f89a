"""FTRL-Proximal with L1, which torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Ftrl(Optimizer):
    """FTRL-Proximal (McMahan et al., KDD 2013, algorithm 1), per coordinate.

        sigma = (sqrt(n + g^2) - sqrt(n)) / alpha
        z <- z + g - sigma w;   n <- n + g^2
        w = 0 where |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)

    Weights that hold nothing stay exactly 0. A sparse gradient touches its own rows only, which is exact: with
    g = 0 nothing changes. The published form sums the loss over examples; so should the caller.

    Args:
        params: Weights, or groups of them with settings of their own. A start other than 0 is kept: z begins where the
            formula above gives it back. So a warm start goes on from the older weights, at the first rate again.
        alpha, beta: Learning rate and its smoothing.
        l1, l2: Strengths of both penalties.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        alpha: float = 0.005,
        beta: float = 1.0,
        l1: float = 1.0,
        l2: float = 0.0,
    ) -> None:
        super().__init__(params, {"alpha": alpha, "beta": beta, "l1": l1, "l2": l2})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # never a loss back
        """One update of every weight that has a gradient."""
        if closure is not None:
            raise ValueError("Ftrl takes no closure")
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            rate = group["beta"] / group["alpha"] + group["l2"]
            state["z"], state["n"] = -(weight * rate + weight.sign() * group["l1"]), torch.zeros_like(weight)
        rows: Any = slice(None)
        gradient = weight.grad
        assert gradient is not None
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            rows, gradient = gradient.indices()[0], gradient.values()
        alpha, n = group["alpha"], state["n"][rows]
        grown = n + gradient**2
        sigma = (grown.sqrt() - n.sqrt()) / alpha
        z = state["z"][rows] + gradient - sigma * weight[rows]
        state["z"][rows], state["n"][rows] = z, grown
        shrunk = -(z - z.sign() * group["l1"]) / ((group["beta"] + grown.sqrt()) / alpha + group["l2"])
        weight[rows] = torch.where(z.abs() <= group["l1"], torch.zeros_like(z), shrunk)
