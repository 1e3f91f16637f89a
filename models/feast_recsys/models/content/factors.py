"""What usage says about items, for content to explain: factors of unit length, and how popular items are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.collaborative.implicit_library import fit_with_library
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.training.loop import Run


@dataclass(frozen=True)
class FactorConfig:
    """How factors come from usage. Confidence is 1 + alpha r, or 1 + alpha ln(1 + r / epsilon) (van den Oord 2013).

    Attributes:
        dimension: d.
        regularization: lambda of ALS.
        alpha: How much usage counts more than its absence.
        epsilon: Scale of the logarithm, in plays; 0 for no logarithm.
        iterations: Of ALS.
        threshold: Interactions from which on an item's usage is trusted: it keeps its own factors and is learned from.
    """

    dimension: int = 40
    regularization: float = 10.0
    alpha: float = 10.0
    epsilon: float = 0.0
    iterations: int = 15
    threshold: int = 5

    def __post_init__(self) -> None:
        require_setting(self.dimension >= 1 and self.iterations >= 1 and self.threshold >= 1, "dimension", "at least 1")
        require_setting(self.regularization > 0, "regularization", "above 0")
        require_setting(self.alpha >= 0 and self.epsilon >= 0, "alpha", "at least 0")


@dataclass(frozen=True)
class Factors:
    """What usage says about items and users.

    Attributes:
        items: [n, d] float32 of unit length; zeros for items without usage.
        users: [U, d] float32, as ALS leaves them.
        counts: [n] int64, users of each item.
        popularity: [n] float32: ln(1 + count), in standard deviations from the mean of the trusted items.
        trusted: [n] bool, whether the count reaches the threshold.
    """

    items: Floats
    users: Floats
    counts: Ints
    popularity: Floats
    trusted: npt.NDArray[np.bool_]


def usage_factors(plays: Histories, config: FactorConfig, run: Run) -> Factors:
    """Factors by implicit-feedback ALS (Hu et al. 2008), through `implicit` on one thread; same seed, same factors.

    What is to be held out must not be in the plays: items as well as interactions.

    Raises:
        InvalidArgument: no item reaches the threshold, or ratings are negative.
        JobFailed: the library is missing, or factors are not finite.
    """
    counts = np.bincount(plays.items, minlength=plays.catalogue).astype(np.int64)
    trusted = counts >= config.threshold
    if not trusted.any():
        raise InvalidArgument(
            f"no item has {config.threshold} interactions; lower the threshold, or bring more usage", field="threshold"
        )
    matrix = confidences(plays, config.alpha, config.epsilon)
    items, users = fit_with_library(
        "als", "AlternatingLeastSquares", matrix, run, factors=config.dimension, alpha=1.0,
        regularization=config.regularization, iterations=config.iterations,
    )  # fmt: skip
    unit = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    unit[counts == 0] = 0.0
    logs = np.log1p(counts)
    spread = float(logs[trusted].std())
    popularity = ((logs - logs[trusted].mean()) / (spread if spread > 0 else 1.0)).astype(np.float32)
    return Factors(unit.astype(np.float32), users, counts, popularity, trusted)


def confidences(plays: Histories, alpha: float, epsilon: float) -> Any:
    """scipy csr_array [U, n] float32: how much each play counts, at least 1; what is not there counts 1.

    Args:
        plays: Each counts once if they have no ratings.
        alpha, epsilon: See `FactorConfig`.

    Raises:
        InvalidArgument: ratings are negative.
    """
    amounts = np.ones(len(plays.items), np.float32) if plays.ratings is None else plays.ratings
    if amounts.size and amounts.min() < 0:
        raise InvalidArgument("numbers of plays must be at least 0", field="ratings")
    grown = np.log1p(amounts / epsilon) if epsilon else amounts
    return sparse.csr_array(
        ((1.0 + alpha * grown).astype(np.float32), plays.items, plays.offsets), shape=(len(plays), plays.catalogue)
    )


def require_setting(holds: bool, field: str, what: str) -> None:
    """Refuses a setting, by name, that is not what it must be."""
    if not holds:
        raise InvalidSettings(f"{field} must be {what}", field=field)
