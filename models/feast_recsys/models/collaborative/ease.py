"""EASE: the linear autoencoder in closed form, and its best approximation by short vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.collaborative.shared import (
    compare,
    history_table,
    log_popularity,
    require,
    same_catalogue,
    sample_of,
    stand_in,
    tail,
    vectors_with_tail,
)
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.retrieval.encoders import Encoders, HistoryEncoder, ItemVectors, distinct
from feast_recsys.models.training.loop import Run

_FAINT = 1e-6  # a column that carries nothing
LARGEST = 20_000  # items: the fit then holds three matrices of 3.2 GB


@dataclass(frozen=True)
class EaseConfig:
    """Hyperparameters.

    Attributes:
        regularization: lambda.
        rank: Width of the served vectors, at most n; with n and above, the served scores are exact.
    """

    regularization: float = 500.0
    rank: int = 512

    def __post_init__(self) -> None:
        require(self, "regularization", 0 < self.regularization < np.inf, "above 0 and finite")
        require(self, "rank", self.rank >= 1, "at least 1")


@dataclass(frozen=True)
class Ease:
    """Linear item-to-item model (Steck 2019, "Embarrassingly shallow autoencoders for sparse data").

    B minimises ||X - XB||^2 + lambda ||B||^2 with diag(B) = 0: with P = (X'X + lambda I)^-1, B_ij = -P_ij / P_jj.
    Scores are xB.

    B has full rank. What is served is xBQQ', Q the r first right singular vectors of XB: of all rank r approximations
    the one with the least squared error over the scores of the users of the fit. The query vector is xBQ/d, the item
    vectors are the rows of Qd, with d the roots of the lengths of the columns of BQ.

    Attributes:
        weights: [n, n] float32, B.
        gram: [n, n] float64, X'X.
        popularity: [n] float32, for users without history.
        sample: Users of the fit, on whom the served form is judged.
        config: See `Model`.
    """

    weights: Floats
    gram: npt.NDArray[np.float64]
    popularity: Floats
    sample: Histories
    config: EaseConfig

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """See `Model.score`."""
        same_catalogue(histories, len(self.weights))
        part = histories.take(chosen)
        return stand_in(part.matrix() @ self.weights, part, self.popularity)

    def encoders(self) -> Encoders:
        """See `Model.encoders`; exact if the rank is n, else see `facts`. The first call decomposes [n, n]."""
        return self._encoders

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """`kept_top_50`: share of the users' 50 best unseen items that are served among their 50 best."""
        return {"rank": _rank(len(self.weights), self.config), "kept_top_50": round(compare(self, self.sample), 4)}

    @cached_property
    def _encoders(self) -> Encoders:
        n, rank = len(self.weights), _rank(len(self.weights), self.config)
        encoders = build_ease(n, self.config)
        weights = self.weights.astype(np.float64)
        scores = weights.T @ (self.gram @ weights)
        basis = linalg.eigh(scores, subset_by_index=[n - rank, n - 1], overwrite_a=True)[1]
        image = weights @ basis
        # Columns are weighed by what they carry, half on either side: so that items are near that are alike.
        weight = np.sqrt(np.linalg.norm(image, axis=0))
        weight[weight < _FAINT] = 1.0
        encoders.query.load_state_dict({"table.weight": history_table(image / weight)})
        encoders.item.load_state_dict({"table.weight": vectors_with_tail(basis * weight, 0.0, self.popularity)})
        return encoders


class HistorySum(HistoryEncoder):
    """The sum of a vector for each item of the history.

    Args:
        items: n.
        width: r.
    """

    def __init__(self, items: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, width)

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, r + 2]."""
        rows, known, _ = distinct(history)
        total = known.to(torch.float32).unsqueeze(1) @ self.table(rows)  # [B, 1, r]
        return torch.cat([total.squeeze(1), tail(known)], -1)


def fit_ease(histories: Histories, config: EaseConfig, run: Run) -> Ease:
    """Solves for B, in float64. Nothing is random.

    Raises:
        InvalidSettings: more than 20,000 items.
    """
    n = histories.catalogue
    if n > LARGEST:
        raise InvalidSettings(
            f"ease inverts a dense matrix of items by items, and {n} items are more than {LARGEST}; take family als",
            field="family",
        )
    x = sparse.csr_array(histories.matrix(), dtype=np.float64)
    gram = (x.T @ x).toarray()
    weights = np.zeros((n, n))
    if n:
        inverse = _inverse(gram + config.regularization * np.eye(n))
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
    sample = sample_of(histories, run.seed)
    return Ease(weights.astype(np.float32), gram, log_popularity(histories), sample, config)


def build_ease(items: int, config: EaseConfig) -> Encoders:
    """Untrained encoders for a catalogue of n items; vectors of width min(n, rank) + 2."""
    rank = _rank(items, config)
    return Encoders(HistorySum(items, rank).eval(), ItemVectors(items, rank + 2).eval())


def _rank(items: int, config: EaseConfig) -> int:
    return min(items, config.rank)


def _inverse(matrix: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of a symmetric positive definite matrix, through Cholesky: a third of the work of the general inverse."""
    factor, failed = linalg.lapack.dpotrf(matrix, lower=1, overwrite_a=1)
    inverse, singular = linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise InvalidSettings("the items are too much alike to invert; raise regularization", field="regularization")
    lower: npt.NDArray[np.float64] = np.tril(inverse)
    return lower + np.tril(lower, -1).T
