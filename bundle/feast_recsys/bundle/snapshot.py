"""The catalogue snapshot: every item's features at one moment, as memory-mapped columns.

A snapshot is a folder of three files. `ids.npy` holds the item ids in ascending order, as int64 or as UTF-8 bytes of
fixed width. `rows.npy` is the table that leads from ids to rows (see `lookup`), so that no process needs a dictionary.
`features.arrow` is an Arrow IPC file of one record batch: per feature its values (without nulls) and, under
`<reference>#status` and `#valid`, what they are worth; per view `<view>#timestamp`. Texts that repeat are there a
second time, under `<reference>#coded`, as numbers of the distinct ones: filters compare those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.ids import WORD, encode_words, pack_texts, parse_integers, texts_of
from feast_recsys.bundle.lookup import UNKNOWN_ROW, Lookup, Rows, build_table, open_lookup

__all__ = ["FEATURES_FILE", "IDS_FILE", "ROWS_FILE", "UNKNOWN_ROW", "Snapshot", "open_snapshot", "write_snapshot"]

IDS_FILE = "ids.npy"
ROWS_FILE = "rows.npy"
FEATURES_FILE = "features.arrow"

_ARROW = {DType.INT64: pa.int64(), DType.FLOAT32: pa.float32(), DType.BOOL: pa.uint8(), DType.STRING: pa.large_string()}
_DTYPE_KEY = b"recsys.dtype"

# Texts are coded where each comes so often on average; a dictionary of texts that hardly repeat saves nothing.
_REPEATED = 8


@dataclass(frozen=True)
class Snapshot:
    """All items and their features. Rows follow the ids in ascending order.

    Attributes:
        ids: [n] int64, or UTF-8 bytes of fixed width; ascending, each once.
        table: The features, one chunk per column.
        lookup: Leads from ids to rows.
    """

    ids: Array
    table: pa.Table
    lookup: Lookup
    # Columns by feature as they lie in the maps. Filled as they are asked for; two threads that do it at once agree.
    _views: dict[str, _View] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def key_dtype(self) -> DType:
        """Type of the item ids: INT64 or STRING."""
        return DType.INT64 if self.ids.dtype == np.int64 else DType.STRING

    @cached_property
    def references(self) -> tuple[str, ...]:
        """Feast references of the features held."""
        return tuple(name for name in self.table.column_names if "#" not in name)

    def dtype(self, reference: str) -> DType:
        """Element type of a feature; KeyError if it is not held."""
        return self._view(reference).whole.dtype

    def is_list(self, reference: str) -> bool:
        """Whether a feature is a list; KeyError if it is not held."""
        return self._view(reference).whole.is_list

    def rows(self, item_ids: Sequence[str]) -> Rows:
        """Row of each id, UNKNOWN_ROW where the catalogue has no such item.

        Args:
            item_ids: Ids as text. Integer ids count only in their plain form: "7", not "007" or "+7".
        """
        if not len(self) or not item_ids:
            return np.full(len(item_ids), UNKNOWN_ROW, np.int64)
        if self.key_dtype is DType.STRING:
            return self.lookup.rows(encode_words(item_ids, self.ids.dtype.itemsize // WORD))
        values, plain = parse_integers(item_ids)
        rows = self.lookup.rows(values)
        if plain is not None:
            rows[~plain] = UNKNOWN_ROW
        return rows

    def rows_of_keys(self, keys: Array) -> Rows:
        """Row of each id, UNKNOWN_ROW where the catalogue has no such item.

        Args:
            keys: [m] ids by their Feast type, as in a list feature: int64, or an object array of str. A number finds
                the item whose text id is its plain form, and the other way round.
        """
        if not len(self) or not len(keys):
            return np.full(len(keys), UNKNOWN_ROW, np.int64)
        if keys.dtype == np.int64 and self.key_dtype is DType.INT64:
            return self.lookup.rows(keys)
        return self.rows([str(key) for key in keys.tolist()])

    def ids_of(self, rows: Rows) -> list[str]:
        """Ids of the given rows, as text."""
        return texts_of(self.ids[rows])

    def keys_of(self, rows: Rows) -> Array:
        """Ids of the given rows by their Feast type: int64, or an object array of str."""
        if self.key_dtype is DType.INT64:
            return self.ids[rows]
        return np.array(self.ids_of(rows), dtype=object)

    def gather(self, reference: str, rows: Rows) -> Column:
        """One feature of the given rows, in that order; KeyError if the feature is not held."""
        view = self._view(reference)
        return view.whole.take(rows) if view.whole.dtype is not DType.STRING else _take_text(view, rows)

    def column(self, reference: str) -> Column:
        """One feature of all items; KeyError if it is not held."""
        return self.gather(reference, np.arange(len(self)))

    def arrow(self, reference: str) -> pa.Array:
        """The raw Arrow values of one feature; slots without a value hold the dtype's zero."""
        return self._view(reference).arrow

    def coded(self, reference: str) -> pa.DictionaryArray | None:
        """The texts of `arrow`, or the elements of its lists, as numbers of distinct ones; None if they hardly repeat.

        Comparing numbers takes a tenth of the time or less.
        """
        return self._view(reference).coded

    def valid(self, reference: str) -> npt.NDArray[np.bool_]:
        """[n] whether each item has a usable value."""
        return self._view(reference).whole.valid

    def meta(self, reference: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """[n] the status and the event time in unix seconds of one feature; KeyError if it is not held."""
        whole = self._view(reference).whole
        return whole.status, whole.timestamps

    def _view(self, reference: str) -> _View:
        view = self._views.get(reference)
        if view is None:
            view = self._views[reference] = self._map(reference)
        return view

    def _map(self, reference: str) -> _View:
        described, chunked = self.table.schema.field(reference), self.table.column(reference)
        dtype = DType(described.metadata[_DTYPE_KEY].decode())
        arrow = chunked.chunk(0) if chunked.num_chunks else chunked.combine_chunks()
        elements, offsets = arrow, None
        if pa.types.is_large_list(described.type):
            elements, offsets = arrow.values, np.asarray(arrow.offsets)
        values = np.empty(0, dtype.numpy)
        if dtype is not DType.STRING and len(elements):
            values = elements.to_numpy(zero_copy_only=True).view(dtype.numpy)
        status, valid = self._array(f"{reference}#status", np.uint8), self._array(f"{reference}#valid", np.uint8)
        timestamps = self._array(f"{reference.partition(':')[0]}#timestamp", np.int64)
        coded = None
        if f"{reference}#coded" in self.table.column_names and chunked.num_chunks:
            coded = self.table.column(f"{reference}#coded").chunk(0)
            coded = coded.values if offsets is not None else coded
        return _View(Column(dtype, values, status, valid.view(np.bool_), timestamps, offsets), arrow, coded)

    def _array(self, name: str, dtype: npt.DTypeLike) -> Array:
        chunks = self.table.column(name).chunks
        return chunks[0].to_numpy(zero_copy_only=True) if chunks else np.empty(0, dtype)


@dataclass(frozen=True)
class _View:
    """One feature of all items as it lies in the file, found once.

    Attributes:
        whole: All items. Of strings without the values: they are made when they are taken.
        arrow: The same as Arrow has it.
        coded: Its texts as numbers, if there are such; of lists the elements.
    """

    whole: Column
    arrow: pa.Array
    coded: pa.DictionaryArray | None


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
        order = pack_texts(ids)
    if len(order) > 1 and not bool((order[1:] > order[:-1]).all()):
        raise ValueError("item ids must be ascending and distinct")
    arrays: dict[str, tuple[pa.Array, DType | None]] = {}
    for reference, column in columns.items():
        if len(column) != len(order):
            raise ValueError(f"{reference} has {len(column)} rows for {len(order)} items")
        arrays[reference] = (_to_arrow(column), column.dtype)
        if (coded := _coded(arrays[reference][0])) is not None:
            arrays[f"{reference}#coded"] = (coded, None)
        arrays[f"{reference}#status"] = (pa.array(column.status), None)
        arrays[f"{reference}#valid"] = (pa.array(column.valid.view(np.uint8)), None)
        arrays.setdefault(f"{reference.partition(':')[0]}#timestamp", (pa.array(column.timestamps), None))
    fields = [
        pa.field(name, array.type, False, {_DTYPE_KEY: dtype.value.encode()} if dtype else None)
        for name, (array, dtype) in arrays.items()
    ]
    batch = pa.record_batch([array for array, _ in arrays.values()], schema=pa.schema(fields))
    np.save(folder / IDS_FILE, order, allow_pickle=False)
    np.save(folder / ROWS_FILE, build_table(order), allow_pickle=False)
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
    texts = ids.dtype.kind == "S" and ids.dtype.itemsize % WORD == 0
    if ids.ndim != 1 or not (ids.dtype == np.int64 or texts):
        raise CorruptArtifact(f"{ids_path} holds {ids.shape} {ids.dtype}, not a list of ids")
    try:
        table = pa.ipc.open_file(pa.memory_map(str(features_path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise CorruptArtifact(f"{features_path} can't be read: {error}") from error
    if table.num_columns and table.num_rows != len(ids):
        raise CorruptArtifact(f"{features_path} has {table.num_rows} rows for {len(ids)} ids")
    return Snapshot(np.asarray(ids), table, open_lookup(folder / ROWS_FILE, np.asarray(ids)))


def _take_text(view: _View, rows: Rows) -> Column:
    whole, taken, offsets = view.whole, view.arrow.take(pa.array(rows)), None
    if whole.is_list:
        taken, offsets = taken.values, np.asarray(taken.offsets)
    values = taken.to_numpy(zero_copy_only=False)
    return Column(whole.dtype, values, whole.status[rows], whole.valid[rows], whole.timestamps[rows], offsets)


def _coded(array: pa.Array) -> pa.Array | None:
    """An array of texts, or of lists of texts, with these as numbers of distinct ones; None of anything else."""
    is_list = pa.types.is_large_list(array.type)
    texts = array.values if is_list else array
    if not pa.types.is_large_string(texts.type):
        return None
    coded = texts.dictionary_encode()
    if len(coded.dictionary) * _REPEATED > len(coded):
        return None
    return pa.LargeListArray.from_arrays(array.offsets, coded) if is_list else coded


def _to_arrow(column: Column) -> pa.Array:
    values = column.values.view(np.uint8) if column.dtype is DType.BOOL else column.values
    flat = pa.array(values, type=_ARROW[column.dtype])
    if column.offsets is None:
        return flat
    return pa.LargeListArray.from_arrays(pa.array(column.offsets, pa.int64()), flat)
