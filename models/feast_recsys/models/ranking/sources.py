"""Candidates of several sources as of the past, put together as the server puts them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, Metric, score_all
from feast_recsys.bundle.index.vectors import query_like
from feast_recsys.bundle.merging import NOTHING, Found, Merged, merge, plans
from feast_recsys.bundle.signature import Role
from feast_recsys.features.interactions import Interactions
from feast_recsys.features.listings import cold, largest, likes, most_liked
from feast_recsys.features.settings import Recommender
from feast_recsys.features.source_settings import OWN, Source
from feast_recsys.models.data.events import Ints
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.tensors import Floats, ModelTensors
from feast_recsys.models.retrieval.scoring import best


def sources_of(settings: Recommender) -> tuple[Source, ...]:
    """The sources that a past list of candidates comes from, in their order; the own model is the last if it is not
    listed.

    Those of `untold` are left out. Empty if candidates come from the own model alone: there is nothing to tell apart
    then.
    """
    told = tuple(source for source in settings.sources if source.name not in untold(settings))
    own = any(is_own(source, settings) for source in told)
    sources = told if own else (*told, Source(name=OWN))
    return sources if len(sources) > 1 else ()


def untold(settings: Recommender) -> dict[str, str]:
    """By name, sources that no past list can have candidates of, and why.

    To a ranker they are sources that training did not have: it judges their candidates by their features alone.
    """
    why = {}
    for source in settings.sources:
        if source.model not in (None, settings.retrieval.model):
            why[source.name] = f"what {source.model} would have found at past moments is not known"
        elif source.filter is not None:
            why[source.name] = "which items passed its filter at past moments is not known"
    return why


def own_name(settings: Recommender) -> str:
    """What the recommender's own model is called among its sources."""
    return next((source.name for source in settings.sources if is_own(source, settings)), OWN)


def is_own(source: Source, settings: Recommender) -> bool:
    """Whether a source is the recommender's own retrieval model, whole."""
    own = source.kind == "model" and source.model in (None, settings.retrieval.model)
    return own and source.only is None and source.filter is None


def check_past(settings: Recommender, where: str, user: Sequence[str], item: Sequence[str]) -> None:
    """Refuses sources that lack a feature to tell candidates of the past by.

    Args:
        settings: The recommender.
        where: Its path in the settings.
        user, item: Features that training data has of either side.

    Raises:
        InvalidSettings: names the source's setting and the remedy.
    """
    for source in sources_of(settings):
        named = f"{where}.sources.{source.name}"
        history = source.history or settings.retrieval.history
        if source.kind == "recent" and source.by not in item:
            why, field = f"by: {source.by} is not among the items' features of training", f"{named}.by"
            remedy = "add it to the feature service of `retrieval.item` or `ranking.features`"
        elif source.kind == "similar" and history not in user:
            why, field = f"history: {history} is not among the users' features of training", f"{named}.history"
            remedy = "add it to the feature service of `retrieval.query` or `ranking.features`"
        else:
            continue
        raise InvalidSettings(f"{named}.{why}, so the ranker can't learn from such candidates; {remedy}", field=field)


