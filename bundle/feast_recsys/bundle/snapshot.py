"""The catalogue snapshot: every item's features at one moment, as memory-mapped columns.

A snapshot is a folder of two files. `ids.npy` holds the item ids in ascending order, as int64 or as UTF-8 bytes
of fixed width, so that a search needs no dictionary in each process. `features.arrow` is an Arrow IPC file of one
record batch: per feature its values (without nulls) and, under `<reference>#status` and `#valid`, what they are worth;
per view `<view>#timestamp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact

IDS_FILE = "ids.npy"
FEATURES_FILE = "features.arrow"
UNKNOWN_ROW = -1

_ARROW = {DType.INT64: pa.int64(), DType.FLOAT32: pa.float32(), DType.BOOL: pa.uint8(), DType.STRING: pa.large_string()}
_DTYPE_KEY = b"recsys.dtype"


@dataclass(frozen=True)
class Snapshot:
    """All items and their features. Rows follow the ids in ascending order.

    Attributes:
        ids: [n] int64, or UTF-8 bytes of fixed width; ascending, each once.
        table: The features, one chunk per column.
    """

    ids: Array
    table: pa.Table

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key_dtype(self) -> DType:
        """Type of the item ids: INT64 or STRING."""
        return DType.INT64 if self.ids.dtype == np.int64 else DType.STRING

    @cached_property
    def references(self) -> tuple[str, ...]:
        """Feast references of the features held."""
        return tuple(name for name in self.table.column_names if "#" not in name)

    def dtype(self, reference: str) -> DType:
        """Element type of a feature; KeyError if it is not held."""
        field = self.table.schema.field(reference)
        return DType(field.metadata[_DTYPE_KEY].decode())

    def is_list(self, reference: str) -> bool:
        """Whether a feature is a list; KeyError if it is not held."""
        return bool(pa.types.is_large_list(self.table.schema.field(reference).type))

    def rows(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        """Row of each id, UNKNOWN_ROW where the catalogue has no such item.

        Args:
            item_ids: Ids as text. Integer ids count only in their plain form: "7", not "007" or "+7".
        """
        if not len(self) or not item_ids:
            return np.full(len(item_ids), UNKNOWN_ROW, np.int64)
        wanted, usable = self._parse(item_ids)
        rows = np.searchsorted(self.ids, wanted)
        rows[rows == len(self)] = 0
        return np.where(usable & (self.ids[rows] == wanted), rows, UNKNOWN_ROW)

    def ids_of(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Ids of the given rows, as text."""
        picked = self.ids[rows].tolist()
        if self.key_dtype is DType.INT64:
            return [str(i) for i in picked]
        return [i.decode() for i in picked]

    def keys_of(self, rows: npt.NDArray[np.int64]) -> Array:
        """Ids of the given rows by their Feast type: int64, or an object array of str."""
        if self.key_dtype is DType.INT64:
            return self.ids[rows]
        return np.array(self.ids_of(rows), dtype=object)

    def gather(self, reference: str, rows: npt.NDArray[np.int64]) -> Column:
        """One feature of the given rows, in that order; KeyError if the feature is not held."""
        return (
            self._plain(reference).take(rows)
            if self.dtype(reference) is not DType.STRING
            else self._text(reference, rows)
        )

    def column(self, reference: str) -> Column:
        """One feature of all items; KeyError if it is not held."""
        return self.gather(reference, np.arange(len(self)))

    def arrow(self, reference: str) -> pa.Array:
        """The raw Arrow values of one feature; slots without a value hold the dtype's zero."""
        return self.table.column(reference).chunk(0) if len(self) else self.table.column(reference).combine_chunks()

    def valid(self, reference: str) -> npt.NDArray[np.bool_]:
        """[n] whether each item has a usable value."""
        flags: npt.NDArray[np.bool_] = self._bytes(f"{reference}#valid").view(np.bool_)
        return flags

    def _parse(self, item_ids: Sequence[str]) -> tuple[Array, npt.NDArray[np.bool_]]:
        if self.key_dtype is DType.INT64:
            parsed = [_parse_int64(text) for text in item_ids]
            usable = np.fromiter((p is not None for p in parsed), np.bool_, len(parsed))
            return np.fromiter((p or 0 for p in parsed), np.int64, len(parsed)), usable
        encoded = [text.encode() for text in item_ids]
        width = self.ids.dtype.itemsize
        # A fixed-width array would cut a longer id, and drop a trailing NUL, and so match another item.
        usable = np.fromiter((len(e) <= width and not e.endswith(b"\0") for e in encoded), np.bool_, len(encoded))
        return np.array(encoded, dtype=self.ids.dtype), usable

    def _bytes(self, name: str) -> Array:
        chunks = self.table.column(name).chunks
        return chunks[0].to_numpy(zero_copy_only=True) if chunks else np.empty(0, np.uint8)

    def _plain(self, reference: str) -> Column:
        values, offsets = self.arrow(reference), None
        if self.is_list(reference):
            offsets = np.asarray(values.offsets)
            values = values.values
        status, valid, timestamps = self._worth(reference)
        data = values.to_numpy(zero_copy_only=True) if len(values) else np.empty(0, self.dtype(reference).numpy)
        dtype = self.dtype(reference)
        if dtype is DType.BOOL:
            data = data.view(np.bool_)
        return Column(dtype, data, status, valid, timestamps, offsets)

    def _text(self, reference: str, rows: npt.NDArray[np.int64]) -> Column:
        taken = self.arrow(reference).take(pa.array(rows))
        status, valid, timestamps = self._worth(reference)
        offsets = None
        if self.is_list(reference):
            offsets = np.asarray(taken.offsets)
            taken = taken.values
        values = np.empty(len(taken), object)
        values[:] = taken.to_pylist()
        return Column(DType.STRING, values, status[rows], valid[rows], timestamps[rows], offsets)

    def _worth(self, reference: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
        view = reference.partition(":")[0]
        chunks = self.table.column(f"{view}#timestamp").chunks
        timestamps = chunks[0].to_numpy(zero_copy_only=True) if chunks else np.empty(0, np.int64)
        return self._bytes(f"{reference}#status"), self.valid(reference), timestamps


def write_snapshot(folder: Path, ids: Array, columns: Mapping[str, Column]) -> None:
    """Writes a snapshot into an existing, empty folder.

    Args:
        folder: Where to write.
        ids: [n] int64 or str objects, ascending, each once.
        columns: By Feast reference, n rows each.

    Raises:
        ValueError: ids are not ascending and distinct, one is empty or ends in NUL, or a column has another length.
    """
    order = np.asarray(ids)
    if order.dtype != np.int64:
        order = _to_bytes(ids)
    if len(order) > 1 and not bool((order[1:] > order[:-1]).all()):
        raise ValueError("item ids must be ascending and distinct")
    arrays: dict[str, tuple[pa.Array, DType | None]] = {}
    for reference, column in columns.items():
        if len(column) != len(order):
            raise ValueError(f"{reference} has {len(column)} rows for {len(order)} items")
        arrays[reference] = (_to_arrow(column), column.dtype)
        arrays[f"{reference}#status"] = (pa.array(column.status), None)
        arrays[f"{reference}#valid"] = (pa.array(column.valid.view(np.uint8)), None)
        arrays.setdefault(f"{reference.partition(':')[0]}#timestamp", (pa.array(column.timestamps), None))
    fields = [
        pa.field(name, array.type, False, {_DTYPE_KEY: dtype.value.encode()} if dtype else None)
        for name, (array, dtype) in arrays.items()
    ]
    batch = pa.record_batch([array for array, _ in arrays.values()], schema=pa.schema(fields))
    np.save(folder / IDS_FILE, order, allow_pickle=False)
    with pa.OSFile(str(folder / FEATURES_FILE), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def open_snapshot(folder: Path) -> Snapshot:
    """Maps a snapshot into memory.

    Raises:
        CorruptArtifact: a file is missing or broken; names it.
    """
    ids_path, features_path = folder / IDS_FILE, folder / FEATURES_FILE
    try:
        ids = np.load(ids_path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptArtifact(f"{ids_path} can't be read: {error}") from error
    if ids.ndim != 1 or not (ids.dtype == np.int64 or ids.dtype.kind == "S"):
        raise CorruptArtifact(f"{ids_path} holds {ids.shape} {ids.dtype}, not a list of ids")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(features_path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise CorruptArtifact(f"{features_path} can't be read: {error}") from error
    if table.num_columns and table.num_rows != len(ids):
        raise CorruptArtifact(f"{features_path} has {table.num_rows} rows for {len(ids)} ids")
    return Snapshot(np.asarray(ids), table)


def _to_bytes(ids: Array) -> Array:
    encoded = [str(i).encode() for i in ids]
    for key in encoded:
        if not key or key.endswith(b"\0"):
            raise ValueError(f"item id {key.decode()!r} is empty or ends in NUL; a file of fixed width would lose that")
    return np.array(encoded, dtype=np.bytes_ if encoded else "S1")


def _to_arrow(column: Column) -> pa.Array:
    values = column.values.view(np.uint8) if column.dtype is DType.BOOL else column.values
    flat = pa.array(values, type=_ARROW[column.dtype])
    if column.offsets is None:
        return flat
    return pa.LargeListArray.from_arrays(pa.array(column.offsets, pa.int64()), flat)


def _parse_int64(text: str) -> int | None:
    try:
        value = int(text)
    except ValueError:
        return None
    return value if str(value) == text and -(2**63) <= value < 2**63 else None
