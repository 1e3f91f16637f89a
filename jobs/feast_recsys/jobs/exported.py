"""The exported models that the settings name, found and held against the Feast repository."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from feast_recsys.bundle.errors import (
    CorruptArtifact,
    InvalidRepository,
    InvalidSettings,
    InvalidSignature,
    RecsysError,
)
from feast_recsys.bundle.manifest import FileEntry, inventory
from feast_recsys.bundle.runtime import LoadedGraph, LoadedPart, load_model, load_split
from feast_recsys.bundle.signature import SIGNATURE_FILE, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.tensors import converts
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.schema import feature_schema
from feast_recsys.jobs.sound import as_stored

# Names of recommenders and models become names of files.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class ExportedModel:
    """An exported model on disk.

    Attributes:
        name: As the settings name it.
        folder: Where it is.
        signature: What it takes and gives.
        graphs: Its graphs by role, opened.
        item_part: What of a split ranker runs over the catalogue, opened; None if there is nothing.
        files: Its files with their checksums.
    """

    name: str
    folder: Path
    signature: Signature
    graphs: Mapping[str, LoadedGraph]
    files: Mapping[str, FileEntry]
    item_part: LoadedPart | None = None


def model_names(repo: Repo) -> dict[tuple[str, Stage], str]:
    """Name of the exported model of each recommender and stage.

    Raises:
        InvalidSettings: a name can't be the name of a folder.
    """
    names = {}
    for recommender, settings in repo.settings.recommenders.items():
        names[recommender, Stage.RETRIEVAL] = settings.retrieval.model
        if settings.ranking is not None:
            names[recommender, Stage.RANKING] = settings.ranking.model
        for name in (recommender, names[recommender, Stage.RETRIEVAL], names.get((recommender, Stage.RANKING), "x")):
            if not _FILE_NAME.fullmatch(name):
                raise InvalidSettings(
                    f"{name!r} can't be the name of a folder; use letters, digits, _, - and .",
                    field=f"recsys.recommenders.{recommender}",
                )
    return names


def open_model(repo: Repo, recommender: str, stage: Stage, name: str) -> ExportedModel:
    """Opens one exported model.

    Raises:
        InvalidRepository: it is not there, or is of another stage; says how to export it.
        CorruptArtifact, InvalidSignature: it is broken; see `load_model`.
    """
    folder = repo.resolve(repo.settings.models) / name
    setting = f"recsys.recommenders.{recommender}.{stage.value}.model"
    remedy = f"run `feast-recsys export --recommender {recommender} --stage {stage.value}`"
    if not (folder / SIGNATURE_FILE).is_file():
        raise InvalidRepository(
            f"recommender {recommender!r} has no exported {stage.value} model at {folder}; {remedy}", field=setting
        )
    signature, graphs = load_model(folder)
    if signature.stage is not stage:
        raise InvalidRepository(
            f"{folder} holds a {signature.stage.value} model, but recommender {recommender!r} names it for "
            f"{stage.value}; {remedy}",
            field=setting,
        )
    item_part = None
    for graph in signature.graphs.values():
        if graph.split is not None:
            item_part = load_split(folder, graph.split, item=True).item
    return ExportedModel(name, folder, signature, graphs, inventory(folder), item_part)


def misfits(repo: Repo, model: ExportedModel) -> Iterator[RecsysError]:
    """All that keeps a model from being fed by this repository; not raised, so that `doctor` can list them."""
    for role, graph in model.signature.graphs.items():
        for spec in graph.inputs:
            where = f"model {model.name!r}, {role.value}, input {spec.name!r}"
            yield from _vocabulary_misfits(repo, model, spec, where)
            try:
                problem = _source_misfit(repo, spec, graph.feature_service)
            except RecsysError as error:
                problem = error.message
            if problem:
                yield InvalidRepository(f"{where}: {problem}", field=spec.feature)


def _source_misfit(repo: Repo, spec: Input, feature_service: str | None) -> str:
    """What is wrong with where an input comes from; empty if nothing is."""
    if spec.source == "request":
        return ""
    if spec.source == "entity":
        key = entity_key(repo, spec.side)
        if spec.feature != f"entity:{key.join_key}":
            return f"it is bound to {spec.feature}, but the {spec.side.value}'s join key is {key.join_key!r}"
        have, is_list = key.dtype, False
    elif spec.side is Side.CONTEXT:
        return f"it is of side context but bound to the feature {spec.feature}; bind it to request:<name>"
    else:
        schema = feature_schema(repo, spec.feature, feature_service)
        if schema.side is not spec.side:
            return f"{spec.feature} is a feature of the {schema.side.value}, the signature says {spec.side.value}"
        have, is_list = schema.dtype, schema.is_list
    spec = as_stored(spec)
    if is_list is not spec.is_list:
        kinds = {True: "a list", False: "a single value"}
        return f"{spec.feature} is {kinds[is_list]} in Feast, {kinds[spec.is_list]} in the signature"
    if not converts(have, spec.dtype):
        return f"{spec.feature} is {have.value} in Feast, {spec.dtype.value} in the signature; export with Feast's type"
    return ""


def _vocabulary_misfits(repo: Repo, model: ExportedModel, spec: Input, where: str) -> Iterator[RecsysError]:
    for file in spec.files:
        try:
            vocabulary = Vocabulary.load(model.folder / file)
        except CorruptArtifact as error:
            yield CorruptArtifact(f"{where}: {error.message}", field=file)
            continue
        dtype, what = spec.dtype, "the input is"
        if file != spec.vocabulary:
            dtype, what = entity_key(repo, spec.side).dtype, "ids are"
        if vocabulary.keys and vocabulary.dtype is not dtype:
            yield InvalidSignature(
                f"{where}: {file} holds keys of type {vocabulary.dtype.value}, {what} {dtype.value}; export the model "
                "again",
                field=file,
            )


def item_references(model: ExportedModel) -> tuple[str, ...]:
    """Features of items that the model takes from Feast."""
    return model.signature.references(Side.ITEM)


def item_encoder(model: ExportedModel) -> LoadedGraph:
    """The graph that makes item vectors."""
    return model.graphs[Role.ITEM_ENCODER.value]
