"""Checks of the sources that recommenders list."""

from __future__ import annotations

from collections.abc import Iterator

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import RecsysError
from feast_recsys.bundle.filters import Comparison, Filter
from feast_recsys.bundle.manifest import RecommenderEntry
from feast_recsys.bundle.signature import Side
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.schema import feature_schema
from feast_recsys.features.settings import SECTION
from feast_recsys.features.source_settings import Source
from feast_recsys.jobs.findings import Finding, ok
from feast_recsys.jobs.sources import setting_of


def check_sources(repo: Repo, name: str) -> Iterator[Finding]:
    """The features that the sources of a recommender name."""
    recommender = repo.settings.recommenders[name]
    for source in recommender.sources:
        problems = list(_problems(repo, name, source, recommender.retrieval.history))
        yield from problems
        if not problems:
            quota = f"quota {source.quota}" if source.quota else "fills up"
            yield ok(f"{SECTION}.recommenders.{name}.sources.{source.name}", f"{source.kind}, {quota}")


def check_bundled_sources(repo: Repo, name: str, entry: RecommenderEntry) -> Iterator[Finding]:
    """Whether the published bundle holds the sources as the settings have them."""
    for source in repo.settings.recommenders[name].sources:
        held = entry.sources.get(source.name)
        subject = f"{SECTION}.recommenders.{name}.sources.{source.name}"
        if held is None:
            yield Finding("warning", subject, "the bundle does not hold it yet", "run `feast-recsys materialize`")
        elif held.shape != source.shape():
            message = "the bundle holds it by other settings, so it is not served"
            yield Finding("warning", subject, message, "run `feast-recsys materialize`")


def _problems(repo: Repo, name: str, source: Source, history: str | None) -> Iterator[Finding]:
    if source.by is not None:
        problem = _problem(repo, source.by, Side.ITEM, (DType.INT64, DType.FLOAT32), is_list=False)
        if problem:
            yield Finding("error", setting_of(name, source, "by"), problem, "name a number or time of the item")
    if source.kind == "similar" and (reference := source.history or history) is not None:
        problem = _problem(repo, reference, Side.USER, (entity_key(repo, Side.ITEM).dtype,), is_list=True)
        if problem:
            remedy = "name a list of item ids of the user"
            yield Finding("error", setting_of(name, source, "history"), problem, remedy)
    for reference in _keys(source.condition):
        problem = _problem(repo, reference, Side.ITEM, tuple(DType), is_list=None)
        if problem:
            yield Finding("error", setting_of(name, source, "filter"), problem, "name a feature of the item")


def _problem(repo: Repo, reference: str, side: Side, dtypes: tuple[DType, ...], *, is_list: bool | None) -> str:
    """Why a feature is not what it must be; empty if it is."""
    try:
        schema = feature_schema(repo, reference)
    except RecsysError as error:
        return error.message
    if schema.side is not side:
        return f"{reference} is a feature of the {schema.side.value}"
    if schema.dtype not in dtypes or (is_list is not None and schema.is_list is not is_list):
        return f"{reference} is a {'list' if schema.is_list else 'single value'} of {schema.dtype.value}"
    return ""


def _keys(condition: Filter | None) -> tuple[str, ...]:
    """The features that a filter compares."""
    if condition is None:
        return ()
    if isinstance(condition, Comparison):
        return (condition.key,)
    return tuple(key for part in condition.filters for key in _keys(part))
