"""Checks of exported models and of the published bundle against the repository."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from feast_recsys.bundle.errors import InvalidRepository, RecsysError
from feast_recsys.bundle.manifest import FileEntry
from feast_recsys.bundle.signature import Graph, Role, Side, Stage
from feast_recsys.bundle.store import Bundle, current, open_bundle
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.schema import service_schemas
from feast_recsys.features.settings import SECTION
from feast_recsys.jobs.check_index import check_index
from feast_recsys.jobs.check_sources import check_bundled_sources
from feast_recsys.jobs.exported import ExportedModel, misfits, model_names, open_model
from feast_recsys.jobs.findings import Finding, ok
from feast_recsys.jobs.registry import registry_hash
from feast_recsys.jobs.sources import open_source_models
from feast_recsys.jobs.write_vectors import vector_views

MATERIALIZE = "run `feast-recsys materialize`"
Models = dict[tuple[str, Stage], ExportedModel]


def open_models(repo: Repo, models: Models) -> Iterator[Finding]:
    """Opens every exported model into `models`."""
    for (recommender, stage), name in model_names(repo).items():
        subject = f"{SECTION}.recommenders.{recommender}.{stage.value}.model"
        try:
            models[recommender, stage] = model = open_model(repo, recommender, stage, name)
        except RecsysError as error:
            yield Finding("error", subject, error.message)
            continue
        graphs = ", ".join(f"{role.value} with {len(g.inputs)} inputs" for role, g in model.signature.graphs.items())
        yield ok(subject, f"{name}: {graphs}")
    try:
        models |= open_source_models(repo)
    except RecsysError as error:
        yield Finding("error", error.field or f"{SECTION}.recommenders", error.message)


def check_inputs(repo: Repo, model: ExportedModel) -> Iterator[Finding]:
    """Every input against Feast."""
    problems = [Finding("error", error.field or model.name, error.message) for error in misfits(repo, model)]
    yield from problems
    if not problems:
        yield ok(model.name, "every input fits its feature")


def check_services(repo: Repo, model: ExportedModel) -> Iterator[Finding]:
    """The feature services that the graphs name: for people and other tools, since the server reads by reference."""
    for role, graph in model.signature.graphs.items():
        if graph.feature_service is None:
            continue
        try:
            have = {schema.reference for schema in service_schemas(repo, graph.feature_service)}
        except InvalidRepository as error:
            yield Finding("warning", graph.feature_service, f"{model.name}, {role.value}: {error.message}")
            continue
        wanted = [reference for side in Side for reference in graph.references(side)]
        lacking = [reference for reference in wanted if reference not in have]
        if lacking:
            message = f"feature service {graph.feature_service!r} lacks {', '.join(lacking)}, which {model.name} takes"
            yield Finding("warning", graph.feature_service, message, "add them to the service and run `feast apply`")


def check_dimension(repo: Repo, model: ExportedModel) -> Iterator[Finding]:
    """The width of a retrieval model's vectors, in signature, graphs and Feast."""
    width = model.signature.dimension
    for role, graph in model.signature.graphs.items():
        made = _output_width(model, role, graph)
        if made is not None and made != width:
            message = f"{model.name}: {role.value} gives vectors of width {made}, the signature says {width}"
            yield Finding("error", model.name, message, "export the model again")
    for target in vector_views(repo):
        for recommender, feature in target.features.items():
            if repo.settings.recommenders[recommender].retrieval.model != model.name:
                continue
            field = next(f for f in target.view.features if f.name == feature)
            declared = getattr(field, "vector_length", 0)
            if declared and declared != width:
                message = f"{target.view.name}:{feature} declares vector_length {declared}, {model.name} gives {width}"
                yield Finding(
                    "error", f"{target.view.name}:{feature}", message, f"declare {width} and run `feast apply`"
                )


