"""What Feast's registry says about features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Side
from feast_recsys.features.repo import Repo, entity_key
from feast_recsys.features.views import (
    KINDS,
    NamedView,
    ValueKind,
    entities_of,
    find_view,
    get_field,
    get_view,
    kind_of,
    split,
    views_of_service,
)

__all__ = [
    "FRESHNESS",
    "KINDS",
    "FeatureSchema",
    "ValueKind",
    "entities_of",
    "feature_schema",
    "get_field",
    "get_view",
    "kind_of",
    "service_schemas",
    "side_of",
    "split",
]

FRESHNESS = "recsys/freshness"
"""Tag of a feature view: `online` reads its features for each request, `snapshot` (the default) from the bundle."""


@dataclass(frozen=True)
class FeatureSchema:
    """One feature of a view.

    Attributes:
        reference: `view:feature`, with the view's alias if a feature service gives it one.
        dtype: Element type: integers and timestamps (unix seconds) are int64, floats and doubles float32.
        is_list: Whether a value is a list.
        side: Whose feature it is: ITEM if its view is keyed by the item alone, else USER.
        tags: The feature's tags in Feast.
        join_keys: Columns of a request that key its view, in the view's order; none for an entityless view.
        fresh: Whether its view asks to be read online for each request (tag `recsys/freshness: online`) instead of
            from the snapshot.
    """

    reference: str
    dtype: DType
    is_list: bool
    side: Side
    tags: Mapping[str, str]
    join_keys: tuple[str, ...]
    fresh: bool = False


def feature_schema(repo: Repo, reference: str, feature_service: str | None = None) -> FeatureSchema:
    """Looks one feature up.

    Args:
        repo: The repository; its registry may come from Feast's cache.
        reference: `view:feature`.
        feature_service: The service whose aliases and renamed join keys count.

    Raises:
        InvalidRepository: there is no such view or feature (says what there is), its type is not supported, its
            view is keyed by the item together with other entities, or the view's freshness tag is neither `online`
            nor `snapshot`; and what `views_of_service` raises.
    """
    services = () if feature_service is None else (feature_service,)
    named = find_view(repo, split(reference)[0], *services)
    return _schema(repo, named, reference)


def service_schemas(repo: Repo, feature_service: str) -> tuple[FeatureSchema, ...]:
    """The features of a feature service, in the order in which it declares views and features.

    Raises:
        InvalidRepository: what `views_of_service` and `feature_schema` raise.
    """
    return tuple(
        _schema(repo, named, f"{named.name}:{feature}")
        for named in views_of_service(repo, feature_service)
        for feature in named.features
    )


def _schema(repo: Repo, named: NamedView, reference: str) -> FeatureSchema:
    field = get_field(named.view, reference)
    kind = kind_of(field, reference)
    keys = named.keys(repo)
    return FeatureSchema(
        reference,
        kind.dtype,
        kind.is_list,
        side_of(repo, named),
        MappingProxyType(dict(field.tags)),
        tuple(key.join_key for key in keys),
        _fresh(named.view),
    )


def side_of(repo: Repo, named: NamedView) -> Side:
    """ITEM for a view keyed by the candidate alone, USER for one that does not depend on the candidate.

    Raises:
        InvalidRepository: the view is keyed by the candidate and something else, a value for each pair.
    """
    item = entity_key(repo, Side.ITEM).join_key
    columns = [key.join_key for key in named.keys(repo)]
    if columns == [item]:
        return Side.ITEM
    if item not in columns:
        return Side.USER
    raise InvalidRepository(
        f"feature view {named.name!r} belongs to {list(entities_of(repo, named.view))}: a value for each item and "
        f"{', '.join(c for c in columns if c != item)}; such views are not supported, use one of the item alone and "
        "one without it",
        field=named.name,
    )


def _fresh(view: Any) -> bool:
    value = view.tags.get(FRESHNESS, "snapshot")
    if value not in ("online", "snapshot"):
        raise InvalidRepository(
            f"feature view {view.name!r} has the tag {FRESHNESS}: {value!r}; it must be `online` or `snapshot`",
            field=view.name,
        )
    return bool(value == "online")
