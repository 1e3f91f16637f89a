"""The bundle that is current when a job begins: what of it still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.index.by_metric import Searched
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.index.reduction import Centre
from feast_recsys.bundle.index.vectors import open_centre, open_vectors
from feast_recsys.bundle.signature import Input, Role
from feast_recsys.bundle.snapshot import UNKNOWN_ROW, Snapshot
from feast_recsys.bundle.store import Bundle, LoadedRecommender, current, open_bundle
from feast_recsys.features.catalogue import Known
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.embed import Rows, Vectors, same_inputs, with_key
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.item_columns import KnownColumns
from feast_recsys.jobs.registry import registry_hash
from feast_recsys.jobs.sources import entries_by_name, joint

# Vectors compared at a time.
_COMPARED = 65_536


@dataclass(frozen=True)
class Previous:
    """An opened bundle and its item vectors.

    Attributes:
        bundle: The bundle.
        vectors: By recommender, and by joint name for models of its sources, [n, d] as the model gives them, row by row
            as in its snapshot; memory-mapped.
        centres: From which their places are taken, by the same names; see `index.reduction`.
    """

    bundle: Bundle
    vectors: Mapping[str, Vectors]
    centres: Mapping[str, Centre]

    def loaded(self, name: str) -> LoadedRecommender | None:
        """What it holds by a recommender's name, or by the joint name of a model of a source; None if nothing."""
        recommenders = self.bundle.recommenders
        for recommender, entry in self.bundle.manifest.recommenders.items():
            for source in entry.sources:
                loaded = recommenders[recommender].sources[source]
                if loaded.model is not None and joint(recommender, str(loaded.shape["model"])) == name:
                    return loaded.model
        return recommenders.get(name)

    def alike(self, name: str, model: ExportedModel, searched: Searched) -> bool:
        """Whether what it holds by a name is asked by the same queries, and has the same metric and centre.

        Recall, and plans of filtered searches, are of queries that were asked.
        """
        loaded, asks = self.loaded(name), model.signature.graphs[Role.QUERY_ENCODER]
        if loaded is None or loaded.retrieval.metric != searched.metric:
            return False
        if loaded.retrieval.graphs[Role.QUERY_ENCODER].sha256 != asks.sha256:
            return False
        before, now = self.centres[name], searched.centre
        return before is now if before is None or now is None else np.array_equal(before, now)

    @property
    def indexes(self) -> list[IndexEntry]:
        """What it says of its indexes."""
        entries = entries_by_name(self.bundle.manifest).values()
        return [entry.index for entry in entries if entry.index is not None]

    def known(self, repo: Repo) -> Known | None:
        """What of its snapshot need not be read again; None if declarations or policies have changed since."""
        metadata, now = self.bundle.manifest.metadata, reading(repo)
        if any(metadata.get(name) != value for name, value in now.items()):
            return None
        return Known(self.bundle.snapshot, self.bundle.manifest.as_of)

    def item_columns(self, model: ExportedModel, known_rows: Rows | None) -> KnownColumns | None:
        """What the same item part gave for items whose features are known to be the same; None if it is another.

        Args:
            model: A ranking model now.
            known_rows: [n] see `Catalogue.known_rows`.
        """
        if known_rows is None:
            return None
        now = model.signature.graphs[Role.RANKER]
        for then in self.bundle.recommenders.values():
            graph = then.ranking.graphs[Role.RANKER] if then.ranking is not None else None
            if graph is None or graph.split is None or now.split is None or not then.item_columns:
                continue
            # The checksum is the part's; the declared inputs say what goes into it.
            if graph.split.item == now.split.item and graph.inputs == now.inputs:
                return KnownColumns(then.item_columns, known_rows)
        return None

    def changed(self, name: str, ids: Array, vectors: Vectors) -> Rows:
        """The rows of items whose vector it does not have just so.

        Args:
            name: Of the recommender, or a joint name.
            ids: [n] ids now.
            vectors: [n, d] vectors now.
        """
        then = self.vectors.get(name)
        if then is None or then.shape[1] != vectors.shape[1]:
            return np.arange(len(ids))
        old = self.bundle.snapshot.rows_of_keys(ids)
        changed = old == UNKNOWN_ROW
        for start in range(0, len(ids), _COMPARED):
            part = slice(start, start + _COMPARED)
            changed[part] |= (then.take(old[part], axis=0, mode="wrap") != vectors[part]).any(axis=1)
        return np.flatnonzero(changed)