def check_bundle(repo: Repo, models: Models) -> Iterator[Finding]:
    """The published bundle against itself, the exported models and the repository."""
    root = repo.resolve(repo.settings.bundles)
    name = current(root)
    if name is None:
        yield Finding("warning", "bundle", f"nothing was ever published to {root}", MATERIALIZE)
        return
    try:
        bundle = open_bundle(root / name)
    except RecsysError as error:
        yield Finding("error", "bundle", error.message, MATERIALIZE)
        return
    yield ok("bundle", f"{name}: {len(bundle.snapshot)} items, {len(bundle.manifest.files)} files as they were written")
    yield from _origin(repo, bundle)
    for recommender in sorted(set(repo.settings.recommenders) | set(bundle.recommenders)):
        yield from _recommender(repo, bundle, recommender, models)


def _origin(repo: Repo, bundle: Bundle) -> Iterator[Finding]:
    if bundle.manifest.project != repo.store.project:
        message = f"it was made from project {bundle.manifest.project!r}, this is {repo.store.project!r}"
        yield Finding("error", "bundle", message, f"correct `{SECTION}.bundles`, or {MATERIALIZE}")
    key = entity_key(repo, Side.ITEM)
    if bundle.snapshot.key_dtype is not key.dtype:
        message = (
            f"its item ids are {bundle.snapshot.key_dtype.value}, those of entity {key.entity!r} {key.dtype.value}"
        )
        yield Finding("error", "bundle", message, MATERIALIZE)
    then = bundle.manifest.metadata.get("registry")
    if then is not None and then != registry_hash(repo):
        # A change that shapes nothing, of a description say, publishes nothing by itself.
        remedy = "run `feast-recsys materialize --full`"
        yield Finding("warning", "bundle", "Feast's definitions have changed since it was published", remedy)


def _recommender(repo: Repo, bundle: Bundle, name: str, models: Models) -> Iterator[Finding]:
    subject = f"{SECTION}.recommenders.{name}"
    settings, entry = repo.settings.recommenders.get(name), bundle.manifest.recommenders.get(name)
    if settings is None:
        yield Finding("warning", subject, "the bundle serves it, but the settings don't name it any more", MATERIALIZE)
        return
    if entry is None:
        yield Finding("warning", subject, "the settings name it, but the bundle doesn't serve it", MATERIALIZE)
        return
    places = {Stage.RETRIEVAL: entry.retrieval, Stage.RANKING: entry.ranking}
    for stage, place in places.items():
        model = models.get((name, stage))
        served = _files_below(bundle.manifest.files, place)
        if model is not None and served != dict(model.files):
            message = f"the bundle serves another {stage.value} model than {model.folder}"
            yield Finding("warning", f"{subject}.{stage.value}", message, MATERIALIZE)
        elif model is not None:
            yield ok(f"{subject}.{stage.value}", f"the bundle serves {model.name} as it was exported")
    yield from check_bundled_sources(repo, name, entry)
    yield from check_index(repo, bundle, name)
    if settings.title is not None and settings.title not in bundle.snapshot.references:
        message = f"the bundle has no {settings.title}, so titles can't be shown"
        yield Finding("warning", f"{subject}.title", message, MATERIALIZE)


def _files_below(files: Mapping[str, FileEntry], place: str | None) -> dict[str, FileEntry]:
    if place is None:
        return {}
    return {name.removeprefix(f"{place}/"): entry for name, entry in files.items() if name.startswith(f"{place}/")}


def _output_width(model: ExportedModel, role: Role, graph: Graph) -> int | None:
    """Width of an encoder's output where the graph states it."""
    for node in model.graphs[role.value].session.get_outputs():
        if node.name == graph.output and len(node.shape) == 2 and isinstance(node.shape[1], int):
            return int(node.shape[1])
    return None


def references_of(repo: Repo, models: Models) -> dict[Side, tuple[str, ...]]:
    """Features that are read online, by side, each once: what models take, and lists of seen items."""
    seen = [reference for recommender in repo.settings.recommenders.values() for reference in recommender.seen]
    return {
        side: tuple(
            dict.fromkeys(
                [r for model in models.values() for r in model.signature.references(side)]
                + (seen if side is Side.USER else [])
            )
        )
        for side in (Side.USER, Side.ITEM)
    }
