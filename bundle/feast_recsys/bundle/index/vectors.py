"""Item vectors as a file, and queries made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.protocol import Vectors
from feast_recsys.bundle.index.reduction import Metric


def mean_direction(vectors: Vectors, *, bias: int) -> Vectors:
    """A query for items like some: the mean of their vectors, each scaled to unit length.

    Args:
        vectors: [m, d] float32, m at least 1.
        bias: How many of the last columns are biases. They say nothing of likeness: the query has zeros there.

    Returns:
        [1, d] float32; zeros where all vectors are.
    """
    query = vectors.astype(np.float32)
    query[:, query.shape[1] - bias :] = 0.0
    lengths = np.linalg.norm(query, axis=1, keepdims=True)
    return np.asarray(np.mean(query / np.where(lengths > 0, lengths, 1.0), axis=0, keepdims=True), np.float32)


def query_like(vectors: Vectors, *, bias: int, metric: Metric) -> Vectors | None:
    """A query for items like some, as a model of that metric would ask; None where nothing is known of these.

    Args:
        vectors: [m, d] float32, the model's own.
        bias: How many of the last columns are biases.
        metric: `l2` asks for what is around the mean of their places, the others for the mean of their directions.

    Returns:
        [1, d] float32. There is none if m is 0, or all directions are zero.
    """
    if not len(vectors):
        return None
    if metric == "l2":
        return np.asarray(np.mean(vectors, axis=0, keepdims=True, dtype=np.float64), np.float32)
    query = mean_direction(vectors, bias=bias)
    return query if query.any() else None


def save_vectors(path: Path, vectors: Vectors) -> None:
    """Writes item vectors, [n, d] float32, row by row as in the snapshot.

    Raises:
        ValueError: the array has another shape or dtype, or holds NaN or infinity.
    """
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise ValueError(f"item vectors must be [n, d] float32, not {vectors.shape} {vectors.dtype}")
    if not np.isfinite(vectors).all():
        row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
        raise ValueError(f"item vectors must be finite; row {row} is not")
    np.save(path, vectors, allow_pickle=False)


def open_vectors(path: Path) -> Vectors:
    """Maps item vectors into memory.

    Raises:
        CorruptArtifact: the file is missing or no [n, d] float32 array.
    """
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if vectors.ndim != 2 or vectors.dtype != np.float32:
        raise CorruptArtifact(f"{path} holds {vectors.shape} {vectors.dtype}, not [n, d] float32")
    return np.asarray(vectors)


def open_centre(path: Path, dimension: int) -> npt.NDArray[np.float32]:
    """Reads the centre of item vectors of that width, see `reduction.centre_for`; it was written as one vector.

    Raises:
        CorruptArtifact: the file is missing or no [1, dimension] float32 array.
    """
    centre = open_vectors(path)
    if centre.shape != (1, dimension):
        raise CorruptArtifact(f"{path} holds {centre.shape}, not the centre of vectors of width {dimension}")
    return np.array(centre[0])
