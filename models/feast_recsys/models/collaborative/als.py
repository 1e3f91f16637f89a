"""Implicit-feedback ALS: factors from the `implicit` library, users folded in when they ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.models.collaborative.implicit_library import fit_with_library
from feast_recsys.models.collaborative.shared import (
    history_table,
    log_popularity,
    require,
    same_catalogue,
    stand_in,
    tail,
    vectors_with_tail,
)
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder, ItemVectors, distinct
from feast_recsys.models.training.loop import Run

Doubles = npt.NDArray[np.float64]

_SAMPLE = 200  # users from whom the number of steps is found
_RESIDUAL = 1e-6  # what the steps leave, beside the right-hand side


@dataclass(frozen=True)
class AlsConfig:
    """Hyperparameters. Confidence is 1 + alpha r: r is the rating, or 1 without ratings.

    Attributes:
        factors: d, width of the factors.
        regularization: lambda.
        alpha: How much more a like counts than its absence.
        iterations: Of both half-steps.
        ratings: Whether the histories have ratings, or numbers of plays, to be taken as r; they are at least 0.
        steps: Of conjugate gradients when served; 0 is as many as the fit finds necessary, and its config has them.
    """

    factors: int = 64
    regularization: float = 10.0
    alpha: float = 10.0
    iterations: int = 15
    ratings: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        require(self, "factors", self.factors >= 1, "at least 1")
        require(self, "regularization", 0 < self.regularization < np.inf, "above 0 and finite")
        require(self, "alpha", 0 <= self.alpha < np.inf, "at least 0 and finite")
        require(self, "iterations", self.iterations >= 1, "at least 1")
        require(self, "steps", self.steps >= 0, "at least 0")


@dataclass(frozen=True)
class Als:
    """Weighted matrix factorisation (Hu, Koren, Volinsky 2008).

    It minimises the sum over users and items of c_ui (p_ui - x_u . y_i)^2, plus lambda times all squared norms;
    p_ui = 1 and c_ui = 1 + alpha r_ui for what the user has, p_ui = 0 and c_ui = 1 for the rest. The score is x_u . y_i
    with x_u solved for the history at hand:

        (Y'Y + lambda I + sum of (c_i - 1) y_i y_i') x_u = sum of c_i y_i        over the history

    A new like counts at once, and users whom the fit has not seen are served like any other.

    Attributes:
        items: [n, d] float32, Y.
        users: [U, d] float32, factors of the users of the fit as training left them; scores don't need them.
        top_rating: Highest r of the fit; ratings above it count as much.
        popularity: [n] float32, for users without history.
        config: With `steps`.
        facts: See `Model`.
    """

    items: Floats
    users: Floats
    top_rating: float
    popularity: Floats
    config: AlsConfig
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """See `Model.score`; the system is solved directly, in float64."""
        same_catalogue(histories, len(self.items))
        part = histories.take(chosen)
        factors = whiten(self.items, self.config.regularization)
        extra = _extra(part, self.config, self.top_rating)
        queries = np.zeros((len(part), factors.shape[1]))
        for user, (start, end) in enumerate(zip(part.offsets[:-1].tolist(), part.offsets[1:].tolist(), strict=True)):
            z, more = factors[part.items[start:end]], extra[start:end]
            queries[user] = np.linalg.solve(np.eye(z.shape[1]) + (z.T * more) @ z, (1.0 + more) @ z)
        return stand_in(queries @ factors.T, part, self.popularity)

    def encoders(self) -> Encoders:
        """See `Model.encoders`; the served scores differ from these by the rounding of float32."""
        encoders = build_als(len(self.items), self.config)
        factors = whiten(self.items, self.config.regularization).astype(np.float32)
        encoders.query.load_state_dict(
            {"table.weight": history_table(factors), "top_rating": torch.tensor(self.top_rating)}
        )
        encoders.item.load_state_dict({"table.weight": vectors_with_tail(factors, 0.0, self.popularity)})
        return encoders


class FoldIn(HistoryEncoder):
    """Solves for the user's factors by conjugate gradients, a fixed number of steps (Takacs et al. 2011).

    In the coordinates of `whiten` the system is I + sum of (c_i - 1) z_i z_i', whose eigenvalues lie between 1 and
    the largest c: few steps are enough.

    Args:
        items: n.
        config: The hyperparameters; without `steps`, there are as many as factors.
    """

    top_rating: Tensor

    def __init__(self, items: int, config: AlsConfig) -> None:
        super().__init__()
        self.takes_ratings = config.ratings
        self.alpha, self.steps = config.alpha, config.steps or config.factors
        self.table = nn.Embedding(items + 1, config.factors)
        self.register_buffer("top_rating", torch.tensor(1.0))

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, d + 2]."""
        rows, known, places = distinct(history)
        z = self.table(rows)  # [B, L, d]
        across = z.transpose(1, 2)  # [B, d, L]
        extra = (self.alpha * known.to(z.dtype)).unsqueeze(1)  # [B, 1, L], c - 1
        if self.takes_ratings:
            assert ratings is not None
            # The shorter of two lists that should be parallel ends the other: a rating that is missing is 0.
            missing = torch.zeros_like(history, dtype=ratings.dtype)
            beside = torch.cat([ratings, missing], -1)[:, : history.shape[1]].gather(1, places)
            extra = extra * torch.minimum(beside.clamp(min=0.0), self.top_rating).unsqueeze(1)
        residual = (extra + known.unsqueeze(1)) @ z  # [B, 1, d]
        direction, solution = residual, torch.zeros_like(residual)
        square = (residual * residual).sum(-1, keepdim=True)
        for _ in range(self.steps):
            image = direction + (extra * (direction @ across)) @ z
            # Where the residual is 0 already, as without history, both quotients are 0.
            length = square / (direction * image).sum(-1, keepdim=True).clamp(min=_TINY)
            solution = solution + length * direction
            residual = residual - length * image
            previous, square = square, (residual * residual).sum(-1, keepdim=True)
            direction = residual + square / previous.clamp(min=_TINY) * direction
        return torch.cat([solution.squeeze(1), tail(known)], -1)


