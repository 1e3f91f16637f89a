"""What a bundle needs for sources of candidates: listings, items that may come from them, models of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.bundle.filter_plan import evaluate
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.listing import save_listing, save_rows
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, SourceEntry
from feast_recsys.bundle.signature import SIGNATURE_FILE, Stage
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.features.catalogue import Catalogue
from feast_recsys.features.interactions import read_interactions
from feast_recsys.features.listings import Counts, cold, largest, likes, most_liked
from feast_recsys.features.repo import Repo
from feast_recsys.features.settings import Recommender
from feast_recsys.features.source_settings import Source
from feast_recsys.jobs.exported import ExportedModel, open_model

FOLDER = "sources"

# Between a recommender and a model of one of its sources; no name of either has it.
_JOINT = "+"


@dataclass(frozen=True)
class SourceData:
    """What interactions and features say for sources, each by recommender and source.

    Attributes:
        listings: Rows [m] int64, best first, and scores [m] float32.
        rows: Rows that may come from the source, ascending; filters are not in them.
    """

    listings: Mapping[tuple[str, str], tuple[Rows, Vectors]]
    rows: Mapping[tuple[str, str], Rows]

    def digest(self) -> str:
        """SHA-256 over all of it, as hex."""
        digest = hashlib.sha256()
        for key, (rows, scores) in sorted(self.listings.items()):
            digest.update(repr((key, len(rows))).encode() + rows.tobytes() + scores.tobytes())
        for key, rows in sorted(self.rows.items()):
            digest.update(repr((key, len(rows))).encode() + rows.tobytes())
        return digest.hexdigest()


NO_SOURCES = SourceData({}, {})


def all_sources(repo: Repo) -> Iterator[tuple[str, Recommender, Source]]:
    """Every source of every recommender, with the recommender's name and settings."""
    for name, recommender in repo.settings.recommenders.items():
        for source in recommender.sources:
            yield name, recommender, source


def joint(recommender: str, model: str) -> str:
    """The name under which a job keeps vectors and index of a model that a source of a recommender takes."""
    return f"{recommender}{_JOINT}{model}"


def recommender_of(name: str) -> str:
    """The recommender of a name that may be a `joint` one."""
    return name.partition(_JOINT)[0]


def open_source_models(repo: Repo) -> dict[tuple[str, Stage], ExportedModel]:
    """The exported models that sources take beside the recommenders' own, by joint name and stage.

    Raises:
        InvalidSettings: no recommender names such a model, and none is there.
        InvalidRepository, CorruptArtifact, InvalidSignature: see `open_model`.
    """
    makers = {recommender.retrieval.model: name for name, recommender in repo.settings.recommenders.items()}
    models = {}
    for name, recommender, source in all_sources(repo):
        if source.model is None or source.model == recommender.retrieval.model:
            continue
        folder = repo.resolve(repo.settings.models) / source.model
        if source.model not in makers and not (folder / SIGNATURE_FILE).is_file():
            raise InvalidSettings(
                f"source {source.name!r} of {name!r} takes the retrieval model {source.model!r}, which is not at "
                f"{folder}; correct the name, or make it the `retrieval.model` of a recommender and export that",
                field=setting_of(name, source, "model"),
            )
        key = joint(name, source.model), Stage.RETRIEVAL
        if key not in models:
            models[key] = open_model(repo, makers.get(source.model, name), Stage.RETRIEVAL, source.model)
    return models


def entries_by_name(manifest: Manifest) -> dict[str, RecommenderEntry]:
    """The recommenders of a bundle, and the models of their sources by joint names."""
    entries = dict(manifest.recommenders)
    for name, entry in manifest.recommenders.items():
        for source in entry.sources.values():
            if source.model is not None:
                entries[joint(name, str(source.shape["model"]))] = source.model
    return entries


