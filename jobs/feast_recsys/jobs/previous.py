"""The bundle that is current when a job begins: what of it still holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.index.vectors import open_vectors
from feast_recsys.bundle.signature import Input, Role
from feast_recsys.bundle.snapshot import UNKNOWN_ROW, Snapshot
from feast_recsys.bundle.store import Bundle, LoadedRecommender, current, open_bundle
from feast_recsys.jobs.embed import Rows, Vectors, same_inputs, with_key
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.sources import entries_by_name, joint


@dataclass(frozen=True)
class Previous:
    """An opened bundle and its item vectors.

    Attributes:
        bundle: The bundle.
        vectors: By recommender, and by joint name for models of its sources, [n, d], row by row as in its snapshot;
            memory-mapped.
    """

    bundle: Bundle
    vectors: Mapping[str, Vectors]

    def loaded(self, name: str) -> LoadedRecommender | None:
        """What it holds by a recommender's name, or by the joint name of a model of a source; None if nothing."""
        recommenders = self.bundle.recommenders
        for recommender, entry in self.bundle.manifest.recommenders.items():
            for source in entry.sources:
                loaded = recommenders[recommender].sources[source]
                if loaded.model is not None and joint(recommender, str(loaded.shape["model"])) == name:
                    return loaded.model
        return recommenders.get(name)

    def holds(self, recommender: str, ids: Array, vectors: Vectors) -> bool:
        """Whether it has exactly these vectors of exactly these items."""
        then, snapshot = self.vectors.get(recommender), self.bundle.snapshot
        if then is None or not np.array_equal(then, vectors):
            return False
        return np.array_equal(snapshot.keys_of(np.arange(len(snapshot))), ids)


def open_previous(root: Path) -> tuple[Previous | None, str]:
    """The current bundle, and a note if it can't be used.

    A broken bundle is no reason to stop: the job is what repairs it.
    """
    name = current(root)
    if name is None:
        return None, ""
    try:
        bundle = open_bundle(root / name)
        vectors = {
            key: open_vectors(root / name / entry.vectors) for key, entry in entries_by_name(bundle.manifest).items()
        }
        return Previous(bundle, vectors), ""
    except (CorruptArtifact, InvalidSignature) as error:
        return None, f"the current bundle can't be used again: {error.message}"


def reusable_vectors(
    previous: Previous, recommender: str, model: ExportedModel, join_key: str, ids: Array, columns: Mapping[str, Column]
) -> tuple[Rows, Vectors]:
    """Item vectors that would come out as they were: same encoder, same item, same inputs.

    Args:
        previous: The bundle of the last run.
        recommender: Its name.
        model: Its retrieval model now.
        join_key: Of items.
        ids: [n] ids now, ascending.
        columns: What the item encoder takes, with the ids, n rows each.

    Returns:
        rows [m] of `ids`, and their vectors [m, d].
    """
    nothing = np.empty(0, np.int64), np.empty((0, model.signature.dimension), np.float32)
    then, graph = previous.loaded(recommender), model.signature.graphs[Role.ITEM_ENCODER]
    # The checksum is the graph's; the declared inputs say what goes into it.
    if then is None or replace(then.retrieval.graphs[Role.ITEM_ENCODER], file=graph.file) != graph:
        return nothing
    snapshot = previous.bundle.snapshot
    if (snapshot.key_dtype is DType.INT64) is not (ids.dtype == np.int64):
        return nothing
    old_rows = snapshot.rows([str(i) for i in ids.tolist()])
    rows = np.flatnonzero(old_rows != UNKNOWN_ROW)
    old_rows = old_rows[rows]
    old = _columns(snapshot, graph.inputs, old_rows, join_key)
    if old is None or not len(rows) or not graph.inputs:
        return nothing
    new = {spec.feature: columns[spec.feature].take(rows) for spec in graph.inputs}
    same = same_inputs(graph.inputs, old, new)
    return rows[same], previous.vectors[recommender][old_rows[same]]


def _columns(snapshot: Snapshot, inputs: tuple[Input, ...], rows: Rows, join_key: str) -> dict[str, Column] | None:
    """What the encoder would have taken then; None if the snapshot lacks or has changed the type of an input."""
    names = [spec.feature for spec in inputs if spec.from_store]
    if not set(names) <= set(snapshot.references):
        return None
    columns = {name: snapshot.gather(name, rows) for name in names}
    return with_key(columns, join_key, snapshot.keys_of(rows))