def open_previous(root: Path) -> tuple[Previous | None, str]:
    """The current bundle, and a note if it can't be used.

    A broken bundle is no reason to stop: the job is what repairs it.
    """
    name = current(root)
    if name is None:
        return None, ""
    try:
        bundle = open_bundle(root / name)
        entries = entries_by_name(bundle.manifest)
        vectors = {key: open_vectors(root / name / entry.vectors) for key, entry in entries.items()}
        centres = {
            key: open_centre(root / name / entry.centre, vectors[key].shape[1]) if entry.centre is not None else None
            for key, entry in entries.items()
        }
        return Previous(bundle, vectors, centres), ""
    except (CorruptArtifact, InvalidSignature) as error:
        return None, f"the current bundle can't be used again: {error.message}"


def reading(repo: Repo) -> dict[str, Any]:
    """What decides how stored rows become features, for the metadata of a bundle."""
    return {"registry": registry_hash(repo), "stale": dict(repo.settings.serving.stale)}


def reuse_vectors(
    previous: Previous | None,
    recommender: str,
    model: ExportedModel,
    join_key: str,
    ids: Array,
    columns: Mapping[str, Column],
    known_rows: Rows | None = None,
) -> tuple[Vectors, Rows]:
    """A matrix of item vectors with those that would come out as they were: same encoder, same item, same inputs.

    Args:
        previous: The bundle of the last run; None if there is nothing to reuse.
        recommender: Its name.
        model: Its retrieval model now.
        join_key: Of items.
        ids: [n] ids now, ascending.
        columns: What the item encoder takes, with the ids, n rows each.
        known_rows: [n] see `Catalogue.known_rows`, of its snapshot: such items have the same inputs and are not
            compared.

    Returns:
        vectors [n, d], and the rows of it, ascending, that are yet to be filled.
    """
    fresh = np.empty((len(ids), model.signature.dimension), np.float32)
    old_rows = _reusable(previous, recommender, model, join_key, ids, columns, known_rows)
    if previous is None or old_rows is None:
        return fresh, np.arange(len(ids))
    # One pass over all of them, rows that are not known included, is quicker than to pick.
    previous.vectors[recommender].take(old_rows, axis=0, out=fresh, mode="wrap")
    return fresh, np.flatnonzero(old_rows == UNKNOWN_ROW)


def _reusable(
    previous: Previous | None,
    recommender: str,
    model: ExportedModel,
    join_key: str,
    ids: Array,
    columns: Mapping[str, Column],
    known_rows: Rows | None,
) -> Rows | None:
    """[n] the row of the snapshot whose vector an item still has, UNKNOWN_ROW where it has another; None if all do."""
    if previous is None or not len(previous.bundle.snapshot):
        return None
    then, graph = previous.loaded(recommender), model.signature.graphs[Role.ITEM_ENCODER]
    # The checksum is the graph's; the declared inputs say what goes into it.
    if then is None or replace(then.retrieval.graphs[Role.ITEM_ENCODER], file=graph.file) != graph:
        return None
    snapshot = previous.bundle.snapshot
    if (snapshot.key_dtype is DType.INT64) is not (ids.dtype == np.int64) or not graph.inputs:
        return None
    if not {spec.feature for spec in graph.inputs if spec.from_store} <= set(snapshot.references):
        return None
    # Minus one, UNKNOWN_ROW, for what is not known; those are looked up and compared.
    old_rows = np.full(len(ids), UNKNOWN_ROW, np.int64) if known_rows is None else known_rows.copy()
    open_rows = np.flatnonzero(old_rows == UNKNOWN_ROW)
    there = snapshot.rows_of_keys(ids[open_rows])
    open_rows, there = open_rows[there != UNKNOWN_ROW], there[there != UNKNOWN_ROW]
    if len(there):
        old = _columns(snapshot, graph.inputs, there, join_key)
        new = {spec.feature: columns[spec.feature].take(open_rows) for spec in graph.inputs}
        same = same_inputs(graph.inputs, old, new)
        old_rows[open_rows[same]] = there[same]
    return old_rows


def _columns(snapshot: Snapshot, inputs: tuple[Input, ...], rows: Rows, join_key: str) -> dict[str, Column]:
    """What the encoder would have taken then."""
    columns = {spec.feature: snapshot.gather(spec.feature, rows) for spec in inputs if spec.from_store}
    return with_key(columns, join_key, snapshot.keys_of(rows))
