"""The sources of a recommender, from its settings and what its bundle holds of them."""

from __future__ import annotations

import logging

import numpy as np

from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.filter_plan import plan_of
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.bundle.store import LoadedRecommender, LoadedSource
from feast_recsys.features.settings import Recommender
from feast_recsys.features.source_settings import OWN
from feast_recsys.features.source_settings import Source as Settings
from feast_recsys.server.sources import Alike, Listing, Nearest, Source, Way
from feast_recsys.server.stage import Stage

logger = logging.getLogger(__name__)


def prepare_sources(
    name: str, settings: Recommender, loaded: LoadedRecommender, query: Stage, filters: FilterCache
) -> tuple[Source, tuple[Source, ...]]:
    """The recommender's own model as a source, and all its sources in the order of the settings.

    A source that the bundle does not hold, or holds by other settings, is left out with a warning, as a recommender
    would be: the next bundle brings it.

    Args:
        name: Of the recommender.
        settings: Its section.
        loaded: What the bundle holds of it.
        query: Its own query encoder.
        filters: What is kept of filters over the catalogue.
    """
    own = Source(OWN, 0, Nearest(query, loaded.index))
    sources, stages = [], {id(loaded): query}
    for section in settings.sources:
        held = loaded.sources.get(section.name)
        if held is None or held.shape != section.shape():
            logger.warning(
                "the bundle has no source %r of recommender %r as the settings have it; materialize again to serve it",
                section.name,
                name,
            )
            continue
        only = None if held.rows is None else _only(section, held.rows, filters)
        model = held.model or loaded
        stage = stages.setdefault(id(model), Stage.of(model.query_encoder)) if section.kind == "model" else query
        source = Source(section.name, section.quota or 0, _way(section, settings, held, model, stage), only)
        if only is None and isinstance(source.way, Nearest) and source.way.query is query:
            own = source
        sources.append(source)
    return own, tuple(sources) or (own,)


def stages_of(sources: tuple[Source, ...]) -> tuple[Stage, ...]:
    """The query encoders that sources run."""
    return tuple(source.way.query for source in sources if isinstance(source.way, Nearest))


def histories_of(settings: Recommender, sources: tuple[Source, ...]) -> tuple[str, ...]:
    """List features of the user that are read for sources and the fallback, each once."""
    wanted = [source.way.history for source in sources if isinstance(source.way, Alike)]
    return tuple(dict.fromkeys([*wanted, *filter(None, [fallback_history(settings)])]))


def fallback_history(settings: Recommender) -> str | None:
    """The list feature whose emptiness says that nothing is known of a user; None where none is named."""
    if settings.fallback is None:
        return None
    named = [settings.retrieval.history, *(source.history for source in settings.sources)]
    return next(filter(None, named), None)


def _way(section: Settings, settings: Recommender, held: LoadedSource, model: LoadedRecommender, query: Stage) -> Way:
    if held.listing is not None:
        return Listing(*held.listing)
    if section.kind == "similar":
        history = section.history or settings.retrieval.history
        assert history is not None  # the settings' own check
        return Alike(model.index, model.retrieval.bias, model.retrieval.metric, history, section.last_items)
    return Nearest(query, model.index)


def _only(section: Settings, rows: Rows, filters: FilterCache) -> Allowed:
    """The items that may come from a source; with its filter, where nothing else decides which."""
    mask = np.zeros(len(filters.snapshot), np.bool_)
    mask[rows] = True
    if section.only is not None or section.condition is None:
        return Allowed(mask, filters.slices)
    return Allowed(mask, filters.slices, plan_of(section.condition, filters.snapshot))
