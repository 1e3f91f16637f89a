"""What the collaborative models share: their interface, and what they do for users and items without likes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.retrieval.encoders import Encoders

UNKNOWN = -1000.0  # bias of items that a model knows nothing about: far below any score of known ones
SAMPLE = 1000  # users from whom a served form is compared with the exact one
CUT = 50  # length of the lists compared
_BLOCK = 256  # users scored at once


class Model(Protocol):
    """A fitted model without features.

    A user without history gets the items in order of popularity: all models score log(1 + number of users) there.

    Attributes:
        config: The hyperparameters, plain JSON values; `build_*` rebuilds the encoders from it.
        facts: What the fit found out. Plain YAML values.
    """

    @property
    def config(self) -> Any:
        """See above."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """See above."""

    def score(self, histories: Histories, chosen: npt.ArrayLike) -> Floats:
        """Exact scores of the whole catalogue.

        Args:
            histories: Of any users, over the catalogue of the fit.
            chosen: [m] users.

        Returns:
            [m, n] float32, finite, higher is better; items of the history are scored as well.

        Raises:
            InvalidArgument: histories of another catalogue, or without ratings where the model needs them.
        """

    def encoders(self) -> Encoders:
        """The same model as query and item vectors, in eval mode; each class says how close it comes.

        Raises:
            InvalidSettings: the catalogue is too large for this model to be served.
        """


def require(config: object, field: str, good: bool, rule: str) -> None:
    """Refuses a hyperparameter.

    Raises:
        InvalidSettings: it is not `good`; names the field, the rule and the value.
    """
    if not good:
        raise InvalidSettings(f"{field} must be {rule}, not {getattr(config, field)!r}", field=field)


def same_catalogue(histories: Histories, items: int) -> None:
    """Refuses histories over a catalogue of other size.

    Raises:
        InvalidArgument: there is something to refuse.
    """
    if histories.catalogue != items:
        raise InvalidArgument(
            f"the model knows a catalogue of {items} items, the histories are of {histories.catalogue}",
            field="histories",
        )


def item_counts(histories: Histories) -> Ints:
    """[n] users of each item."""
    return np.bincount(histories.items, minlength=histories.catalogue)


def log_popularity(histories: Histories) -> Floats:
    """[n] log(1 + number of users): what users without history get."""
    return np.log1p(item_counts(histories)).astype(np.float32)


def stand_in(scores: Any, part: Histories, popularity: Floats) -> Floats:
    """[m, n] scores, those of users without history replaced by popularity."""
    filled = np.asarray(scores, np.float32)
    filled[part.lengths == 0] = popularity
    return filled


def tail(known: Tensor) -> Tensor:
    """[B, 2] float32, the last entries of queries: [1, 0], and [0, 1] for users without a known item.

    They meet the columns of `vectors_with_tail`: users with history get the bias, all others popularity.

    Args:
        known: [B, L] bool.
    """
    some = known.any(-1, keepdim=True).to(torch.float32)
    return torch.cat([some, 1.0 - some], -1)


def history_table(factors: npt.NDArray[np.floating[Any]]) -> Tensor:
    """[n + 1, d] float32 weights of the table that a history is looked up in; row 0, for padding, is zero."""
    return torch.from_numpy(np.concatenate([np.zeros((1, factors.shape[1])), factors]).astype(np.float32))


def vectors_with_tail(factors: npt.NDArray[np.floating[Any]], bias: npt.ArrayLike, popularity: Floats) -> Tensor:
    """[n + 1, d + 2] weights of an item table from [n, d] factors, [n] or scalar biases and [n] popularity.

    Row 0, for items that the model does not know, scores below all others for every user.
    """
    n = len(factors)
    columns = (factors, np.broadcast_to(bias, n)[:, None], popularity[:, None])
    unknown = (np.zeros((1, factors.shape[1])), [[UNKNOWN]], [[-1.0]])
    rows = [np.concatenate([top, column]) for top, column in zip(unknown, columns, strict=True)]
    return torch.from_numpy(np.concatenate(rows, axis=1).astype(np.float32))


def kept_share(exact: Floats, other: Floats, histories: Histories, k: int = CUT) -> float:
    """Mean share of the k best items by exact scores that are among the k best by other scores.

    Args:
        exact, other: [m, n] scores of the same users.
        histories: Of these m users; what they have is in neither list.
        k: Length of the lists; all unseen items if there are fewer.
    """
    seen = histories.matrix().toarray() > 0
    shares = []
    for mask, one, two in zip(seen, exact, other, strict=True):
        left = np.flatnonzero(~mask)
        cut = min(k, len(left))
        if cut:
            first, second = (np.argsort(-scores[left], kind="stable")[:cut] for scores in (one, two))
            shares.append(len(np.intersect1d(first, second)) / cut)
    return float(np.mean(shares)) if shares else 1.0


def sample_of(histories: Histories, seed: int) -> Histories:
    """Some of the users who have a history, drawn by the seed."""
    users = np.flatnonzero(histories.lengths)
    return histories.take(np.random.default_rng(seed).permutation(users)[:SAMPLE])


def compare(model: Model, sample: Histories) -> float:
    """`kept_share` of a model's encoders beside its exact scores; 1 without users."""
    total = 0.0
    for start in range(0, len(sample), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(sample)))
        exact, served = model.score(sample, block), model.encoders().score(sample, block)
        total += len(block) * kept_share(exact, served, sample.take(block))
    return total / len(sample) if len(sample) else 1.0
