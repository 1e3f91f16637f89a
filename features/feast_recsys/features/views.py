"""Feature views as the registry holds them, under the names that references give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.feast_api import (
    DUMMY_ENTITY_NAME,
    FeastObjectNotFoundException,
    Field,
    OnDemandFeatureView,
    ValueType,
)
from feast_recsys.features.repo import EntityKey, Repo, key_of


@dataclass(frozen=True)
class ValueKind:
    """How Feast keeps the values of one type.

    Attributes:
        dtype: Element type on our side.
        is_list: Whether a value is a list.
        field: The member of Feast's `Value` message that is set.
    """

    dtype: DType
    is_list: bool
    field: str


KINDS: Mapping[ValueType, ValueKind] = MappingProxyType(
    {
        ValueType.INT32: ValueKind(DType.INT64, False, "int32_val"),
        ValueType.INT64: ValueKind(DType.INT64, False, "int64_val"),
        ValueType.FLOAT: ValueKind(DType.FLOAT32, False, "float_val"),
        ValueType.DOUBLE: ValueKind(DType.FLOAT32, False, "double_val"),
        ValueType.BOOL: ValueKind(DType.BOOL, False, "bool_val"),
        ValueType.STRING: ValueKind(DType.STRING, False, "string_val"),
        ValueType.UNIX_TIMESTAMP: ValueKind(DType.INT64, False, "unix_timestamp_val"),
        ValueType.INT32_LIST: ValueKind(DType.INT64, True, "int32_list_val"),
        ValueType.INT64_LIST: ValueKind(DType.INT64, True, "int64_list_val"),
        ValueType.FLOAT_LIST: ValueKind(DType.FLOAT32, True, "float_list_val"),
        ValueType.DOUBLE_LIST: ValueKind(DType.FLOAT32, True, "double_list_val"),
        ValueType.BOOL_LIST: ValueKind(DType.BOOL, True, "bool_list_val"),
        ValueType.STRING_LIST: ValueKind(DType.STRING, True, "string_list_val"),
        ValueType.UNIX_TIMESTAMP_LIST: ValueKind(DType.INT64, True, "unix_timestamp_list_val"),
    }
)


@dataclass(frozen=True)
class NamedView:
    """A feature view under the name by which references name it.

    Attributes:
        name: The view's own name, or its alias in a feature service.
        view: As Feast caches it: shared, never to be changed.
        features: The features that a service selects of it; all of them otherwise.
        join_key_map: Column of a request by join key of the view, where a service says another name.
    """

    name: str
    view: Any
    features: tuple[str, ...]
    join_key_map: Mapping[str, str]

    def keys(self, repo: Repo) -> tuple[EntityKey, ...]:
        """What keys the view, by the columns of a request; of all sources for an on-demand view, each once.

        Raises:
            InvalidRepository: an entity does not exist, or its ids are neither integers nor strings.
        """
        parts = [(self.view, self.join_key_map)]
        if isinstance(self.view, OnDemandFeatureView):
            projections = self.view.source_feature_view_projections.values()
            parts = [(get_view(repo, source.name), source.join_key_map) for source in projections]
        keys: dict[str, EntityKey] = {}
        for view, renamed in parts:
            for entity in _entities(view):
                key = key_of(repo, entity, f"feature view {view.name!r}")
                column = renamed.get(key.join_key, key.join_key)
                keys.setdefault(column, replace(key, join_key=column))
        return tuple(keys.values())


def find_view(repo: Repo, name: str, *feature_services: str) -> NamedView:
    """The view that a reference names.

    Args:
        repo: The repository; its registry may come from Feast's cache.
        name: The part of the reference before the colon.
        feature_services: Services whose aliases and renamed join keys come first, in this order.

    Raises:
        InvalidRepository: there is no view of that name; says which there are.
    """
    for feature_service in feature_services:
        for named in views_of_service(repo, feature_service):
            if named.name == name:
                return named
    view = get_view(repo, name)
    return NamedView(name, view, tuple(field.name for field in view.features), MappingProxyType({}))


def views_of_service(repo: Repo, feature_service: str) -> tuple[NamedView, ...]:
    """The views of a feature service, in the order in which it declares them.

    Raises:
        InvalidRepository: there is no such service (says which there are), it is precomputed, pins the version of
            a view, or names one twice with different join keys.
    """
    store = repo.store
    try:
        service = store.registry.get_feature_service(feature_service, store.project, allow_cache=True)
    except FeastObjectNotFoundException:
        services = store.registry.list_feature_services(store.project, allow_cache=True)
        known = ", ".join(sorted(s.name for s in services))
        raise InvalidRepository(
            f"the Feast repository has no feature service {feature_service!r}; it has: {known or 'none'}",
            field=feature_service,
        ) from None
    if getattr(service, "precompute_online", False):
        raise InvalidRepository(
            f"feature service {feature_service!r} has precompute_online=True, which fails whole requests when one "
            "entity is missing; set it to False and apply",
            field=feature_service,
        )
    views: dict[str, NamedView] = {}
    for projection in service.feature_view_projections:
        if projection.version_tag is not None:
            raise InvalidRepository(
                f"feature service {feature_service!r} pins the version of view {projection.name!r}; that is not "
                "supported, name the view without one",
                field=feature_service,
            )
        name = projection.name_alias or projection.name
        features = tuple(field.name for field in projection.features)
        renamed = MappingProxyType(dict(projection.join_key_map))
        before = views.get(name)
        if before is not None:
            if before.view.name != projection.name or before.join_key_map != renamed:
                raise InvalidRepository(
                    f"feature service {feature_service!r} has two views under the name {name!r}; give each an alias "
                    "of its own (`with_name`)",
                    field=feature_service,
                )
            features = tuple(dict.fromkeys(before.features + features))
        views[name] = NamedView(name, get_view(repo, projection.name), features, renamed)
    return tuple(views.values())


def split(reference: str) -> tuple[str, str, str]:
    """View, feature and Feast's full name of a reference.

    Raises:
        InvalidRepository: it does not read view:feature, or pins a version.
    """
    view, separator, feature = reference.partition(":")
    if not (view and separator and feature):
        raise InvalidRepository(f"feature reference {reference!r} must read view:feature", field=reference)
    if "@" in view:
        raise InvalidRepository(
            f"{reference!r} pins a version of its view; that is not supported, name the view without @", field=reference
        )
    return view, feature, f"{view}__{feature}"


def get_view(repo: Repo, name: str) -> Any:
    """A feature view of any kind, as Feast caches it: shared, never to be changed.

    Raises:
        InvalidRepository: there is none of that name; says which there are.
    """
    store = repo.store
    try:
        return store.registry.get_any_feature_view(name, store.project, allow_cache=True)
    except FeastObjectNotFoundException:
        known = ", ".join(sorted(v.name for v in store.registry.list_all_feature_views(store.project, True)))
        raise InvalidRepository(
            f"the Feast repository has no feature view {name!r}; it has: {known or 'none, run `feast apply`'}",
            field=name,
        ) from None


def get_field(view: Any, reference: str) -> Field:
    """The declaration of a referenced feature in its view.

    Raises:
        InvalidRepository: the view has no such feature; says which it has.
    """
    _, feature, _ = split(reference)
    fields: dict[str, Field] = {field.name: field for field in view.features}
    if feature not in fields:
        raise InvalidRepository(
            f"feature view {view.name!r} has no feature {feature!r}; it has: {', '.join(sorted(fields))}",
            field=reference,
        )
    return fields[feature]


def kind_of(field: Field, reference: str) -> ValueKind:
    """How the values of a feature are kept.

    Raises:
        InvalidRepository: values of that type are not supported.
    """
    value_type = field.dtype.to_value_type()
    if value_type not in KINDS:
        raise InvalidRepository(
            f"{reference} is of type {value_type.name}, which models can't take; supported are Int32, Int64, Float32, "
            "Float64, Bool, String, UnixTimestamp and arrays of these",
            field=reference,
        )
    return KINDS[value_type]


def entities_of(repo: Repo, view: Any) -> tuple[str, ...]:
    """Names of the entities that a view is keyed by; those of all sources for an on-demand view."""
    views = [view]
    if isinstance(view, OnDemandFeatureView):
        views = [get_view(repo, source.name) for source in view.source_feature_view_projections.values()]
    return tuple(dict.fromkeys(name for v in views for name in _entities(v)))


def _entities(view: Any) -> list[str]:
    """Feast keys an entityless view by a dummy, which it sometimes takes off the view that it shares with us."""
    return [name for name in view.entities if name != DUMMY_ENTITY_NAME]