_TINY = 1e-30


def fit_als(histories: Histories, config: AlsConfig, run: Run) -> Als:
    """Factorises, with one thread: same seed, same factors.

    Args:
        histories: With ratings if the config says so.
        config: Hyperparameters.
        run: Its seed and progress.

    Raises:
        InvalidArgument: nobody has anything, or ratings are missing, below 0 or not finite.
        JobFailed: the library is missing or fails; names the remedy.
    """
    top = _top_rating(histories, config)
    confidence = histories.matrix()
    confidence.data = (1.0 + _extra(histories, config, top)).astype(np.float32)
    items, users = fit_with_library(
        "als", "AlternatingLeastSquares", confidence, run, factors=config.factors, regularization=config.regularization,
        alpha=1.0, iterations=config.iterations,
    )  # fmt: skip
    steps = config.steps or _steps(whiten(items, config.regularization), histories, config, top, run.seed)
    facts = {"steps": steps, "top_rating": top}
    return Als(items, users, top, log_popularity(histories), replace(config, steps=steps), facts)


def build_als(items: int, config: AlsConfig) -> Encoders:
    """Untrained encoders for a catalogue of n items; vectors of width d + 2."""
    return Encoders(FoldIn(items, config).eval(), ItemVectors(items, config.factors + 2).eval())


def whiten(items: Floats, regularization: float) -> Doubles:
    """[n, d] Z = Y L^-T with L L' = Y'Y + lambda I: in these coordinates that matrix is I, and scores stay the same."""
    y = items.astype(np.float64)
    lower = np.linalg.cholesky(y.T @ y + regularization * np.eye(y.shape[1]))
    z: Doubles = linalg.solve_triangular(lower, y.T, lower=True).T
    return z


def _extra(histories: Histories, config: AlsConfig, top: float) -> Doubles:
    """[offsets[-1]] c - 1 of what the users have."""
    if not config.ratings:
        return np.full(len(histories.items), config.alpha)
    if histories.ratings is None:
        raise InvalidArgument("these histories have no ratings; leave config.ratings False", field="ratings")
    return config.alpha * np.clip(histories.ratings.astype(np.float64), 0.0, top)


def _top_rating(histories: Histories, config: AlsConfig) -> float:
    if not config.ratings or histories.ratings is None or not len(histories.ratings):
        return 1.0
    if not np.isfinite(histories.ratings).all() or histories.ratings.min() < 0:
        raise InvalidArgument("ratings must be finite and at least 0 to be a confidence", field="ratings")
    return float(histories.ratings.max())


def _steps(factors: Doubles, histories: Histories, config: AlsConfig, top: float, seed: int) -> int:
    """Steps that solve for a sample of users, the longest history among them."""
    random = np.random.default_rng(seed)
    users = np.append(random.permutation(len(histories))[:_SAMPLE], np.argmax(histories.lengths))
    part = histories.take(users)
    extra = _extra(part, config, top)
    most = 1
    for start, end in zip(part.offsets[:-1].tolist(), part.offsets[1:].tolist(), strict=True):
        z, more = factors[part.items[start:end]], extra[start:end]
        residual = direction = (1.0 + more) @ z
        first = square = residual @ residual
        steps = 0
        # More steps than factors gain nothing but against rounding.
        while square > _RESIDUAL**2 * first and steps < config.factors:
            image = direction + (more * (z @ direction)) @ z
            residual = residual - square / (direction @ image) * image
            previous, square = square, residual @ residual
            direction = residual + square / previous * direction
            steps += 1
        most = max(most, steps)
    return most
