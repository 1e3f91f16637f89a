"""Query vectors of real users: their features read from the online store, and through the query encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, FieldStatus
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.runtime import LoadedGraph
from feast_recsys.bundle.signature import Graph, Role, Side
from feast_recsys.bundle.tensors import to_tensors
from feast_recsys.features.plan import ReadPlan, compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.jobs.embed import Vectors
from feast_recsys.jobs.exported import ExportedModel

BATCH = 1024
Mask = npt.NDArray[np.bool_]


def stored_references(graph: Graph) -> tuple[str, ...]:
    """What a query encoder takes from the online store, each feature once."""
    return tuple(dict.fromkeys(spec.feature for spec in graph.inputs if spec.from_store))


def encode_users(
    repo: Repo,
    model: ExportedModel,
    ids: Array,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Vectors, Mask]:
    """What the server's query encoder gives for some users who say nothing with their requests.

    What comes with requests is absent, and further entities than the user are unknown ones: defaults stand in.

    Args:
        repo: The repository.
        model: An exported retrieval model.
        ids: [m] user ids.
        batch: Users in one read and one run.
        progress: Called with the number of users done and m.

    Returns:
        vectors: [m, dimension] float32, finite.
        known: [m] bool: of whom the online store knows something, and nothing is missing that the encoder requires.
            Vectors of the others are zero.

    Raises:
        InvalidRepository, OnlineStoreUnavailable, StaleFeature, InvalidArgument: users can't be read; see
            `OnlineReader.read`.
        JobFailed: the encoder fails, or gives another shape or numbers that are not finite.
    """
    encoder = model.graphs[Role.QUERY_ENCODER.value]
    key = entity_key(repo, Side.USER)
    references = stored_references(encoder.graph)
    reader = None
    if references:
        services = [encoder.graph.feature_service] if encoder.graph.feature_service else []
        reader = OnlineReader(repo, compile_plan(repo, references, Side.USER, *services))
    vectors = np.zeros((len(ids), model.signature.dimension), np.float32)
    known = np.zeros(len(ids), np.bool_)
    for start in range(0, len(ids), batch):
        part = slice(start, start + batch)
        columns, known[part] = _read(reader, key, encoder.graph, ids[part])
        rows = start + np.flatnonzero(known[part])
        if len(rows):
            chosen = {name: column.take(rows - start) for name, column in columns.items()}
            vectors[rows] = _encode(encoder, chosen, len(rows), model)
        if progress is not None:
            progress(min(start + batch, len(ids)), len(ids))
    return vectors, known


def _read(reader: OnlineReader | None, key: EntityKey, graph: Graph, ids: Array) -> tuple[dict[str, Column], Mask]:
    """What the encoder takes of some users, and which of them are known and complete."""
    n = len(ids)
    columns: dict[str, Column] = {f"entity:{key.join_key}": Column.of(key.dtype, ids.tolist())}
    known = np.ones(n, np.bool_)
    if reader is not None:
        plan = reader.plan
        keys: dict[str, Sequence[int | str]] = {name: [k.parse("0")] * n for name, k in plan.join_keys.items()}
        keys[key.join_key] = ids.tolist()
        columns |= reader.read(keys, {name: [None] * n for name in plan.request_fields})
        found = [columns[reference].status != FieldStatus.NOT_FOUND for reference in _about_user(plan, key)]
        known = np.logical_or.reduce(found) if found else known
    for spec in graph.inputs:
        if spec.feature.startswith("request:"):
            columns[spec.feature] = Column.absent(spec.dtype, n, is_list=spec.is_list, status=FieldStatus.NULL_VALUE)
        if spec.required:
            known = known & columns[spec.feature].valid
    return columns, known


def _about_user(plan: ReadPlan, key: EntityKey) -> tuple[str, ...]:
    """References of stored views that the user's id keys: an on-demand view computes a value for anybody."""
    return tuple(
        slot.reference
        for view in plan.views
        if any(column.key.join_key == key.join_key and column.field for column in view.keys)
        for slot in view.slots
    )


def _encode(encoder: LoadedGraph, columns: dict[str, Column], n: int, model: ExportedModel) -> Vectors:
    tensors = to_tensors(columns, encoder.graph.inputs)
    try:
        result = encoder.run(tensors)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise JobFailed(f"the query encoder of {model.name} failed on {n} users: {error}", field=model.name) from error
    if result.shape != (n, model.signature.dimension) or not np.isfinite(result).all():
        raise JobFailed(
            f"the query encoder of {model.name} gave {list(result.shape)} for {n} users, where "
            f"[{n}, {model.signature.dimension}] finite numbers are due; export the model again",
            field=model.name,
        )
    vectors: Vectors = result
    return vectors
