"""What the engine is asked and what it answers: small frozen values, no transport in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.filters import Filter

Scalar = bool | int | float | str
ContextValue = Scalar | tuple[Scalar, ...] | None
"""A request-time value: a scalar, a list of one kind of them, or None for null."""


class UserStatus(IntEnum):
    """What the online store knew of the user; names and numbers of the wire contract."""

    UNSPECIFIED = 0
    KNOWN = 1
    UNKNOWN = 2


@dataclass(frozen=True, kw_only=True)
class Query:
    """What every request has. `top_k` 0 and an empty `bundle_id` mean the default.

    `entity_keys` are ids of further entities, as text by join key.
    """

    recommender: str = ""
    user_id: str
    entity_keys: Mapping[str, str] = field(default_factory=dict)
    top_k: int = 0
    context: Mapping[str, ContextValue] = field(default_factory=dict)
    bundle_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Eligibility:
    """Which items may come back.

    Attributes:
        filter: None lets every item pass.
        exclude_item_ids: As text; unknown ids are ignored.
        exclude_seen: None means the recommender's default.
    """

    filter: Filter | None = None
    exclude_item_ids: tuple[str, ...] = ()
    exclude_seen: bool | None = None


@dataclass(frozen=True)
class Cap:
    """At most `max_items` items with the same value of the feature `key`."""

    key: str
    max_items: int


@dataclass(frozen=True, kw_only=True)
class Reranking:
    """How ranked items are arranged; as it stands by probability.

    Attributes:
        relevance_weight: Of the probability against the likeness to items placed before, in [0, 1].
        caps: Limits for values of item features.
        pinned_item_ids: Items that come first, as text; may repeat, may be unknown.
        blocked_item_ids: Items that must not come back, as text; may be unknown.
    """

    relevance_weight: float = 1.0
    caps: tuple[Cap, ...] = ()
    pinned_item_ids: tuple[str, ...] = ()
    blocked_item_ids: tuple[str, ...] = ()


BY_PROBABILITY = Reranking()
"""Arranges nothing."""


@dataclass(frozen=True, kw_only=True)
class RetrieveQuery(Query):
    """The nearest items to a user, or to some items. `top_k` 0 means the recommender's default.

    Attributes:
        seed_item_ids: Items like these are wanted, whatever the user likes; then `user_id` may be empty.
        sources: Names of the sources that items are to come from; empty means all.
    """

    eligibility: Eligibility = Eligibility()
    seed_item_ids: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BatchRetrieveQuery:
    """The nearest items to each of several users.

    Attributes:
        user_ids: As text; may repeat.
        each: What is asked for every one of them; its `user_id` says nothing.
    """

    user_ids: tuple[str, ...]
    each: RetrieveQuery


@dataclass(frozen=True, kw_only=True)
class RankQuery(Query):
    """The given items in order of probability. `top_k` 0 means all.

    Attributes:
        item_ids: Candidates as text; may repeat, may be unknown.
        candidate_features: By name: one value per candidate, [n] int64, float32, bool or str objects.
        reranking: None means the recommender's.
    """

    item_ids: tuple[str, ...]
    candidate_features: Mapping[str, Array] = field(default_factory=dict)
    reranking: Reranking | None = None


@dataclass(frozen=True, kw_only=True)
class RecommendQuery(Query):
    """Both stages. `top_k` and `candidate_count` 0 mean the recommender's defaults, as does a `reranking` of None.
    Without `sources` candidates come from all of them."""

    candidate_count: int = 0
    eligibility: Eligibility = Eligibility()
    reranking: Reranking | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Info:
    """How an answer came about. `as_of` is in unix seconds."""

    bundle_id: str
    as_of: int
    user_status: UserStatus
    degraded_reasons: tuple[str, ...]


@dataclass(frozen=True)
class Retrieved:
    """Items, best first; their sources' scores, [m] float32, and the names of these sources; and the seeds that the
    catalogue does not have."""

    item_ids: list[str]
    scores: npt.NDArray[np.float32]
    sources: list[str]
    info: Info
    unknown_item_ids: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ranked:
    """Items and their probabilities, [m] float32, best first; and the ids that the catalogue does not have."""

    item_ids: list[str]
    scores: npt.NDArray[np.float32]
    unknown_item_ids: list[str]
    info: Info


@dataclass(frozen=True)
class Recommended:
    """Items, their probabilities and retrieval scores, [m] float32 each, and the names of their sources, most probable
    first."""

    item_ids: list[str]
    scores: npt.NDArray[np.float32]
    retrieval_scores: npt.NDArray[np.float32]
    sources: list[str]
    info: Info
