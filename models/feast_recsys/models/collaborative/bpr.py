"""Matrix factorisation by Bayesian personalised ranking, from the `implicit` library; users are folded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from feast_recsys.models.collaborative.implicit_library import fit_with_library
from feast_recsys.models.collaborative.shared import (
    CUT,
    SAMPLE,
    UNKNOWN,
    history_table,
    item_counts,
    kept_share,
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

_FOLDS = 10  # one of these is kept from the fold-in map, to judge it


@dataclass(frozen=True)
class BprConfig:
    """Hyperparameters.

    Attributes:
        factors: d, width of the factors without bias.
        learning_rate, regularization: Of the gradient steps.
        iterations: Passes over the likes.
        correction: How much of log popularity is added to the biases, to make up for how the library draws what users
            have not (see `Bpr`): 1 for all of it, 0 for scores as the library leaves them.
        ridge: Penalty of the map that folds users in.
    """

    factors: int = 64
    learning_rate: float = 0.02
    regularization: float = 0.02
    iterations: int = 100
    correction: float = 1.0
    ridge: float = 1.0

    def __post_init__(self) -> None:
        require(self, "factors", self.factors >= 1, "at least 1")
        require(self, "learning_rate", 0 < self.learning_rate < np.inf, "above 0 and finite")
        require(self, "regularization", 0 <= self.regularization < np.inf, "at least 0 and finite")
        require(self, "iterations", self.iterations >= 1, "at least 1")
        require(self, "correction", 0 <= self.correction < np.inf, "at least 0 and finite")
        require(self, "ridge", 0 < self.ridge < np.inf, "above 0 and finite")


@dataclass(frozen=True)
class Bpr:
    """BPR-MF (Rendle et al. 2009): x_u . y_i + b_i, trained so that what users have scores above what they have not.

    The paper draws what a user has not uniformly, the library as often as it occurs among the likes. Pairs of i from
    p(i | u) and j from q(j) are told apart best by scores log p(i | u) / q(i), up to a constant of the user: popular
    items come out too low by log q. So `fit_bpr` adds log(number of users) to the biases (logQ, as for sampled softmax;
    Bengio and Senecal 2008). Without it the order is worse than that of popularity.

    Training gives factors to its own users only, and `score_known` uses them. Everybody else, and every request, is
    folded in: x_u = A m_u + a with m_u the mean of the item factors of the history; A and a come from a ridge
    regression onto the factors of the users of the fit. `facts` tell what that costs.

    Attributes:
        items: [n, d] float32, Y.
        biases: [n] float32; far below all others for items that nobody has, which training never moves.
        users: [U, d] float32, factors of the users of the fit.
        fold: [d + 1, d] float32, A' above a.
        popularity: [n] float32, for users without history.
        config: See `Model`.
        facts: `kept_top_50`: share of the 50 best unseen items by `score_known` that are among the 50 best by `score`,
            for users kept out of the regression; absent with fewer than 20 users.
    """

    items: Floats
    biases: Floats
    users: Floats
    fold: Floats
    popularity: Floats
    config: BprConfig
    facts: Mapping[str, Any] = field(default_factory=dict)

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """See `Model.score`: with folded-in users, as served."""
        same_catalogue(histories, len(self.items))
        part = histories.take(chosen)
        scores = _fold_in(_means(part, self.items), self.fold) @ self.items.T + self.biases
        return stand_in(scores, part, self.popularity)

    def score_known(self, users: npt.ArrayLike) -> Floats:
        """[m, n] float32 scores of users of the fit, with the factors that training gave them.

        Args:
            users: [m] users of the fit. Those without history have no factors and get the biases alone.
        """
        scores: Floats = self.users[np.asarray(users, np.int64)] @ self.items.T + self.biases
        return scores

    def encoders(self) -> Encoders:
        """See `Model.encoders`; exactly `score`."""
        encoders = build_bpr(len(self.items), self.config)
        encoders.query.load_state_dict(
            {
                "table.weight": history_table(self.items),
                "fold.weight": torch.from_numpy(self.fold[:-1].T.copy()),
                "fold.bias": torch.from_numpy(self.fold[-1].copy()),
            }
        )
        encoders.item.load_state_dict({"table.weight": vectors_with_tail(self.items, self.biases, self.popularity)})
        return encoders


class MappedMean(HistoryEncoder):
    """A linear map of the mean of the history's item factors.

    Args:
        items: n.
        factors: d.
    """

    def __init__(self, items: int, factors: int) -> None:
        super().__init__()
        self.table = nn.Embedding(items + 1, factors)
        self.fold = nn.Linear(factors, factors)

    def forward(self, history: Tensor, ratings: Tensor | None = None) -> Tensor:
        """[B, d + 2]; zeros for the factors of users without a known item."""
        rows, known, _ = distinct(history)
        ones = known.to(torch.float32)
        mean = (ones.unsqueeze(1) @ self.table(rows)).squeeze(1) / ones.sum(-1, keepdim=True).clamp(min=1.0)
        end = tail(known)
        return torch.cat([self.fold(mean) * end[:, :1], end], -1)


def fit_bpr(histories: Histories, config: BprConfig, run: Run) -> Bpr:
    """Factorises, with one thread: same seed, same factors.

    Raises:
        InvalidArgument: nobody has anything.
        JobFailed: the library is missing or its factors are not finite; names the remedy.
    """
    items, users = fit_with_library(
        "bpr", "BayesianPersonalizedRanking", histories.matrix(), run, factors=config.factors,
        learning_rate=config.learning_rate, regularization=config.regularization, iterations=config.iterations,
        verify_negative_samples=True,
    )  # fmt: skip
    # The library keeps the bias in a last column, beside a 1 of the users.
    items, biases, users = items[:, :-1], items[:, -1].copy(), users[:, :-1]
    counts = item_counts(histories)
    biases += np.float32(config.correction) * np.log(np.maximum(counts, 1)).astype(np.float32)
    biases[counts == 0] = UNKNOWN
    active = np.flatnonzero(histories.lengths)
    means = _means(histories.take(active), items)
    fold = _ridge(means, users[active], config.ridge)
    facts: dict[str, Any] = {}
    if len(active) >= 2 * _FOLDS:
        held = np.random.default_rng(run.seed).permutation(len(active)) < len(active) // _FOLDS
        partial = _ridge(means[~held], users[active[~held]], config.ridge)
        judged = np.flatnonzero(held)[:SAMPLE]
        folded = _fold_in(means[judged], partial) @ items.T + biases
        known = users[active[judged]] @ items.T + biases
        facts[f"kept_top_{CUT}"] = round(kept_share(known, folded, histories.take(active[judged])), 4)
    return Bpr(items, biases, users, fold, log_popularity(histories), config, facts)


def build_bpr(items: int, config: BprConfig) -> Encoders:
    """Untrained encoders for a catalogue of n items; vectors of width d + 2."""
    return Encoders(MappedMean(items, config.factors).eval(), ItemVectors(items, config.factors + 2).eval())


def _means(histories: Histories, items: Floats) -> Floats:
    """[m, d] means of the item factors of histories; zeros for empty ones."""
    lengths = np.maximum(histories.lengths, 1)[:, None].astype(np.float32)
    means: Floats = (histories.matrix() @ items) / lengths
    return means


def _fold_in(means: Floats, fold: Floats) -> Floats:
    folded: Floats = means @ fold[:-1] + fold[-1]
    return folded


def _ridge(means: Floats, users: Floats, penalty: float) -> Floats:
    """[d + 1, d]: the ridge regression of user factors on means, its intercept without penalty."""
    x = np.concatenate([means, np.ones((len(means), 1))], axis=1).astype(np.float64)
    penalties = np.full(x.shape[1], penalty)
    penalties[-1] = 0.0
    solved = np.linalg.solve(x.T @ x + np.diag(penalties), x.T @ users.astype(np.float64))
    return solved.astype(np.float32)
