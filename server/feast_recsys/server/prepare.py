"""From an opened bundle to a serving state: holds models, settings and Feast against one another, compiles read plans.

All of it happens off the request path; what does not fit is told here, by the name of the feature, and never by a call.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import (
    CorruptArtifact,
    InvalidArgument,
    InvalidRepository,
    InvalidSettings,
    InvalidSignature,
)
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.store import Bundle, LoadedRecommender
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import feature_schema
from feast_recsys.features.settings import Recommender
from feast_recsys.features.user_reader import user_reader
from feast_recsys.server.prepare_sources import fallback_history, histories_of, prepare_sources, stages_of
from feast_recsys.server.ranking import BATCH_CANDIDATES, Parts, Ranker
from feast_recsys.server.requests import Cap, Reranking
from feast_recsys.server.reranking import check
from feast_recsys.server.slots import add_request_fields, add_request_slot, check_fit, check_key, shape_of
from feast_recsys.server.stage import Stage
from feast_recsys.server.state import NEEDS, Need, Served, ServingState, Slot
from feast_recsys.server.users import Reading

logger = logging.getLogger(__name__)

RETRIEVAL_SCORE = "request:retrieval_score"
RETRIEVAL_SOURCE = "request:retrieval_source"
_HANDED_OVER = {RETRIEVAL_SCORE: DType.FLOAT32, RETRIEVAL_SOURCE: DType.STRING}


def prepare(repo: Repo, bundle: Bundle, filters: FilterCache | None = None) -> ServingState:
    """Checks a bundle against the repository and compiles what its recommenders read.

    Args:
        repo: The repository.
        bundle: An opened bundle.
        filters: What is kept of filters over this bundle, where it was prepared before.

    Raises:
        InvalidSignature: an input has another type or side than its feature; names the input.
        InvalidRepository: Feast has no such feature, or another one than the settings need; names it.
        InvalidSettings: none of the bundle's recommenders is in the settings, or a `reranking` does not fit the items.
        CorruptArtifact: the bundle is of another project, or its ids are of another type.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
    user_key, item_key = entity_key(repo, Side.USER), entity_key(repo, Side.ITEM)
    if bundle.manifest.project != repo.store.project:
        raise CorruptArtifact(
            f"bundle {bundle.id} is of Feast project {bundle.manifest.project!r}, not {repo.store.project!r}"
        )
    if len(bundle.snapshot) and bundle.snapshot.key_dtype is not item_key.dtype:
        raise CorruptArtifact(
            f"bundle {bundle.id} has {bundle.snapshot.key_dtype.value} item ids, but {item_key.join_key} is "
            f"{item_key.dtype.value} in Feast; materialize again"
        )
    wanted = repo.settings.recommenders
    if not set(wanted) & set(bundle.recommenders):
        raise InvalidSettings(
            f"bundle {bundle.id} has the recommenders {', '.join(bundle.recommenders)}, the settings have "
            f"{', '.join(wanted)}; materialize again",
            field="recommenders",
        )
    for name in sorted(set(wanted) - set(bundle.recommenders)):
        logger.warning("bundle %s has no recommender %r yet; materialize again to serve it", bundle.id, name)
    kept = filters or FilterCache(bundle.snapshot, repo.settings.serving.filter_cache_mib << 20)
    served = {
        name: _Preparation(repo, bundle, user_key, item_key, name, wanted[name], loaded, kept).served()
        for name, loaded in bundle.recommenders.items()
        if name in wanted
    }
    return ServingState(bundle, user_key, served, kept)


