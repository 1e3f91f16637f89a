"""Item vectors: every item through a recommender's item encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.errors import JobFailed, MissingFeature
from feast_recsys.bundle.runtime import LoadedGraph
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.tensors import to_tensor, to_tensors
from feast_recsys.jobs import sound
from feast_recsys.jobs.sound import Sounds, as_stored, takes_sound

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
BATCH = 1024


def with_key(columns: Mapping[str, Column], join_key: str, ids: Array) -> dict[str, Column]:
    """The columns and, as `entity:<join key>`, the ids themselves.

    Args:
        columns: By reference, n rows each.
        join_key: Of the item entity.
        ids: [n] int64, or objects that are str.
    """
    dtype = DType.INT64 if ids.dtype == np.int64 else DType.STRING
    n = len(ids)
    status = np.full(n, FieldStatus.PRESENT, np.uint8)
    column = Column(dtype, np.asarray(ids), status, np.ones(n, np.bool_), np.zeros(n, np.int64))
    return dict(columns) | {f"entity:{join_key}": column}


def embed(
    encoder: LoadedGraph,
    columns: Mapping[str, Column],
    ids: Array,
    rows: Rows,
    dimension: int,
    *,
    batch: int = BATCH,
    sounds: Sounds | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """Vectors of the given rows.

    Args:
        encoder: An item encoder.
        columns: What it takes, by reference, n rows each; see `with_key`.
        ids: [n] ids, for messages.
        rows: [m] rows to embed.
        dimension: Width that the signature promises.
        batch: Rows in one call of the encoder; fewer where sound is read.
        sounds: Reads sound files for an encoder that takes such.
        progress: Called with the number of rows done and m.

    Returns:
        [m, dimension] float32, finite.

    Raises:
        JobFailed: a sound file can't be read, the encoder fails or gives another shape or numbers that are not
            finite, or an item lacks a required feature; names the item.
    """
    inputs = encoder.graph.inputs
    taken = {spec.feature: columns[spec.feature] for spec in inputs}
    vectors = np.empty((len(rows), dimension), np.float32)
    if takes_sound(inputs):
        batch = min(batch, sound.BATCH)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        vectors[start : start + batch] = _embed(encoder, taken, ids, part, dimension, sounds)
        if progress is not None:
            progress(min(start + batch, len(rows)), len(rows))
    return vectors


def same_inputs(
    inputs: Sequence[Input], old: Mapping[str, Column], new: Mapping[str, Column], *, batch: int = 16 * BATCH
) -> npt.NDArray[np.bool_]:
    """Which rows an encoder can't tell apart.

    Args:
        inputs: Of the encoder.
        old: By reference, n rows each.
        new: Likewise, row by row the same items.
        batch: Rows compared at a time.

    Returns:
        [n] bool: whether all input tensors of the row are equal.
    """
    n = len(next(iter(new.values())))
    same = np.ones(n, np.bool_)
    for start in range(0, n, batch):
        part = np.arange(start, min(start + batch, n))
        for spec in map(as_stored, inputs):
            a, b = to_tensor(old[spec.feature].take(part), spec), to_tensor(new[spec.feature].take(part), spec)
            if spec.is_list:
                width = max(a.shape[1], b.shape[1])
                equal = np.all(_widen(a, width, spec) == _widen(b, width, spec), axis=1)
            else:
                equal = a == b
            same[part] &= equal
    return same


def _embed(
    encoder: LoadedGraph,
    columns: Mapping[str, Column],
    ids: Array,
    rows: Rows,
    dimension: int,
    sounds: Sounds | None,
) -> Vectors:
    inputs = encoder.graph.inputs
    chosen = {name: column.take(rows) for name, column in columns.items()}
    if sounds is not None:
        chosen = sounds.columns(inputs, chosen, ids[rows])
    try:
        tensors = to_tensors(chosen, inputs)
    except MissingFeature as error:
        lacking = next(r for r in rows.tolist() if not columns[error.field].valid[r])
        raise JobFailed(
            f"item {ids[lacking]} has no value of {error.field}, which the item encoder requires; give it one, or "
            "declare a default in the signature",
            field=error.field,
        ) from error
    try:
        result = encoder.run(tensors)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise JobFailed(f"the item encoder failed on items {ids[rows[0]]} to {ids[rows[-1]]}: {error}") from error
    if result.shape != (len(rows), dimension):
        raise JobFailed(
            f"the item encoder gave {list(result.shape)} for {len(rows)} items; its signature promises dimension "
            f"{dimension}: export the model again",
            field="dimension",
        )
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        bad = [str(i) for i in ids[rows[~finite]][:5]]
        raise JobFailed(f"the item encoder gave numbers that are not finite for items {', '.join(bad)}")
    vectors: Vectors = result
    return vectors


def _widen(tensor: Array, width: int, spec: Input) -> Array:
    missing = width - tensor.shape[1]
    return np.pad(tensor, ((0, 0), (0, missing)), constant_values=spec.pad) if missing else tensor
