"""From an opened bundle to a serving state: holds models, settings and Feast against one another, compiles read plans.

All of it happens off the request path; what does not fit is told here, by the name of the feature, and never by a call.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.errors import CorruptArtifact, InvalidRepository, InvalidSettings, InvalidSignature
from feast_recsys.bundle.runtime import LoadedGraph
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.store import Bundle, LoadedRecommender
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import feature_schema
from feast_recsys.features.settings import Recommender
from feast_recsys.server.reads import Source
from feast_recsys.server.state import NEEDS, Need, Served, ServingState, Slot, Stage

logger = logging.getLogger(__name__)

RETRIEVAL_SCORE = "request:retrieval_score"


def prepare(repo: Repo, bundle: Bundle) -> ServingState:
    """Checks a bundle against the repository and compiles what its recommenders read.

    Raises:
        InvalidSignature: an input has another type or side than its feature; names the input.
        InvalidRepository: Feast has no such feature, or another one than the settings need; names it.
        InvalidSettings: none of the bundle's recommenders is in the settings.
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
    served = {
        name: _Preparation(repo, bundle, user_key, item_key, name, wanted[name], loaded).served()
        for name, loaded in bundle.recommenders.items()
        if name in wanted
    }
    return ServingState(bundle, user_key, served)


@dataclass(frozen=True)
class _Preparation:
    repo: Repo
    bundle: Bundle
    user_key: EntityKey
    item_key: EntityKey
    name: str
    settings: Recommender
    loaded: LoadedRecommender

    def served(self) -> Served:
        query = _stage(self.loaded.query_encoder)
        ranker = None
        if self.settings.ranking is not None and self.loaded.ranker is not None:
            ranker = _stage(self.loaded.ranker)
        user_inputs = (*query.user_inputs, *(ranker.user_inputs if ranker else ()))
        context = self._user_slots(user_inputs)
        unset = {
            slot.feature: Column.absent(slot.dtype, 1, is_list=slot.is_list, status=FieldStatus.NULL_VALUE)
            for slot in context.values()
            if slot.feature.startswith("request:")
        }
        return Served(
            self.name,
            self.settings,
            query,
            self.loaded.index,
            ranker,
            sources=self._sources(query, ranker, context),
            context=context,
            candidate=self._item_slots(ranker.item_inputs if ranker else ()),
            unset=unset,
            takes_user_id=any(i.source == "entity" for i in user_inputs),
        )

    def _user_slots(self, inputs: Sequence[Input]) -> Mapping[str, Slot]:
        slots: dict[str, Slot] = {}
        for spec in inputs:
            if spec.source == "entity":
                _check_key(spec, self.user_key)
            elif spec.source == "request":
                _add_request_slot(slots, spec)
            elif spec.side is Side.CONTEXT:
                raise InvalidSignature(
                    f"{spec.feature} is of side context, but context is what the caller says: use request:<name>",
                    field=spec.name,
                )
            else:
                slots[spec.feature] = self._stored(spec.feature)
                _check_fit(slots[spec.feature], spec)
        for reference in self.settings.seen:
            slot = slots[reference] = self._stored(reference)
            if not slot.is_list or slot.dtype is not self.item_key.dtype:
                raise InvalidRepository(
                    f"recommender {self.name!r}: seen feature {reference} must be a list of item ids, "
                    f"{self.item_key.dtype.value}; it is a {_shape(slot)} of {slot.dtype.value}",
                    field=reference,
                )
        return slots

    def _stored(self, reference: str) -> Slot:
        schema = feature_schema(self.repo, reference)
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
                _check_key(spec, self.item_key)
            elif spec.source == "request":
                _add_request_slot(slots, spec)
            elif spec.feature not in snapshot.references:
                raise CorruptArtifact(
                    f"the ranker of {self.name!r} takes {spec.feature}, which the snapshot of bundle {self.bundle.id} "
                    "does not hold; materialize again"
                )
            else:
                slot = Slot(spec.feature, snapshot.dtype(spec.feature), snapshot.is_list(spec.feature))
                slots[spec.feature] = slot
                _check_fit(slot, spec)
            if spec.feature == RETRIEVAL_SCORE:
                _check_fit(Slot(RETRIEVAL_SCORE, DType.FLOAT32, False), spec)
        return slots

    def _sources(self, query: Stage, ranker: Stage | None, slots: Mapping[str, Slot]) -> Mapping[Need, Source | None]:
        compiled: dict[tuple[tuple[str, ...], tuple[str, ...]], Source | None] = {}
        sources: dict[Need, Source | None] = {}
        for need in NEEDS:
            stages = [stage for stage, wanted in ((query, need.query), (ranker, need.rank)) if wanted and stage]
            stored = [i.feature for stage in stages for i in stage.user_inputs if i.from_store]
            inputs = tuple(dict.fromkeys(stored))
            references = tuple(dict.fromkeys([*stored, *(self.settings.seen if need.seen else ())]))
            if (references, inputs) not in compiled:
                compiled[references, inputs] = self._source(references, inputs, slots)
            sources[need] = compiled[references, inputs]
        return sources

    def _source(self, references: tuple[str, ...], inputs: tuple[str, ...], slots: Mapping[str, Slot]) -> Source | None:
        if not references:
            return None
        absent = {
            r: Column.absent(slots[r].dtype, 1, is_list=slots[r].is_list, status=FieldStatus.INVALID)
            for r in references
        }
        return Source(OnlineReader(self.repo, compile_plan(self.repo, references, Side.USER)), absent, inputs)


def _stage(graph: LoadedGraph) -> Stage:
    inputs = graph.graph.inputs
    return Stage(
        graph,
        tuple(i for i in inputs if i.side is not Side.ITEM),
        tuple(i for i in inputs if i.side is Side.ITEM),
    )


def _add_request_slot(slots: dict[str, Slot], spec: Input) -> None:
    name = spec.feature.partition(":")[2]
    slot = slots.setdefault(name, Slot(spec.feature, spec.dtype, spec.is_list))
    _check_fit(slot, spec)


def _check_key(spec: Input, key: EntityKey) -> None:
    if spec.feature != f"entity:{key.join_key}":
        raise InvalidSignature(
            f"input {spec.name!r} takes {spec.feature}, but the {spec.side.value}'s join key is {key.join_key}",
            field=spec.name,
        )
    _check_fit(Slot(spec.feature, key.dtype, False), spec)


def _check_fit(slot: Slot, spec: Input) -> None:
    """Raises what a request would raise: InvalidSignature that names feature and input."""
    to_tensor(Column.absent(slot.dtype, 0, is_list=slot.is_list), spec)


def _shape(slot: Slot) -> str:
    return "list" if slot.is_list else "scalar"
