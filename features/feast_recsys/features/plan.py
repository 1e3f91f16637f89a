"""Read plans: all that can be decided about a read before the first request.

A plan holds projected copies of Feast's views, never the cached originals, which Feast shares between callers. It
is compiled off the request path and never changes; servers compile a new one from time to time.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import FeatureView, OnDemandFeatureView, OnlineStore
from feast_recsys.features.gates import check_key_format, check_on_demand, check_servable
from feast_recsys.features.keys import KeyColumn, key_field
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import side_of
from feast_recsys.features.views import (
    KINDS,
    NamedView,
    ValueKind,
    entities_of,
    find_view,
    get_field,
    kind_of,
    split,
    views_of_service,
)

StalePolicy = Literal["serve", "default", "fail"]


@dataclass(frozen=True)
class Slot:
    """One feature to read.

    Attributes:
        reference: `view:feature`, the key of the result.
        feature: Its name inside the view.
        full_name: Feast's name of it in responses that join several views, by the view's own name.
        kind: How its values are kept.
    """

    reference: str
    feature: str
    full_name: str
    kind: ValueKind


@dataclass(frozen=True)
class RequestField:
    """A value that an on-demand view takes from the request.

    Attributes:
        name: Its name in the request.
        kind: Its type.
        view: The view that needs it; the first if there are several.
    """

    name: str
    kind: ValueKind
    view: str


@dataclass(frozen=True)
class ViewPlan:
    """The features to read from one view.

    Attributes:
        name: Name of the view in references: its own or its alias.
        view: Its own name.
        slots: The features.
        features: Their names.
        table: Projected copy of the view for `OnlineStore.online_read`; None if only Feast's
            `get_online_features` can read it.
        keys: What keys it; nothing for an entityless view.
        ttl: Seconds after which a value is stale; 0 for never.
        stale: What to do with a stale value.
        request_fields: Names of the request fields that it needs.
        alone: Whether Feast must be asked for this view alone and by short names: its on-demand views in python
            mode answer to no others.
    """

    name: str
    view: str
    slots: tuple[Slot, ...]
    features: tuple[str, ...]
    table: FeatureView | None
    keys: tuple[KeyColumn, ...]
    ttl: float
    stale: StalePolicy
    request_fields: tuple[str, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class ReadPlan:
    """How to read features from the online store.

    Attributes:
        side: Whose features; None for a whole feature service.
        key: The key that a plain sequence of ids stands for: that of the side; of a whole service its only one, None
            if it has none or several.
        join_keys: What a row of a read must name, by column.
        references: What a read returns, each once, in the order asked for.
        views: Where it comes from.
        request_fields: What a read must be given besides, by name.
    """

    side: Side | None
    key: EntityKey | None
    join_keys: Mapping[str, EntityKey]
    references: tuple[str, ...]
    views: tuple[ViewPlan, ...]
    request_fields: Mapping[str, RequestField]


def compile_plan(repo: Repo, references: Sequence[str], side: Side, *feature_services: str) -> ReadPlan:
    """Compiles a read plan from a fresh copy of the registry.

    Args:
        repo: The repository.
        references: `view:feature`, all of one side; repetitions count once.
        side: ITEM for views of the item alone; USER for all that do not depend on the item: views of the user, of
            further entities, of several of these, or of none.
        feature_services: Services whose aliases and renamed join keys the references use, the first first. They may
            name further views that none of these holds.

    Raises:
        InvalidRepository: a view or feature does not exist, is of the other side, of a type that is not supported,
            or may not be served now (disabled, offline only, never or just being materialized); says what to do.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
    wanted = tuple(dict.fromkeys(references))
    by_view: dict[str, list[str]] = {}
    for reference in wanted:
        by_view.setdefault(split(reference)[0], []).append(reference)
    named = [(find_view(repo, name, *feature_services), group) for name, group in by_view.items()]
    for view, _ in named:
        _check_side(repo, view, side)
    return _compile(repo, wanted, named, side, entity_key(repo, side))


