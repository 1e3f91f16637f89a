"""The ranker's item part over the whole catalogue: what it gives is kept in the bundle, so that no call computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.item_columns import create_item_columns, to_rows
from feast_recsys.bundle.lookup import UNKNOWN_ROW
from feast_recsys.bundle.runtime import LoadedPart
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.tensors import optional, to_tensors

BATCH = 1024

# Rows copied at a time.
_COPIED = 16_384


@dataclass(frozen=True)
class KnownColumns:
    """What the same item part gave before.

    Attributes:
        columns: As `open_item_columns` gives them.
        rows: [n] where each item is in them, UNKNOWN_ROW for items that are to be computed.
    """

    columns: Sequence[Array]
    rows: npt.NDArray[np.int64]


def write_item_columns(
    folder: Path,
    part: LoadedPart,
    inputs: Sequence[Input],
    columns: Mapping[str, Column],
    ids: Array,
    *,
    known: KnownColumns | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Runs the item part over all items and writes what it gives; see `bundle.item_columns`.

    A required feature that an item lacks is no error here: a call that ranks the item says so.

    Args:
        folder: Where to write; made here.
        part: The item part.
        inputs: Inputs of the ranker; the part takes some of them.
        columns: By reference, n rows each; see `embed.with_key`.
        ids: [n] ids, for messages.
        known: What need not be computed again; None computes all.
        batch: Items in one run.
        progress: Called with the number of items done and of those to compute.

    Returns:
        Bytes kept for one item.

    Raises:
        JobFailed: the part fails, gives another shape than its signature says, or numbers that are not finite.
    """
    taken = [optional(spec) for spec in inputs if spec.name in part.part.inputs]
    outputs = part.part.outputs
    kept = create_item_columns(folder, outputs, len(ids))
    todo = np.arange(len(ids))
    if known is not None:
        todo = np.flatnonzero(known.rows == UNKNOWN_ROW)
        for column, old in zip(kept, known.columns, strict=True):
            _copy(column, old, known.rows)
    for start in range(0, len(todo), batch):
        rows = todo[start : start + batch]
        tensors = to_tensors({spec.feature: columns[spec.feature].take(rows) for spec in taken}, taken)
        try:
            result = part.run(tensors)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise JobFailed(
                f"the item part {part.part.file} failed on items {ids[rows[0]]} to {ids[rows[-1]]}: {error}"
            ) from error
        for passed, column in zip(outputs, kept, strict=True):
            tensor = result[passed.name]
            if tensor.shape != tuple(len(rows) if size is None else size for size in passed.shape):
                raise JobFailed(
                    f"the item part {part.part.file} gave {list(tensor.shape)} as {passed.name} for {len(rows)} items, "
                    f"its signature says {list(passed.shape)}; export the model again"
                )
            _write(column, rows, to_rows(tensor, passed), part, ids)
        if progress is not None:
            progress(min(start + batch, len(todo)), len(todo))
    for column in kept:
        if isinstance(column, np.memmap):
            column.flush()
    return sum(passed.width * passed.numpy.itemsize for passed in outputs)


def _copy(column: Array, old: Array, rows: npt.NDArray[np.int64]) -> None:
    """Puts known rows where they belong, and anything where there are none: that is computed afterwards."""
    if not len(old):
        return
    for start in range(0, len(rows), _COPIED):
        part = slice(start, start + _COPIED)
        old.take(rows[part], axis=0, out=column[part], mode="wrap")


def _write(column: Array, rows: Array, values: Array, part: LoadedPart, ids: Array) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = ids[rows[~np.isfinite(values).all(axis=1)]][:5]
        raise JobFailed(
            f"the item part {part.part.file} gave numbers that are not finite for items {', '.join(map(str, bad))}; "
            "clamp inputs inside forward()"
        )
    column[rows] = values
