"""Read plans: all that can be decided about a read before the first request.

A plan holds projected copies of Feast's views, never the cached originals, which Feast shares between callers. It
is compiled off the request path and never changes; servers compile a new one from time to time.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import (
    FeatureView,
    FeatureViewState,
    OnDemandFeatureView,
    OnlineStore,
    ValueType,
)
from feast_recsys.features.repo import KEY_TYPES, EntityKey, Repo, entity_key
from feast_recsys.features.schema import ValueKind, entities_of, get_field, get_view, kind_of, split

StalePolicy = Literal["serve", "default", "fail"]

_KEY_FIELDS = {ValueType.INT32: "int32_val", ValueType.INT64: "int64_val", ValueType.STRING: "string_val"}
_SERVABLE = frozenset({FeatureViewState.STATE_UNSPECIFIED, FeatureViewState.AVAILABLE_ONLINE})


@dataclass(frozen=True)
class Slot:
    """One feature to read.

    Attributes:
        reference: `view:feature`, the key of the result.
        feature: Its name inside the view.
        full_name: Feast's name of it in responses that join several views.
        kind: How its values are kept.
    """

    reference: str
    feature: str
    full_name: str
    kind: ValueKind


@dataclass(frozen=True)
class ViewPlan:
    """The features to read from one view.

    Attributes:
        name: Name of the view.
        slots: The features.
        features: Their names.
        table: Projected copy of the view for `OnlineStore.online_read`; None if only Feast's
            `get_online_features` can read it.
        key_field: Member of Feast's `Value` message that holds the key.
        ttl: Seconds after which a value is stale; 0 for never.
        stale: What to do with a stale value.
        alone: Whether Feast must be asked for this view alone and by short names: its on-demand views in python
            mode answer to no others.
    """

    name: str
    slots: tuple[Slot, ...]
    features: tuple[str, ...]
    table: FeatureView | None
    key_field: str
    ttl: float
    stale: StalePolicy
    alone: bool = False


@dataclass(frozen=True)
class ReadPlan:
    """How to read features of users, or of items, from the online store.

    Attributes:
        side: Whose features.
        key: Their key.
        references: What a read returns, each once, in the order asked for.
        views: Where it comes from.
    """

    side: Side
    key: EntityKey
    references: tuple[str, ...]
    views: tuple[ViewPlan, ...]


def compile_plan(repo: Repo, references: Sequence[str], side: Side) -> ReadPlan:
    """Compiles a read plan from a fresh copy of the registry.

    Args:
        repo: The repository.
        references: `view:feature`, all of one side; repetitions count once.
        side: USER or ITEM.

    Raises:
        InvalidRepository: a view or feature does not exist, is of another entity, of a type that is not supported,
            or may not be served now (disabled, offline only, never or just being materialized); says what to do.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]
    _check_key_format(repo)
    key = entity_key(repo, side)
    wanted = tuple(dict.fromkeys(references))
    by_view: dict[str, list[str]] = {}
    for reference in wanted:
        by_view.setdefault(split(reference)[0], []).append(reference)
    online_store = repo.store.provider.online_store
    direct = type(online_store).get_online_features is OnlineStore.get_online_features
    views = tuple(_compile_view(repo, name, group, key, side, direct) for name, group in by_view.items())
    return ReadPlan(side, key, wanted, views)


def _compile_view(
    repo: Repo, name: str, references: Sequence[str], key: EntityKey, side: Side, direct: bool
) -> ViewPlan:
    view = get_view(repo, name)
    _check_servable(repo, view)
    _check_entity(repo, view, key, side)
    slots = tuple(_compile_slot(view, reference) for reference in references)
    features = tuple(slot.feature for slot in slots)
    stale = repo.settings.serving.stale.get(name, "serve")
    if isinstance(view, OnDemandFeatureView):
        _check_on_demand(repo, view)
        return ViewPlan(name, slots, features, None, "", 0.0, stale, alone=view.mode == "python")
    ttl = view.ttl.total_seconds() if view.ttl else 0.0
    return ViewPlan(
        name, slots, features, _project(view, features) if direct else None, _key_field(view, key), ttl, stale
    )