def read_source_data(repo: Repo, catalogue: Catalogue, as_of: int) -> SourceData:
    """Counts likes and orders items.

    Args:
        repo: The repository.
        catalogue: All items with their features.
        as_of: Unix seconds; likes up to it count.

    Raises:
        InvalidSettings: a feature does not exist or has no order; and what `read_interactions` raises.
    """
    sources = list(all_sources(repo))
    counted = any(source.counts_likes for _, _, source in sources)
    interactions = read_interactions(repo) if counted else None
    known: dict[float | None, Counts] = {}

    def counts(days: float | None) -> Counts:
        assert interactions is not None  # the settings' own check
        if days not in known:
            known[days] = likes(interactions, catalogue.ids, as_of, days)
        return known[days]

    listings, rows = {}, {}
    for name, _, source in sources:
        if source.kind == "popular":
            listings[name, source.name] = most_liked(counts(source.days))
        elif source.kind == "recent":
            listings[name, source.name] = _recent(catalogue, name, source)
        if source.only == "cold":
            rows[name, source.name] = cold(counts(None), source.known_from)
    return SourceData(listings, rows)


def add_sources(
    repo: Repo, staged: Path, snapshot: Snapshot, data: SourceData, entries: Mapping[str, RecommenderEntry]
) -> dict[str, RecommenderEntry]:
    """Writes what sources need into a bundle.

    Args:
        repo: The repository.
        staged: The bundle that is being written; files go below its `sources` folder.
        snapshot: Its catalogue.
        data: From `read_source_data`.
        entries: Entries of the manifest, those of the sources' models under their joint names.

    Returns:
        The recommenders' entries, with their sources.

    Raises:
        InvalidSettings: a filter does not fit the catalogue; names it.
    """
    found: dict[str, dict[str, SourceEntry]] = {}
    for name, _, source in all_sources(repo):
        place, key = f"{FOLDER}/{name}/{source.name}", (name, source.name)
        listing = rows = None
        if key in data.listings:
            listing = f"{place}/listing"
            save_listing(staged / listing, *data.listings[key])
        passing = _passing(source, name, snapshot, data.rows.get(key))
        if passing is not None:
            rows = f"{place}/rows.npy"
            save_rows(staged / rows, passing)
        model = entries.get(joint(name, source.model)) if source.model is not None else None
        found.setdefault(name, {})[source.name] = SourceEntry(source.shape(), model, listing, rows)
    return {name: replace(entry, sources=found.get(name, {})) for name, entry in entries.items() if _JOINT not in name}


def _recent(catalogue: Catalogue, name: str, source: Source) -> tuple[Rows, Vectors]:
    assert source.by is not None  # the settings' own check
    column = catalogue.columns.get(source.by)
    if column is None:
        there = ", ".join(catalogue.columns)
        raise InvalidSettings(
            f"source {source.name!r} of {name!r} orders items by {source.by}, which the catalogue does not have; there "
            f"are: {there}",
            field=setting_of(name, source, "by"),
        )
    if column.is_list or column.dtype not in (DType.INT64, DType.FLOAT32):
        raise InvalidSettings(
            f"source {source.name!r} of {name!r} orders items by {source.by}, which is "
            f"{'a list' if column.is_list else column.dtype.value}; name a number or a time",
            field=setting_of(name, source, "by"),
        )
    return largest(column)


def _passing(source: Source, name: str, snapshot: Snapshot, rows: Rows | None) -> Rows | None:
    """The rows that may come from a source; None for all."""
    condition = source.condition
    if condition is None:
        return rows
    try:
        passes = evaluate(condition, snapshot)
    except InvalidArgument as error:
        raise InvalidSettings(
            f"source {source.name!r} of {name!r}: {error.message}", field=setting_of(name, source, "filter")
        ) from error
    return np.flatnonzero(passes) if rows is None else rows[passes[rows]]


def setting_of(name: str, source: Source, setting: str) -> str:
    """The path of a source's setting."""
    return f"recsys.recommenders.{name}.sources.{source.name}.{setting}"
