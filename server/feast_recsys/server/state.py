"""What a request works on: one bundle with everything compiled for it, and which of them are held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import BundleNotHeld, BundleNotLoaded, InvalidArgument, UnknownRecommender
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.index.protocol import Index
from feast_recsys.bundle.index.reduction import Metric
from feast_recsys.bundle.store import Bundle
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey
from feast_recsys.features.settings import Recommender
from feast_recsys.server.ranking import Ranker
from feast_recsys.server.requests import Reranking
from feast_recsys.server.sources import Source
from feast_recsys.server.users import Reading


class Need(NamedTuple):
    """Which user features a call needs: those of the query encoder, of the ranker, the seen items."""

    query: bool
    rank: bool
    seen: bool


NEEDS = (
    Need(query=False, rank=False, seen=False),  # Rank without candidates
    Need(query=False, rank=False, seen=True),  # Retrieve by seed items
    Need(query=False, rank=True, seen=False),  # Rank
    Need(query=True, rank=False, seen=False),  # Retrieve
    Need(query=True, rank=False, seen=True),
    Need(query=True, rank=True, seen=False),  # Recommend
    Need(query=True, rank=True, seen=True),
)


@dataclass(frozen=True)
class Slot:
    """A value that a caller may give: the Feast reference or `request:` name it stands for, and its type."""

    feature: str
    dtype: DType
    is_list: bool


@dataclass(frozen=True)
class Served:
    """One recommender, ready to answer.

    Attributes:
        name: Its name.
        settings: Its section.
        index: The item vectors, row by row as in the snapshot.
        bias: How many of their last columns are biases.
        metric: What they are compared by.
        ranker: None if the recommender only retrieves.
        readings: What to read of users, by need; None where there is nothing to read.
        context: What `context` may hold, by name.
        candidate: What `candidate_features` may hold, by name.
        unset: One row of null for each `request:` input of the user's side, by reference.
        takes_user_id: Whether a model takes the user's id itself.
        entity_keys: Further join keys of the user's side, by name.
        fresh: Reads the item features that a request must not take from the snapshot; None if there are none.
        reranking: How ranked items are arranged where a request does not say.
        own: The recommender's own retrieval model as a source.
        sources: Where candidates come from; `own` alone where the settings list none.
        fallback: Name of the source for users of whom nothing is known; None for none.
        history: List feature with the last items of a user, read where there is a fallback; None where none is named.
    """

    name: str
    settings: Recommender
    index: Index
    bias: int
    metric: Metric
    ranker: Ranker | None
    readings: Mapping[Need, Reading | None]
    context: Mapping[str, Slot]
    candidate: Mapping[str, Slot]
    unset: Mapping[str, Column]
    takes_user_id: bool
    entity_keys: Mapping[str, EntityKey]
    fresh: OnlineReader | None
    reranking: Reranking
    own: Source
    sources: tuple[Source, ...]
    fallback: str | None
    history: str | None

    def ranking(self) -> Ranker:
        """The ranker.

        Raises:
            InvalidArgument: the recommender only retrieves.
        """
        if self.ranker is None:
            raise InvalidArgument(
                f"recommender {self.name!r} only retrieves: its settings say `ranking: null`, or its bundle holds no "
                "ranking model; call Retrieve",
                field="recommender",
            )
        return self.ranker


@dataclass(frozen=True)
class ServingState:
    """A bundle and all that was compiled for it. A request takes the reference once.

    Immutable but for `filters`: what was found of the bundle's items for earlier requests.
    """

    bundle: Bundle
    user_key: EntityKey
    recommenders: Mapping[str, Served]
    filters: FilterCache

    def recommender(self, name: str) -> Served:
        """The recommender of that name; the only one for the empty name.

        Raises:
            UnknownRecommender: there is none; lists those that exist.
            InvalidArgument: the name is empty and there are several.
        """
        known = ", ".join(sorted(self.recommenders))
        if name in self.recommenders:
            return self.recommenders[name]
        if name:
            raise UnknownRecommender(
                f"no recommender {name!r}; there are: {known}", field="recommender", metadata={"recommenders": known}
            )
        if len(self.recommenders) > 1:
            raise InvalidArgument(
                f"recommender is empty, but there are several: {known}",
                field="recommender",
                metadata={"recommenders": known},
            )
        return next(iter(self.recommenders.values()))


@dataclass(frozen=True)
class Held:
    """The bundle that answers, and the one before it."""

    current: ServingState | None = None
    previous: ServingState | None = None

    def choose(self, bundle_id: str) -> ServingState:
        """The state for a request that names a bundle, or none.

        Raises:
            BundleNotLoaded: nothing is held yet.
            BundleNotHeld: that bundle is not held; gives the current one.
        """
        if self.current is None:
            raise BundleNotLoaded("no bundle is loaded yet; run `feast-recsys materialize`, or see the server's log")
        for state in (self.current, self.previous):
            if state is not None and bundle_id in ("", state.bundle.id):
                return state
        raise BundleNotHeld(
            f"bundle {bundle_id!r} is not held; the current one is {self.current.bundle.id!r}: retrieve again",
            field="bundle_id",
            metadata={"current_bundle_id": self.current.bundle.id},
        )


class Shelf:
    """The one mutable reference of the server: readers take `held` once, writers replace it whole."""

    def __init__(self) -> None:
        self.held = Held()
