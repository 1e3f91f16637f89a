"""Recommenders without features that a model has to beat: popularity, item neighbours, EASE.

All are fitted on a user-item matrix whose non-zero entries are the interactions; the values are not used. Scores
cover the whole catalogue, seen items included: the caller leaves those out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import sparse

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.evaluation.metrics import top_k

Rows = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]

_BLOCK = 1024  # items whose similarities are dense at a time


class Baseline(Protocol):
    """What every baseline does."""

    def scores(self, histories: Sequence[Rows]) -> Scores:
        """Scores of all items for users with these histories.

        Args:
            histories: One int64 array of item rows a user; may be empty; an item that occurs twice counts once.

        Returns:
            [U, N] float32, higher is better.

        Raises:
            InvalidArgument: a row that is no row of the catalogue.
        """


def interaction_matrix(histories: Sequence[Rows], items: int) -> Any:
    """The user-item matrix of some histories.

    Args:
        histories: One int64 array of item rows a user.
        items: N, the number of items.

    Returns:
        scipy csr_array [U, N] float32, 1 where the user has the item.

    Raises:
        InvalidArgument: an item row outside 0..N-1.
    """
    users = np.repeat(np.arange(len(histories)), [len(history) for history in histories])
    rows = np.concatenate([np.empty(0, np.int64), *histories])
    if len(rows) and not (rows.min() >= 0 and rows.max() < items):
        raise InvalidArgument(f"histories must hold item rows 0..{items - 1}", field="histories")
    return _binary(sparse.csr_array((np.ones(len(rows), np.float32), (users, rows)), shape=(len(histories), items)))


@dataclass(frozen=True)
class Popularity:
    """The same list for everybody: items by their number of users.

    Attributes:
        counts: [N] float32.
    """

    counts: Scores

    @classmethod
    def fit(cls, interactions: Any) -> Popularity:
        """Counts the users of each item of a scipy sparse [users, N] matrix."""
        return cls(_binary(interactions).sum(axis=0).astype(np.float32))

    def scores(self, histories: Sequence[Rows]) -> Scores:
        """See Baseline.scores; the histories don't matter."""
        return np.tile(self.counts, (len(histories), 1))


@dataclass(frozen=True)
class ItemKnn:
    """Item neighbours by cosine (Sarwar et al. 2001; shrinkage as Bell and Koren 2007 use it).

    sim(i, j) = c_ij / (sqrt(c_i c_j) + shrinkage), c_ij the number of users with both, sim(i, i) = 0. Each item j
    keeps its k most similar items, and score(u, j) is the sum of sim(i, j) over those of them in u's history.

    Attributes:
        weights: scipy csc_array [N, N] float32; column j holds the neighbours of item j.
    """

    weights: Any

    @classmethod
    def fit(cls, interactions: Any, *, k: int = 100, shrinkage: float = 0.0) -> ItemKnn:
        """Finds the neighbours; equal similarities go by the lower row.

        Args:
            interactions: scipy sparse [users, N].
            k: Neighbours of an item, at least 1.
            shrinkage: At least 0; larger values trust rare items less.

        Raises:
            InvalidArgument: k or shrinkage out of range.
        """
        if k < 1:
            raise InvalidArgument(f"k must be at least 1, not {k}", field="k")
        if shrinkage < 0:
            raise InvalidArgument(f"shrinkage must be at least 0, not {shrinkage}", field="shrinkage")
        x = sparse.csc_array(_binary(interactions), dtype=np.float64)
        n = x.shape[1]
        counts = x.sum(axis=0)
        neighbours, targets, similarities = [], [], []
        for start in range(0, n, _BLOCK):
            block = np.arange(start, min(start + _BLOCK, n))
            together = (x[:, block].T @ x).toarray()
            together[np.arange(len(block)), block] = 0
            # Pairs with a user in common have a norm of at least 1; the others are 0 whatever they are divided by.
            norms = np.sqrt(np.maximum(np.outer(counts[block], counts), 1.0))
            # float32 makes similarities level that differ by the rounding of a root only.
            similar = (together / (norms + shrinkage)).astype(np.float32)
            ranked = top_k(similar, min(k, n), similar > 0)
            row, rank = np.nonzero(ranked >= 0)
            neighbours.append(ranked[row, rank])
            targets.append(block[row])
            similarities.append(similar[row, ranked[row, rank]])
        if not neighbours:
            return cls(sparse.csc_array((n, n), dtype=np.float32))
        where = (np.concatenate(neighbours), np.concatenate(targets))
        return cls(sparse.csc_array((np.concatenate(similarities), where), shape=(n, n)))

    def scores(self, histories: Sequence[Rows]) -> Scores:
        """See Baseline.scores."""
        return _dense(interaction_matrix(histories, self.weights.shape[0]) @ self.weights)


@dataclass(frozen=True)
class Ease:
    """Linear item-to-item model in closed form (Steck 2019, "Embarrassingly shallow autoencoders for sparse data").

    B minimises ||X - XB||^2 + lambda ||B||^2 with diag(B) = 0: with P = (X'X + lambda I)^-1, B_ij = -P_ij / P_jj.
    Scores are xB. Fitting holds three [N, N] float64 matrices.

    Attributes:
        weights: [N, N] float32, B.
    """

    weights: Scores

    @classmethod
    def fit(cls, interactions: Any, *, regularization: float = 500.0) -> Ease:
        """Solves for B.

        Args:
            interactions: scipy sparse [users, N].
            regularization: lambda, above 0.

        Raises:
            InvalidArgument: regularization is not above 0.
        """
        if not regularization > 0:
            raise InvalidArgument(f"regularization must be above 0, not {regularization}", field="regularization")
        x = sparse.csr_array(_binary(interactions), dtype=np.float64)
        gram = (x.T @ x).toarray()
        gram[np.diag_indices_from(gram)] += regularization
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        np.fill_diagonal(weights, 0)
        return cls(weights.astype(np.float32))

    def scores(self, histories: Sequence[Rows]) -> Scores:
        """See Baseline.scores."""
        return _dense(interaction_matrix(histories, len(self.weights)) @ self.weights)


def _binary(matrix: Any) -> Any:
    """A csr_array copy with 1 in place of every non-zero entry, duplicates merged."""
    result = sparse.csr_array(matrix, dtype=np.float32, copy=True)
    result.sum_duplicates()
    result.eliminate_zeros()
    result.data[:] = 1
    return result


def _dense(matrix: Any) -> Scores:
    return np.asarray(matrix.toarray() if sparse.issparse(matrix) else matrix, np.float32)
