"""What a ranker's item part gave for every item, as memory-mapped matrices.

A folder with one file for each tensor that the item part hands over, by its place among them: `0.npy` is [n, width],
row by row as in the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.split import Passed


def create_item_columns(folder: Path, outputs: Sequence[Passed], n: int) -> list[Array]:
    """Writable matrices [n, width] in a new folder; flush them when they are filled."""
    folder.mkdir(parents=True)
    return [
        np.lib.format.open_memmap(folder / f"{at}.npy", mode="w+", dtype=passed.numpy, shape=(n, passed.width))
        if n
        else _empty(folder / f"{at}.npy", passed)
        for at, passed in enumerate(outputs)
    ]


def open_item_columns(folder: Path, outputs: Sequence[Passed], n: int) -> tuple[Array, ...]:
    """Maps the matrices into memory.

    Raises:
        CorruptArtifact: a file is missing or holds another shape or type; names it.
    """
    columns = []
    for at, passed in enumerate(outputs):
        path = folder / f"{at}.npy"
        try:
            column = np.load(path, mmap_mode="r" if n else None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise CorruptArtifact(f"{path} can't be read: {error}") from error
        if column.shape != (n, passed.width) or column.dtype != passed.numpy:
            raise CorruptArtifact(
                f"{path} holds {list(column.shape)} {column.dtype}, the ranker takes {[n, passed.width]} {passed.dtype}"
            )
        columns.append(np.asarray(column))
    return tuple(columns)


def to_rows(tensor: Array, passed: Passed) -> Array:
    """A tensor of m candidates as the item part gives it, to [m, width]."""
    moved = np.moveaxis(tensor, passed.axis, 0)
    return moved.reshape(len(moved), passed.width)


def from_rows(column: Array, rows: npt.NDArray[np.int64], passed: Passed) -> Array:
    """The tensor of the given rows of a matrix [n, width], as the cross part takes it: the inverse of `to_rows`."""
    taken = column.take(rows, axis=0)
    sizes = [size for size in passed.shape if size is not None]
    if all(size == 1 for size in passed.shape[: passed.axis] if size is not None):
        return taken.reshape([len(rows) if size is None else size for size in passed.shape])
    return np.ascontiguousarray(np.moveaxis(taken.reshape(len(rows), *sizes), 0, passed.axis))


def _empty(path: Path, passed: Passed) -> Array:
    column = np.empty((0, passed.width), passed.numpy)
    np.save(path, column, allow_pickle=False)
    return column