@dataclass(frozen=True)
class _Preparation:
    repo: Repo
    bundle: Bundle
    user_key: EntityKey
    item_key: EntityKey
    name: str
    settings: Recommender
    loaded: LoadedRecommender
    filters: FilterCache

    def served(self) -> Served:
        query = Stage.of(self.loaded.query_encoder)
        ranker = None
        if self.settings.ranking is not None and self.loaded.ranker is not None:
            ranker = Stage.of(self.loaded.ranker)
        own, sources = prepare_sources(self.name, self.settings, self.loaded, query, self.filters)
        queries = (query, *(stage for stage in stages_of(sources) if stage is not query))
        stages = (*queries, ranker) if ranker else queries
        user_inputs = tuple(spec for stage in stages for spec in stage.user_inputs)
        services = {spec.feature: stage.graph.graph.feature_service for stage in stages for spec in stage.user_inputs}
        histories = histories_of(self.settings, sources)
        context = self._user_slots(user_inputs, services, histories)
        readings = self._readings(queries, ranker, context, services, histories)
        for reading in filter(None, readings.values()):
            add_request_fields(context, reading)
        fresh = self._fresh(ranker)
        unset = {
            slot.feature: Column.absent(slot.dtype, 1, is_list=slot.is_list, status=FieldStatus.NULL_VALUE)
            for slot in context.values()
            if slot.feature.startswith("request:")
        }
        return Served(
            self.name,
            self.settings,
            self.loaded.index,
            self.loaded.retrieval.bias,
            self.loaded.retrieval.metric,
            Ranker(ranker, self._parts(ranker, fresh), self._batch()) if ranker else None,
            readings=readings,
            context=context,
            candidate=self._item_slots(ranker.item_inputs if ranker else ()),
            unset=unset,
            takes_user_id=any(i.source == "entity" for i in user_inputs),
            entity_keys={
                name: key
                for reading in filter(None, readings.values())
                for name, key in reading.reader.plan.join_keys.items()
                if name != self.user_key.join_key
            },
            fresh=OnlineReader(self.repo, compile_plan(self.repo, fresh, Side.ITEM)) if fresh else None,
            reranking=self._reranking(),
            own=own,
            sources=sources,
            fallback=self.settings.fallback,
            history=fallback_history(self.settings),
        )

    def _reranking(self) -> Reranking:
        section = self.settings.reranking
        rules = Reranking(
            relevance_weight=section.relevance_weight,
            caps=tuple(Cap(cap.key, cap.max_items) for cap in section.caps),
            pinned_item_ids=section.pinned_item_ids,
            blocked_item_ids=section.blocked_item_ids,
        )
        try:
            check(rules, self.bundle.snapshot)
        except InvalidArgument as error:
            raise InvalidSettings(
                f"recommender {self.name!r}: {error.message}", field=f"recommenders.{self.name}.{error.field}"
            ) from error
        return rules

    def _batch(self) -> int:
        serving = self.repo.settings.serving
        return BATCH_CANDIDATES[serving.device] if serving.batch_candidates is None else serving.batch_candidates

    def _fresh(self, ranker: Stage | None) -> tuple[str, ...]:
        """Item features of the ranker that are to be read at each request.

        What is gone from Feast since the bundle was made is not among them; the snapshot still holds it.
        """
        store = self.repo.store
        views = store.registry.list_all_feature_views(store.project, allow_cache=True)
        there = {f"{view.name}:{feature.name}" for view in views for feature in view.features}
        references = dict.fromkeys(i.feature for i in (ranker.item_inputs if ranker else ()) if i.from_store)
        return tuple(r for r in references if r in there and feature_schema(self.repo, r).fresh)

    def _parts(self, ranker: Stage, fresh: Collection[str]) -> Parts | None:
        split, loaded = ranker.graph.graph.split, self.loaded.split
        if split is None or loaded is None:
            return None
        hoisted = tuple(i for i in ranker.item_inputs if i.name in split.hoisted)
        taken = split.item.inputs if split.item is not None else ()
        computed = frozenset(i.feature for i in ranker.item_inputs if i.name in taken)
        stale = ", ".join(sorted(computed.intersection(fresh)))
        if stale:
            logger.warning(
                "the ranker of %r is served whole: it was split before the views of %s became fresh; export it again",
                self.name,
                stale,
            )
            return None
        valid = [self.bundle.snapshot.valid(i.feature) for i in hoisted if i.from_store]
        complete = np.logical_and.reduce(valid) if valid else None
        return Parts(
            split,
            loaded,
            self.loaded.item_columns,
            computed,
            hoisted,
            raw=tuple(i for i in ranker.item_inputs if i.name in split.cross.inputs),
            complete=None if complete is None or complete.all() else complete,
        )

    def _user_slots(
        self, inputs: Sequence[Input], services: Mapping[str, str | None], histories: Sequence[str]
    ) -> dict[str, Slot]:
        slots: dict[str, Slot] = {}
        for spec in inputs:
            if spec.source == "entity":
                check_key(spec, self.user_key)
            elif spec.source == "request":
                add_request_slot(slots, spec)
            elif spec.side is Side.CONTEXT:
                raise InvalidSignature(
                    f"{spec.feature} is of side context, but context is what the caller says: use request:<name>",
                    field=spec.name,
                )
            else:
                slots[spec.feature] = self._stored(spec.feature, services[spec.feature])
                check_fit(slots[spec.feature], spec)
        for reference in (*self.settings.seen, *histories):
            slot = slots[reference] = self._stored(reference)
            if not slot.is_list or slot.dtype is not self.item_key.dtype:
                what = "seen feature" if reference in self.settings.seen else "history"
                raise InvalidRepository(
                    f"recommender {self.name!r}: {what} {reference} must be a list of item ids, "
                    f"{self.item_key.dtype.value}; it is a {shape_of(slot)} of {slot.dtype.value}",
                    field=reference,
                )
        return slots

    def _stored(self, reference: str, service: str | None = None) -> Slot:
        schema = feature_schema(self.repo, reference, service)
        if schema.side is not Side.USER:
            raise InvalidRepository(
                f"{reference} belongs to the {schema.side.value} side, but recommender {self.name!r} reads it for the "
                "user",
                field=reference,
            )
        return Slot(reference, schema.dtype, schema.is_list)

    def _item_slots(self, inputs: Sequence[Input]) -> Mapping[str, Slot]:
        slots: dict[str, Slot] = {}
        snapshot = self.bundle.snapshot
        for spec in inputs:
            if spec.source == "entity":
                check_key(spec, self.item_key)
            elif spec.source == "request":
                add_request_slot(slots, spec)
            elif spec.feature not in snapshot.references:
                raise CorruptArtifact(
                    f"the ranker of {self.name!r} takes {spec.feature}, which the snapshot of bundle {self.bundle.id} "
                    "does not hold; materialize again"
                )
            else:
                slot = Slot(spec.feature, snapshot.dtype(spec.feature), snapshot.is_list(spec.feature))
                slots[spec.feature] = slot
                check_fit(slot, spec)
            if spec.feature in _HANDED_OVER:
                check_fit(Slot(spec.feature, _HANDED_OVER[spec.feature], False), spec)
        return slots

    def _readings(
        self,
        queries: Sequence[Stage],
        ranker: Stage | None,
        slots: Mapping[str, Slot],
        services: Mapping[str, str | None],
        histories: Sequence[str],
    ) -> Mapping[Need, Reading | None]:
        compiled: dict[tuple[tuple[str, ...], tuple[str, ...]], Reading | None] = {}
        readings: dict[Need, Reading | None] = {}
        for need in NEEDS:
            stages = [*(queries if need.query else ()), *([ranker] if need.rank and ranker else ())]
            stored = [i.feature for stage in stages for i in stage.user_inputs if i.from_store]
            inputs = tuple(dict.fromkeys(stored))
            lists = (*(histories if need.query else ()), *(self.settings.seen if need.seen else ()))
            references = tuple(dict.fromkeys([*stored, *lists]))
            if (references, inputs) not in compiled:
                compiled[references, inputs] = self._reading(references, inputs, slots, services)
            readings[need] = compiled[references, inputs]
        return readings

    def _reading(
        self,
        references: tuple[str, ...],
        inputs: tuple[str, ...],
        slots: Mapping[str, Slot],
        services: Mapping[str, str | None],
    ) -> Reading | None:
        if not references:
            return None
        absent = {
            r: Column.absent(slots[r].dtype, 1, is_list=slots[r].is_list, status=FieldStatus.INVALID)
            for r in references
        }
        named = [name for name in dict.fromkeys(services.get(r) for r in references) if name is not None]
        plan = compile_plan(self.repo, references, Side.USER, *named)
        # An on-demand view computes a value for anybody.
        about_user = tuple(
            slot.reference
            for view in plan.views
            if any(column.key.join_key == self.user_key.join_key and column.field for column in view.keys)
            for slot in view.slots
        )
        about_user = about_user or references
        return Reading(OnlineReader(self.repo, plan), user_reader(self.repo, plan), absent, inputs, about_user)
