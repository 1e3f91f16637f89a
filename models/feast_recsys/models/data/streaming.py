"""Training sets larger than memory: columns that lie in mapped files, and an order of rows that reads them in blocks.

The files are those of `features.streaming`. What is mapped counts as the file cache's, which the system takes back at
will; what is allocated grows with a batch, and with the buffer of the shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.streaming import (
    STATUS,
    TIMESTAMPS,
    VALID,
    VALUES,
    FieldFacts,
    JoinedSet,
    chunk_path,
    facts_of,
)

Ints = npt.NDArray[np.int64]


class ColumnRows(Protocol):
    """A column from which rows can be taken: one in memory, or a mapped one."""

    def __len__(self) -> int: ...

    def take(self, rows: Ints) -> Column:
        """The given rows, in that order; rows may repeat."""


@dataclass(frozen=True)
class MappedColumn:
    """One feature of n rows, in files.

    Attributes:
        facts: Its type, and the longest of its lists.
        chunk: Rows of each part but the last.
        parts: Columns whose arrays are mapped.
    """

    facts: FieldFacts
    chunk: int
    parts: tuple[Column, ...]

    def __len__(self) -> int:
        return (len(self.parts) - 1) * self.chunk + len(self.parts[-1])

    def take(self, rows: Ints) -> Column:
        """The given rows, in that order, in memory; rows may repeat.

        Raises:
            IndexError: there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows must lie in 0..{len(self) - 1}")
        owners = rows // self.chunk
        order = np.argsort(owners, kind="stable")
        found, starts = np.unique(owners[order], return_index=True)
        groups = np.split(order, starts[1:])
        taken = [self.parts[n].take(rows[g] - n * self.chunk) for n, g in zip(found.tolist(), groups, strict=False)]
        if len(taken) < 2:
            return taken[0] if taken else self.parts[0].take(rows)
        return Column.concatenate(taken).take(np.argsort(order, kind="stable"))


class MappedColumns(Mapping[str, MappedColumn]):
    """All features of a joined training set by reference; see `open_joined`."""

    def __init__(self, columns: Mapping[str, MappedColumn], rows: int) -> None:
        self._columns = dict(columns)
        self.rows = rows

    def __getitem__(self, reference: str) -> MappedColumn:
        return self._columns[reference]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def open_joined(folder: Path) -> MappedColumns:
    """Maps what `features.streaming.write_joined` wrote; nothing is read yet.

    Raises:
        CorruptArtifact: a file is missing, broken, or does not fit the others; names it.
    """
    joined = JoinedSet.load(folder)
    parts: dict[str, list[Column]] = {reference: [] for reference in joined.references}
    facts: dict[str, FieldFacts] = {}
    for number in range(joined.chunks):
        path = chunk_path(folder, number)
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as file:
                batch, of_file = file.get_batch(0), facts_of(file.schema)
            if len(batch) != min(joined.chunk, joined.rows - number * joined.chunk):
                raise ValueError(f"it has {len(batch)} rows")
            for reference in joined.references:
                facts[reference] = _wider(facts.get(reference), of_file[reference])
                parts[reference].append(_mapped(batch, reference, of_file[reference]))
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            raise CorruptArtifact(f"{path} can't be read: {error}; remove it and join again") from error
    columns = {name: MappedColumn(facts[name], joined.chunk, tuple(parts[name])) for name in joined.references}
    return MappedColumns(columns, joined.rows)


def _wider(known: FieldFacts | None, more: FieldFacts) -> FieldFacts:
    if known is None:
        return more
    if (known.dtype, known.is_list) != (more.dtype, more.is_list):
        raise ValueError("its types differ from those of the first file")
    return FieldFacts(more.dtype, more.is_list, max(known.longest, more.longest))


def _mapped(batch: pa.RecordBatch, reference: str, facts: FieldFacts) -> Column:
    values, offsets = batch[f"{reference}/{VALUES}"], None
    if facts.is_list:
        values, offsets = values.values, values.offsets.to_numpy()
    array: Array
    if facts.dtype is DType.STRING:
        array = cast(Array, _Strings(values))  # `take` only indexes
    else:
        array = values.to_numpy()
        array = array.view(np.bool_) if facts.dtype is DType.BOOL else array
    status, valid, timestamps = (batch[f"{reference}/{part}"].to_numpy() for part in (STATUS, VALID, TIMESTAMPS))
    return Column(facts.dtype, array, status, valid.view(np.bool_), timestamps, offsets)


class _Strings:
    """Mapped strings, which become Python's when they are taken."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: Ints) -> Array:
        taken: Array = self._values.take(pa.array(rows)).to_numpy(zero_copy_only=False)
        return taken


@dataclass(frozen=True)
class MappedTensor:
    """One module input of all rows, made from its mapped column when rows of it are asked for.

    Attributes:
        column: The feature.
        spec: The input.
        vocabulary: Of the input, if it has one.
    """

    column: MappedColumn
    spec: Input
    vocabulary: Vocabulary | None

    def __getitem__(self, rows: Tensor) -> Tensor:
        """[m] rows to [m], or [m, L] for a list, with the same L for all rows: that of the longest list."""
        values: Array = to_tensor(self.column.take(rows.numpy()), self.spec)
        if self.spec.max_length is not None:
            length = max(min(self.column.facts.longest, self.spec.max_length), 1)
            missing = ((0, 0), (0, length - values.shape[1]))
            values = np.pad(values, missing, constant_values=cast(Any, self.spec.pad))
        if self.vocabulary is not None:
            values = self.vocabulary.encode(values)
        return torch.from_numpy(np.ascontiguousarray(values))


@dataclass(frozen=True)
class BlockShuffle:
    """A shuffled order of rows that lie on disk: blocks in random order, and rows at random within a buffer of blocks.

    Every row comes once an epoch. Only one buffer's blocks are read at a time, each once. Rows that lie together end up
    in batches near each other; the more blocks fill a buffer, the less it matters.

    Attributes:
        rows: n.
        batch: Rows of a batch.
        block: Rows that lie together.
        buffer: Rows that are shuffled together; at least a block and a batch.
        drop_last: Whether a last, shorter batch is left out, as several processes need it.
    """

    rows: int
    batch: int
    block: int = 4096
    buffer: int = 262_144
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name in ("batch", "block"):
            if getattr(self, name) < 1:
                raise InvalidArgument(f"{name} must be at least 1, not {getattr(self, name)}", field=name)
        if self.buffer < max(self.block, self.batch):
            raise InvalidArgument(f"buffer must hold a block and a batch, not {self.buffer} rows", field="buffer")

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.rows // self.batch if self.drop_last else -(-self.rows // self.batch)

    def batches(self, random: np.random.Generator) -> Iterator[Ints]:
        """The rows of each batch; the same numbers give the same order."""
        left = np.empty(0, np.int64)
        for rows in self._buffers(random):
            left = np.concatenate([left, rows])
            whole = len(left) // self.batch * self.batch
            yield from left[:whole].reshape(-1, self.batch)
            left = left[whole:]
        if len(left) and not self.drop_last:
            yield left

    def _buffers(self, random: np.random.Generator) -> Iterator[Ints]:
        blocks = random.permutation(-(-self.rows // self.block))
        together = self.buffer // self.block
        for start in range(0, len(blocks), together):
            rows = (blocks[start : start + together, None] * self.block + np.arange(self.block)).reshape(-1)
            yield random.permutation(rows[rows < self.rows])
