"""Checks of Feast's configuration and registry, and of the settings that name things in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import partial
from typing import Any

import pyarrow.dataset as ds

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository, OnlineStoreUnavailable
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import FeatureView
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.schema import entities_of, feature_schema, get_view, service_schemas
from feast_recsys.features.settings import SECTION
from feast_recsys.jobs.findings import Finding, ok, run_checks
from feast_recsys.jobs.write_vectors import vector_views

LARGE_FILE = 200_000_000
_LONG = timedelta(days=3650)
_APPLY = "correct the name, or run `feast apply`"


def check_configuration(repo: Repo) -> Iterator[Finding]:
    """`feature_store.yaml` outside our section."""
    config = repo.store.config
    version = config.entity_key_serialization_version
    if version < 3:
        message = f"entity_key_serialization_version is {version}; keys written by it can't be read"
        yield Finding("error", "feature_store.yaml", message, "set it to 3, apply and materialize everything again")
    online = str(getattr(config.online_store, "type", "none"))
    if "faiss" in online or getattr(config.online_store, "vector_enabled", False):
        message = f"online store {online!r} searches vectors itself, which this project neither needs nor tests"
        yield Finding("warning", "online_store", message, "use a plain store; Retrieve has an index of its own")
    elif online == "sqlite":
        yield ok("online_store", "sqlite: fine on one machine; choose a server such as Redis for more")
    else:
        yield ok("online_store", online)
    registry = config.registry
    if not getattr(registry, "serve_features_while_materializing", False):
        message = "while Feast materializes a view, a server that starts can't read it"
        yield Finding(
            "warning", "registry", message, "set `serve_features_while_materializing: true` under `registry:`"
        )
    if getattr(registry, "cache_ttl_seconds", 0):
        message = f"cache_ttl_seconds is {registry.cache_ttl_seconds}: Feast reloads the registry during a request"
        yield Finding("warning", "registry", message, "set it to 0; the server refreshes by itself")
    if str(getattr(registry, "registry_type", "")) == "remote":
        message = "a remote registry is asked for every object anew, which makes refreshing slow"
        yield Finding("warning", "registry", message, "use a sql or file registry for servers")


def check_registry(repo: Repo) -> Iterator[Finding]:
    """Whether the registry can be read and holds anything."""
    try:
        repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
        views = repo.store.registry.list_all_feature_views(repo.store.project, allow_cache=True)
    except Exception as error:  # registries raise whatever their drivers raise
        message = f"the registry can't be read: {type(error).__name__}: {error}"
        yield Finding("error", "registry", message, "run `feast apply`")
        return
    if not views:
        yield Finding("error", "registry", f"project {repo.store.project!r} has no feature views", "run `feast apply`")
    else:
        yield ok("registry", f"project {repo.store.project!r} with {len(views)} feature views")


def check_entity(repo: Repo, side: Side) -> Iterator[Finding]:
    """The entity of users, or of items."""
    key = entity_key(repo, side)
    yield ok(f"{SECTION}.{side.value}", f"entity {key.entity!r}, join key {key.join_key!r}, {key.dtype.value} ids")


def check_catalogue(repo: Repo) -> Iterator[Finding]:
    """The view whose keys are the items."""
    view, entity = get_view(repo, repo.settings.catalogue), entity_key(repo, Side.ITEM).entity
    if not isinstance(view, FeatureView) or entities_of(repo, view) != (entity,):
        message = f"{view.name!r} is not a feature view of exactly the entity {entity!r}"
        yield Finding("error", f"{SECTION}.catalogue", message, "name the view whose keys are the items")
    elif view.batch_source is None:
        message = f"catalogue view {view.name!r} has no batch source, so its items can't be listed"
        yield Finding("error", f"{SECTION}.catalogue", message, "give it a batch source")
    else:
        yield ok(f"{SECTION}.catalogue", f"items are the keys of {view.name!r}")


def check_seen(repo: Repo, recommender: str) -> Iterator[Finding]:
    """The lists that `exclude_seen` leaves out."""
    subject = f"{SECTION}.recommenders.{recommender}.seen"
    for reference in repo.settings.recommenders[recommender].seen:
        try:
            schema, key = feature_schema(repo, reference), entity_key(repo, Side.ITEM)
        except InvalidRepository as error:
            yield Finding("error", subject, error.message, _APPLY)
            continue
        if schema.side is not Side.USER or not schema.is_list or schema.dtype is not key.dtype:
            have = f"a {schema.dtype.value} {'list' if schema.is_list else 'value'} of the {schema.side.value}"
            want = f"a {key.dtype.value} list of the user, of item ids"
            yield Finding("error", subject, f"{reference} is {have}, not {want}", "name a feature that holds item ids")
        else:
            yield ok(subject, f"{reference} holds item ids")


def check_title(repo: Repo, recommender: str) -> Iterator[Finding]:
    """The feature that clients print."""
    reference = repo.settings.recommenders[recommender].title
    if reference is None:
        return
    subject = f"{SECTION}.recommenders.{recommender}.title"
    schema = feature_schema(repo, reference)
    if schema.side is not Side.ITEM or schema.is_list or schema.dtype is not DType.STRING:
        have = f"a {schema.dtype.value} {'list' if schema.is_list else 'value'} of the {schema.side.value}"
        yield Finding("error", subject, f"{reference} is {have}, not a string of the item", "name such a feature")
    else:
        yield ok(subject, reference)


def check_caps(repo: Repo, recommender: str) -> Iterator[Finding]:
    """The features whose values `reranking` limits."""
    for n, cap in enumerate(repo.settings.recommenders[recommender].reranking.caps):
        subject = f"{SECTION}.recommenders.{recommender}.reranking.caps[{n}].key"
        try:
            schema = feature_schema(repo, cap.key)
        except InvalidRepository as error:
            yield Finding("error", subject, error.message, _APPLY)
            continue
        if schema.side is not Side.ITEM or schema.dtype is DType.FLOAT32:
            have = f"a {schema.dtype.value} {'list' if schema.is_list else 'value'} of the {schema.side.value}"
            message = f"{cap.key} is {have}; caps count equal values, of the item"
            yield Finding("error", subject, message, "name a feature of the item with texts, whole numbers or truths")
        else:
            yield ok(subject, f"at most {cap.max_items} with the same {cap.key}")


def check_training(repo: Repo, recommender: str) -> Iterator[Finding]:
    """What only `train` uses."""
    settings = repo.settings.recommenders[recommender]
    ranking = settings.ranking
    subject = f"{SECTION}.recommenders.{recommender}"
    services = {
        "retrieval.query": settings.retrieval.query,
        "retrieval.item": settings.retrieval.item,
        "ranking.features": ranking.features if ranking else None,
    }
    for name, service in services.items():
        if service is not None:
            try:
                yield ok(
                    f"{subject}.{name}", f"feature service {service!r}: {len(service_schemas(repo, service))} features"
                )
            except InvalidRepository as error:
                yield Finding("error", f"{subject}.{name}", error.message, _APPLY)
    references = [("retrieval.history", settings.retrieval.history)]
    references += [
        ("ranking.crosses", reference) for pair in (ranking.crosses if ranking else ()) for reference in pair
    ]
    for name, reference in references:
        if reference is not None and not reference.startswith(("entity:", "request:")):
            try:
                feature_schema(repo, reference)
            except InvalidRepository as error:
                yield Finding("error", f"{subject}.{name}", error.message, _APPLY)


def check_vectors(repo: Repo) -> Iterator[Finding]:
    """The views that take item vectors."""
    for target in vector_views(repo):
        for recommender, reference in target.references.items():
            subject = f"{SECTION}.recommenders.{recommender}.retrieval.vectors"
            schema = feature_schema(repo, reference)
            if schema.side is not Side.ITEM or not schema.is_list or schema.dtype is not DType.FLOAT32:
                message = (
                    f"{reference} is {schema.dtype.value} of the {schema.side.value}, not Array(Float32) of the item"
                )
                yield Finding("error", subject, message, "declare it as Array(Float32) in a view of the item entity")
            else:
                yield ok(subject, reference)
        if target.path is not None and target.path.is_file():
            size = target.path.stat().st_size
            if size > LARGE_FILE:
                message = f"{target.path.name} has {size / 1e6:.0f} MB, and each materialization rewrites it with more"
                remedy = "make its source a folder, of which old files are removed"
                yield Finding("warning", str(target.view.name), message, remedy)


def check_interactions(repo: Repo) -> Iterator[Finding]:
    """The file that training labels come from; only its columns are read."""
    settings, subject = repo.settings.interactions, f"{SECTION}.interactions"
    if settings is None:
        return
    path = repo.resolve(settings.path)
    try:
        names = set(ds.dataset(path, format="parquet").schema.names)
    except (OSError, ValueError) as error:
        yield Finding(
            "error", f"{subject}.path", f"{path} can't be read: {error}", "write the file, or correct the path"
        )
        return
    wanted = [entity_key(repo, Side.USER).join_key, entity_key(repo, Side.ITEM).join_key, settings.timestamp]
    lacking = [name for name in (*wanted, *([settings.label] if settings.label else [])) if name not in names]
    if lacking:
        message = f"{path} lacks {', '.join(lacking)}; it has {', '.join(sorted(names))}"
        yield Finding("error", subject, message, "add the columns, or name others in the settings")
    else:
        yield ok(subject, str(path))


def check_stale(repo: Repo) -> Iterator[Finding]:
    """Policies for old values: of views that exist, and stated where a ttl would matter."""
    policies = repo.settings.serving.stale
    for name in policies:
        try:
            get_view(repo, name)
        except InvalidRepository as error:
            yield Finding("error", f"{SECTION}.serving.stale.{name}", error.message, "correct the name")
    for view in repo.store.registry.list_feature_views(repo.store.project, allow_cache=True):
        if view.ttl and timedelta(0) < view.ttl < _LONG and view.name not in policies:
            message = f"feature view {view.name!r} has a ttl of {view.ttl}, which Feast doesn't enforce online"
            remedy = f"say `serve`, `default` or `fail` under `{SECTION}.serving.stale.{view.name}`"
            yield Finding("warning", str(view.name), message, remedy)


def check_online(repo: Repo, references: Mapping[Side, tuple[str, ...]]) -> Iterator[Finding]:
    """Whether each view that is read at serving time can be read now."""
    answers = True
    for side, names in references.items():
        for view in sorted({name.partition(":")[0] for name in names}):
            group = [name for name in names if name.startswith(f"{view}:")]
            for finding in run_checks([(view, partial(_check_view, repo, side, view, group, answers))]):
                # A store that is down makes each read wait; one is enough.
                answers = answers and finding.subject != "online_store"
                yield finding


def _check_view(repo: Repo, side: Side, name: str, references: list[str], read: bool) -> Iterator[Finding]:
    nobody = 0 if entity_key(repo, side).dtype is DType.INT64 else "0"
    known = [reference for reference in references if _exists(repo, reference)]
    if not known:
        return  # said where the references come from
    try:
        reader = OnlineReader(repo, compile_plan(repo, known, side))
        if read:
            reader.read([nobody])  # an id that need not exist
            yield ok(name, f"{len(known)} features can be read online")
    except OnlineStoreUnavailable as error:
        remedy = "start the online store; if it runs, `feast-recsys materialize`"
        yield Finding("error", "online_store", error.message, remedy)
    except InvalidRepository as error:
        yield _not_servable(repo, name, error)


def _exists(repo: Repo, reference: str) -> bool:
    try:
        feature_schema(repo, reference)
    except InvalidRepository:
        return False
    return True


def _not_servable(repo: Repo, name: str, error: InvalidRepository) -> Finding:
    view: Any = get_view(repo, name)
    if getattr(view, "enabled", True) and getattr(view, "online", True):
        return Finding("warning", name, error.message, "run `feast-recsys materialize`")
    return Finding("error", name, error.message)