def compile_service_plan(repo: Repo, feature_service: str) -> ReadPlan:
    """Compiles a read plan for all features of a feature service, in the order in which it declares them.

    References of a view with an alias read `alias:feature`. Its views may be of any entities.

    Raises:
        InvalidRepository: what `views_of_service` and `compile_plan` raise.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
    named = [
        (view, [f"{view.name}:{feature}" for feature in view.features])
        for view in views_of_service(repo, feature_service)
    ]
    return _compile(repo, tuple(reference for _, group in named for reference in group), named, None, None)


def _compile(
    repo: Repo,
    references: tuple[str, ...],
    named: Sequence[tuple[NamedView, Sequence[str]]],
    side: Side | None,
    key: EntityKey | None,
) -> ReadPlan:
    check_key_format(repo)
    online_store = repo.store.provider.online_store
    direct = type(online_store).get_online_features is OnlineStore.get_online_features
    views = tuple(_compile_view(repo, view, group, direct) for view, group in named)
    join_keys: dict[str, EntityKey] = {}
    for view in views:
        for column in view.keys:
            known = join_keys.setdefault(column.key.join_key, column.key)
            if known.dtype is not column.key.dtype:
                raise InvalidRepository(
                    f"{known.join_key!r} is the id of {known.entity!r} and of {column.key.entity!r}, which are of "
                    "different types; rename the join key of one of them (`with_join_key_map`)",
                    field=view.name,
                )
    if key is None and len(join_keys) == 1:
        [key] = join_keys.values()
    request_fields = _request_fields(named)
    if side is Side.ITEM and request_fields:
        [first, *_] = request_fields.values()
        raise InvalidRepository(
            f"on-demand feature view {first.view!r} needs request data ({first.name!r}), which items don't have when "
            "the catalogue is read; declare the input as `request:<name>` in the model's signature instead",
            field=first.view,
        )
    return ReadPlan(side, key, MappingProxyType(join_keys), references, views, MappingProxyType(request_fields))


def _compile_view(repo: Repo, named: NamedView, references: Sequence[str], direct: bool) -> ViewPlan:
    view = named.view
    check_servable(repo, view)
    slots = tuple(_compile_slot(view, reference) for reference in references)
    features = tuple(slot.feature for slot in slots)
    stale = repo.settings.serving.stale.get(view.name, "serve")
    if isinstance(view, OnDemandFeatureView):
        check_on_demand(repo, view)
        keys = tuple(KeyColumn(key.join_key, key, "") for key in named.keys(repo))
        needs = tuple(view.get_request_data_schema())
        alone = view.mode == "python"
        return ViewPlan(named.name, view.name, slots, features, None, keys, 0.0, stale, needs, alone)
    own = {column: name for name, column in named.join_key_map.items()}
    keys = tuple(_compile_key(view, own.get(key.join_key, key.join_key), key) for key in named.keys(repo))
    ttl = view.ttl.total_seconds() if view.ttl else 0.0
    table = _project(view, features) if direct else None
    return ViewPlan(named.name, view.name, slots, features, table, keys, ttl, stale)


def _compile_key(view: Any, name: str, key: EntityKey) -> KeyColumn:
    return KeyColumn(name, key, key_field(view, name, key))


def _compile_slot(view: Any, reference: str) -> Slot:
    _, feature, _ = split(reference)
    return Slot(reference, feature, f"{view.name}__{feature}", kind_of(get_field(view, reference), reference))


def _project(view: Any, features: Sequence[str]) -> FeatureView:
    projection = copy.copy(view.projection)
    projection.features = [field for field in view.features if field.name in features]
    table: FeatureView = view.with_projection(projection)
    # Feast's copy drops the version, which names the table to read where versioning is on.
    table.current_version_number = view.current_version_number
    return table


def _request_fields(named: Sequence[tuple[NamedView, Sequence[str]]]) -> dict[str, RequestField]:
    fields: dict[str, RequestField] = {}
    for view, _ in named:
        if not isinstance(view.view, OnDemandFeatureView):
            continue
        for name, value_type in view.view.get_request_data_schema().items():
            if value_type not in KINDS:
                raise InvalidRepository(
                    f"on-demand feature view {view.name!r} takes {name!r} of type {value_type.name} from the request, "
                    "which is not supported; use a number, a string, a bool, or an array of these",
                    field=view.name,
                )
            known = fields.setdefault(name, RequestField(name, KINDS[value_type], view.name))
            if known.kind != KINDS[value_type]:
                raise InvalidRepository(
                    f"on-demand feature views {known.view!r} and {view.name!r} take {name!r} from the request as "
                    "different types; declare one",
                    field=view.name,
                )
    return fields


def _check_side(repo: Repo, named: NamedView, side: Side) -> None:
    if side_of(repo, named) is not side:
        name = repo.settings.user if side is Side.USER else repo.settings.item
        rule = "do not depend on the item, such as those of" if side is Side.USER else "are of exactly"
        raise InvalidRepository(
            f"feature view {named.name!r} belongs to {list(entities_of(repo, named.view)) or 'no entity'}; features of "
            f"the {side.value} side must come from views that {rule} the entity {name!r}",
            field=named.name,
        )