def _compile_slot(view: Any, reference: str) -> Slot:
    _, feature, full_name = split(reference)
    return Slot(reference, feature, full_name, kind_of(get_field(view, reference), reference))


def _project(view: Any, features: Sequence[str]) -> FeatureView:
    projection = copy.copy(view.projection)
    projection.features = [field for field in view.features if field.name in features]
    table: FeatureView = view.with_projection(projection)
    # Feast's copy drops the version, which names the table to read where versioning is on.
    table.current_version_number = view.current_version_number
    return table


def _key_field(view: Any, key: EntityKey) -> str:
    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    value_type = types.get(key.join_key)
    if value_type is None or KEY_TYPES.get(value_type) is not key.dtype:
        have = "nothing" if value_type is None else value_type.name
        raise InvalidRepository(
            f"feature view {view.name!r} declares {have} for join key {key.join_key!r}, entity {key.entity!r} has "
            f"{key.dtype.value} ids; declare the same type in both",
            field=view.name,
        )
    return _KEY_FIELDS[value_type]


def _check_key_format(repo: Repo) -> None:
    version = repo.store.config.entity_key_serialization_version
    if version < 3:
        raise InvalidRepository(
            f"entity_key_serialization_version is {version}; set it to 3 and materialize again",
            field="entity_key_serialization_version",
        )


def _check_servable(repo: Repo, view: Any) -> None:
    """Feast's own gates, which it applies in `get_online_features` only."""
    if not getattr(view, "enabled", True):
        raise InvalidRepository(
            f"feature view {view.name!r} is disabled; run `feast feature-views enable {view.name}`", field=view.name
        )
    if not isinstance(view, OnDemandFeatureView) and not view.online:
        raise InvalidRepository(
            f"feature view {view.name!r} is declared online=False; set online=True, apply and materialize",
            field=view.name,
        )
    state = getattr(view, "state", FeatureViewState.STATE_UNSPECIFIED)
    allowed = _SERVABLE
    if getattr(repo.store.registry, "serve_features_while_materializing", False):
        allowed |= {FeatureViewState.MATERIALIZING}
    if state in allowed:
        return
    remedy = "materialize it"
    if state is FeatureViewState.MATERIALIZING:
        remedy = (
            "wait until its materialization ends (materialize again if it was killed), or set "
            "`serve_features_while_materializing: true` under `registry:`"
        )
    raise InvalidRepository(
        f"feature view {view.name!r} is in state {state.name} and can't be served; {remedy}", field=view.name
    )


def _check_entity(repo: Repo, view: Any, key: EntityKey, side: Side) -> None:
    entities = entities_of(repo, view)
    if entities != (key.entity,):
        raise InvalidRepository(
            f"feature view {view.name!r} belongs to {list(entities) or 'no entity'}; features of the {side.value} side "
            f"must come from views of exactly the entity {key.entity!r}",
            field=view.name,
        )


def _check_on_demand(repo: Repo, view: OnDemandFeatureView) -> None:
    for request in view.source_request_sources.values():
        raise InvalidRepository(
            f"on-demand feature view {view.name!r} needs request data ({request.name!r}); that is not supported, "
            f"declare the input as `request:<name>` in the model's signature instead",
            field=view.name,
        )
    inputs: list[str] = []
    for source in view.source_feature_view_projections.values():
        _check_servable(repo, get_view(repo, source.name))
        inputs += [field.name for field in source.features]
    if view.mode == "python" and len(set(inputs)) < len(inputs):
        raise InvalidRepository(
            f"on-demand feature view {view.name!r} has two sources with a feature of the same name, which Feast mixes "
            "up in python mode; rename one of them, or use mode='pandas'",
            field=view.name,
        )
