"""Items in an order that is the same for everybody, and items that may come from a source, as files.

A folder with `rows.npy`, [m] int64, the best item first, and `scores.npy`, [m] float32, falling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.protocol import Rows, Vectors

_ROWS, _SCORES = "rows.npy", "scores.npy"


def save_listing(folder: Path, rows: Rows, scores: Vectors) -> None:
    """Writes a listing into a new folder; rows of the snapshot, each once."""
    folder.mkdir(parents=True)
    np.save(folder / _ROWS, rows, allow_pickle=False)
    np.save(folder / _SCORES, scores, allow_pickle=False)


def open_listing(folder: Path, items: int) -> tuple[Rows, Vectors]:
    """Maps a listing into memory.

    Args:
        folder: Where it is.
        items: Number of items of the snapshot.

    Raises:
        CorruptArtifact: a file is missing, or holds something else.
    """
    rows, scores = _open(folder / _ROWS, np.int64), _open(folder / _SCORES, np.float32)
    _check_rows(rows, items, folder / _ROWS)
    if len(scores) != len(rows) or not np.isfinite(scores).all() or (np.diff(scores) > 0).any():
        raise CorruptArtifact(f"{folder / _SCORES} holds no falling scores of {len(rows)} items; materialize again")
    return rows, scores


def save_rows(path: Path, rows: Rows) -> None:
    """Writes rows of a snapshot, ascending, each once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows, allow_pickle=False)


def open_rows(path: Path, items: int) -> Rows:
    """Maps rows of a snapshot with so many items into memory.

    Raises:
        CorruptArtifact: the file is missing, or holds something else.
    """
    rows = _open(path, np.int64)
    _check_rows(rows, items, path)
    return rows


def _open(path: Path, dtype: type[np.generic]) -> Array:
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if values.ndim != 1 or values.dtype != dtype:
        raise CorruptArtifact(f"{path} holds {values.shape} {values.dtype}, not [m] {np.dtype(dtype)}")
    return np.asarray(values)


def _check_rows(rows: Rows, items: int, path: Path) -> None:
    if len(rows) and (rows.min() < 0 or rows.max() >= items or len(np.unique(rows)) < len(rows)):
        raise CorruptArtifact(f"{path} holds rows that {items} items don't have, or one twice; materialize again")
