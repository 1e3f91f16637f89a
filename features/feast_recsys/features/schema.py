"""What Feast's registry says about features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import (
    DUMMY_ENTITY_NAME,
    FeastObjectNotFoundException,
    Field,
    OnDemandFeatureView,
    ValueType,
)
from feast_recsys.features.repo import Repo


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
class FeatureSchema:
    """One feature of a view.

    Attributes:
        reference: `view:feature`.
        dtype: Element type: integers and timestamps (unix seconds) are int64, floats and doubles float32.
        is_list: Whether a value is a list.
        side: Whose feature it is.
        tags: The feature's tags in Feast.
    """

    reference: str
    dtype: DType
    is_list: bool
    side: Side
    tags: Mapping[str, str]


def feature_schema(repo: Repo, reference: str) -> FeatureSchema:
    """Looks one feature up.

    Args:
        repo: The repository; its registry may come from Feast's cache.
        reference: `view:feature`.

    Raises:
        InvalidRepository: there is no such view or feature (says what there is), its type is not supported, or
            its view belongs neither to users nor to items.
    """
    view_name, _, _ = split(reference)
    view = get_view(repo, view_name)
    field = get_field(view, reference)
    kind = kind_of(field, reference)
    return FeatureSchema(reference, kind.dtype, kind.is_list, _side(repo, view), MappingProxyType(dict(field.tags)))


def service_schemas(repo: Repo, feature_service: str) -> tuple[FeatureSchema, ...]:
    """The features of a feature service, in the order in which it declares views and features.

    Raises:
        InvalidRepository: there is no such service (says which there are), it is precomputed, or it renames
            views or join keys; and all that `feature_schema` raises.
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
    references: list[str] = []
    for projection in service.feature_view_projections:
        if projection.name_alias or projection.join_key_map or projection.version_tag is not None:
            raise InvalidRepository(
                f"feature service {feature_service!r} renames view {projection.name!r}, its join keys or pins its "
                "version; that is not supported, name the view itself",
                field=feature_service,
            )
        references += [f"{projection.name}:{field.name}" for field in projection.features]
    return tuple(feature_schema(repo, reference) for reference in references)


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
    names = dict.fromkeys(name for v in views for name in v.entities if name != DUMMY_ENTITY_NAME)
    return tuple(names)


def _side(repo: Repo, view: Any) -> Side:
    entities = entities_of(repo, view)
    sides = {(repo.settings.user,): Side.USER, (repo.settings.item,): Side.ITEM}
    if entities not in sides:
        raise InvalidRepository(
            f"feature view {view.name!r} belongs to {list(entities) or 'no entity'}; only views of exactly one of the "
            f"entities {repo.settings.user!r} (user) and {repo.settings.item!r} (item) are supported",
            field=view.name,
        )
    return sides[entities]
