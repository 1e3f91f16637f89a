"""What may not be served, told when a plan is compiled and never by a request."""

from __future__ import annotations

from typing import Any

from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.feast_api import FeatureViewState, OnDemandFeatureView
from feast_recsys.features.repo import Repo
from feast_recsys.features.views import get_view

_SERVABLE = frozenset({FeatureViewState.STATE_UNSPECIFIED, FeatureViewState.AVAILABLE_ONLINE})


def check_key_format(repo: Repo) -> None:
    """Raises InvalidRepository if the store's keys are of a format that Feast no longer reads."""
    version = repo.store.config.entity_key_serialization_version
    if version < 3:
        raise InvalidRepository(
            f"entity_key_serialization_version is {version}; set it to 3 and materialize again",
            field="entity_key_serialization_version",
        )


def check_servable(repo: Repo, view: Any) -> None:
    """Feast's own gates, which it applies in `get_online_features` only.

    Raises:
        InvalidRepository: the view is disabled, offline only, or never or just being materialized; says what to do.
    """
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


def check_on_demand(repo: Repo, view: OnDemandFeatureView) -> None:
    """Raises InvalidRepository if a source can't be served, or if Feast would mix the sources up."""
    inputs: list[str] = []
    for source in view.source_feature_view_projections.values():
        check_servable(repo, get_view(repo, source.name))
        inputs += [field.name for field in source.features]
    if view.mode == "python" and len(set(inputs)) < len(inputs):
        raise InvalidRepository(
            f"on-demand feature view {view.name!r} has two sources with a feature of the same name, which Feast mixes "
            "up in python mode; rename one of them, or use mode='pandas'",
            field=view.name,
        )