@dataclass(frozen=True)
class PastSources:
    """The sources of a recommender at the moments of queries.

    Attributes:
        data: Training data.
        encoders: Of the recommender's own model, or of a fold of it.
        tensors: Their inputs.
        bias: How many of the last columns of item vectors are biases.
        metric: What the vectors are compared by.
    """

    data: TrainingData
    encoders: Mapping[Role, nn.Module]
    tensors: ModelTensors
    bias: int
    metric: Metric = INNER_PRODUCT

    def candidates(self, queries: Queries, rows: Ints, scores: Floats, k: int) -> list[Merged]:
        """What each of some queries of one day would be given.

        Likes are counted up to the midnight that item features are of, as a nightly materialization would.

        Args:
            queries: All queries.
            rows: [m] which of them.
            scores: [m, I] of the own model; -inf for items that can't be chosen.
            k: Number of items wanted.

        Returns:
            Candidates: their `rows` are positions in `Events.item_ids`, their `sources` positions in `sources_of`.
        """
        data, settings = self.data, self.data.settings
        sources = sources_of(settings)
        day = int(data.day_of(queries.times[rows[:1]])[0])
        states = data.states(queries)[rows]
        found = [self._found(source, day, states, scores, k) for source in sources]
        names = [source.name for source in sources]
        common, other = plans(
            [source.quota or 0 for source in sources],
            [source.kind in ("model", "similar") for source in sources],
            names.index(settings.fallback) if settings.fallback in names else None,
            k,
        )
        stranger = self._strangers(states)
        return [
            merge([of_source[n] for of_source in found], *(other if stranger[n] else common), k)
            for n in range(len(rows))
        ]

    def _found(self, source: Source, day: int, states: Ints, scores: Floats, k: int) -> list[Found]:
        """What one source has for each query, at most k items."""
        only = np.ones(scores.shape[1], np.bool_)
        if source.only == "cold":
            only[:] = False
            only[cold(self._likes(day, None), source.known_from)] = True
        if source.kind == "model":
            return _best(np.where(only, scores, np.float32(-np.inf)), k)
        if source.kind == "similar":
            return self._alike(source, day, states, np.where(only, scores, np.float32(-np.inf)), k)
        if source.kind == "popular":
            order, values = most_liked(self._likes(day, source.days))
        else:
            assert source.by is not None  # the settings' own check
            order, values = largest(self.data.item_columns[source.by].take(self._day(day)))
        allowed = (scores > -np.inf) & only
        chosen = [np.flatnonzero(row)[:k] for row in allowed[:, order]]
        return [Found(order[at], values[at]) for at in chosen]

    def _day(self, day: int) -> Ints:
        """The rows of all items on a day."""
        return day * self.data.items + np.arange(self.data.items)

    def _likes(self, day: int, days: float | None) -> npt.NDArray[np.int64]:
        events = self.data.events
        interactions = Interactions(events.users, events.items, events.times, events.labels, events.positive)
        return likes(interactions, np.arange(self.data.items), int(self.data.days[day]), days)

    @torch.no_grad()
    def _alike(self, source: Source, day: int, states: Ints, scores: Floats, k: int) -> list[Found]:
        """Items like the last ones of each user's history, without these."""
        reference = source.history or self.data.settings.retrieval.history
        assert reference is not None  # the settings' own check
        encoder = self.encoders[Role.ITEM_ENCODER].eval()
        vectors = encoder(**self.tensors.items(self._day(day))).numpy()
        seeds = [rows[: source.last_items] for rows in self._histories(reference, states)]
        queries = [query_like(vectors[rows], bias=self.bias, metric=self.metric) for rows in seeds]
        nothing = np.zeros((1, vectors.shape[1]), np.float32)
        asked = np.concatenate([nothing if query is None else query for query in queries])
        likeness = np.where(scores > -np.inf, score_all(asked, vectors, self.metric), np.float32(-np.inf))
        for n, rows in enumerate(seeds):
            likeness[n, rows] = -np.inf
        found = _best(likeness, k)
        return [one if query is not None else NOTHING for one, query in zip(found, queries, strict=True)]

    def _histories(self, reference: str, states: Ints) -> list[Ints]:
        """Of each state the items of a history that the catalogue has, each once, as they stand."""
        column, ids = self.data.user_columns[reference].take(states), self.data.events.item_ids
        assert column.offsets is not None
        values = column.values if column.dtype is DType.INT64 else column.values.astype(str)
        known = ids if column.dtype is DType.INT64 else ids.astype(str)
        at = np.minimum(np.searchsorted(known, values), len(known) - 1)
        rows = np.where(known[at] == values, at, -1)
        lists = []
        for start, end in zip(column.offsets[:-1].tolist(), column.offsets[1:].tolist(), strict=True):
            own = rows[start:end][rows[start:end] >= 0]
            lists.append(own[np.sort(np.unique(own, return_index=True)[1])])
        return lists

    def _strangers(self, states: Ints) -> npt.NDArray[np.bool_]:
        """Of which states nothing is known by the first history that is named; of none where none is."""
        settings = self.data.settings
        named = [settings.retrieval.history, *(source.history for source in settings.sources)]
        history = next(filter(None, named), None)
        if history is None or settings.fallback is None:
            return np.zeros(len(states), np.bool_)
        column = self.data.user_columns[history].take(states)
        assert column.offsets is not None
        empty: npt.NDArray[np.bool_] = np.diff(column.offsets) == 0
        return empty


def _best(scores: Floats, k: int) -> list[Found]:
    found = best(scores, k)
    real = found.items >= 0
    return [Found(found.items[n][real[n]], found.scores[n][real[n]]) for n in range(len(scores))]
