"""Training sets larger than memory: features joined chunk by chunk into Arrow files.

A folder of `joined.json` and one Arrow IPC file a chunk, uncompressed, so that readers map it into memory and take
rows from where they lie. `models.data.streaming` is the reader.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.features.repo import Repo
from feast_recsys.features.training import point_in_time

MANIFEST_FILE = "joined.json"
CHUNK = 250_000  # rows joined at once
VALUES, STATUS, VALID, TIMESTAMPS = "values", "status", "valid", "timestamps"

_VERSION = 1
_DRAFT = ".draft"
_ROWS_KEY, _FACTS_KEY = b"rows", b"facts"
_ARROW = {
    DType.INT64: pa.int64(),
    DType.FLOAT32: pa.float32(),
    DType.BOOL: pa.uint8(),  # Arrow packs bools into bits, which NumPy can't map
    DType.STRING: pa.large_string(),
}

Rows = Callable[[int, int], pa.Table]
"""Rows `start` to `end` of the training set as `point_in_time` takes them: keys and `event_timestamp`."""

Join = Callable[[pa.Table], Mapping[str, Column]]
"""Features of some rows by reference, row i for row i."""


@dataclass(frozen=True)
class JoinedSet:
    """What a folder of joined features holds.

    Attributes:
        references: `view:feature`, in order.
        rows: In all.
        chunk: Rows of each file; the last one has what is left. A set without rows has one empty file.
    """

    references: tuple[str, ...]
    rows: int
    chunk: int

    @property
    def chunks(self) -> int:
        """Number of files."""
        return max(-(-self.rows // self.chunk), 1)

    @classmethod
    def load(cls, folder: Path) -> JoinedSet:
        """Reads the manifest.

        Raises:
            CorruptArtifact: it is missing, broken, or of another version.
        """
        path = folder / MANIFEST_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("version") != _VERSION:
                raise CorruptArtifact(f"{path} is of another version; remove the folder and join again")
            return cls(tuple(document["references"]), int(document["rows"]), int(document["chunk"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptArtifact(f"{path} can't be read: {error}; remove the folder and join again") from error


@dataclass(frozen=True)
class FieldFacts:
    """What a file says about one feature.

    Attributes:
        dtype: Of its values.
        is_list: Whether each row holds a list.
        longest: Most values of a list that may be used; 0 for a scalar.
    """

    dtype: DType
    is_list: bool
    longest: int


def chunk_path(folder: Path, number: int) -> Path:
    """The file of a chunk, counted from 0."""
    return folder / f"{number:06d}.arrow"


def write_joined(
    repo: Repo,
    references: Sequence[str],
    rows: Rows,
    total: int,
    folder: Path,
    *,
    how: Literal["auto", "local", "feast"] = "auto",
    chunk: int = CHUNK,
    progress: Callable[[int, int], None] | None = None,
) -> JoinedSet:
    """Joins features to the rows of a training set, some at a time, and writes them down; see `point_in_time`.

    Rows whose users lie together make a chunk of few users, and so an offline store's answer small.

    Args:
        repo: The repository.
        references: `view:feature`, of users, items, or both.
        rows: Makes the rows of a chunk; they need not be in memory all at once.
        total: Number of rows.
        folder: Where. Chunks that are there already and were made from the same rows stay as they are, so a join that
            was cut off goes on. Remove the folder when features have changed at their source.
        how: See `point_in_time`.
        chunk: Rows at once.
        progress: Called with the rows done and the total.

    Raises:
        InvalidArgument: the folder holds the join of other features, or of another number of rows; also see
            `point_in_time`.
        InvalidRepository: see `point_in_time`.
    """
    wanted = JoinedSet(tuple(dict.fromkeys(references)), total, chunk)
    return write_chunks(folder, wanted, rows, partial(point_in_time, repo, wanted.references, how=how), progress)


def write_chunks(
    folder: Path, wanted: JoinedSet, rows: Rows, join: Join, progress: Callable[[int, int], None] | None = None
) -> JoinedSet:
    """The same with any join; see `write_joined`."""
    if wanted.chunk < 1:
        raise InvalidArgument(f"chunk must be at least 1, not {wanted.chunk}", field="chunk")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST_FILE
    if manifest.exists():
        if JoinedSet.load(folder) != wanted:
            raise InvalidArgument(
                f"{folder} holds the join of other features or rows; remove it, or give another folder", field="folder"
            )
    else:
        if any(not path.name.endswith(_DRAFT) for path in folder.iterdir()):
            raise InvalidArgument(f"{folder} holds something else; give another folder", field="folder")
        _replace(manifest, json.dumps({"version": _VERSION} | asdict(wanted), indent=1).encode() + b"\n")
    for number in range(wanted.chunks):
        start = number * wanted.chunk
        end = min(start + wanted.chunk, wanted.rows)
        table = rows(start, end)
        if len(table) != end - start:
            raise InvalidArgument(f"{len(table)} rows were given for rows {start} to {end}", field="rows")
        made_from = _digest(table)
        path = chunk_path(folder, number)
        if _made_from(path) != made_from:
            columns = join(table)
            _write(path, {reference: columns[reference] for reference in wanted.references}, made_from)
        if progress is not None:
            progress(end, wanted.rows)
    return wanted


def facts_of(schema: pa.Schema) -> dict[str, FieldFacts]:
    """What a file's schema says, by reference.

    Raises:
        KeyError, ValueError: it says nothing of the kind.
    """
    document = json.loads((schema.metadata or {})[_FACTS_KEY])
    return {name: FieldFacts(DType(dtype), is_list, longest) for name, (dtype, is_list, longest) in document.items()}


def _write(path: Path, columns: Mapping[str, Column], made_from: str) -> None:
    arrays: dict[str, pa.Array] = {}
    facts: dict[str, tuple[str, bool, int]] = {}
    for reference, column in columns.items():
        arrays[f"{reference}/{VALUES}"] = _values(column)
        arrays[f"{reference}/{STATUS}"] = pa.array(column.status, pa.uint8())
        arrays[f"{reference}/{VALID}"] = pa.array(column.valid.view(np.uint8))
        arrays[f"{reference}/{TIMESTAMPS}"] = pa.array(column.timestamps, pa.int64())
        facts[reference] = (column.dtype.value, column.is_list, _longest(column))
    metadata = {_ROWS_KEY: made_from.encode(), _FACTS_KEY: json.dumps(facts).encode()}
    batch = pa.record_batch(arrays).replace_schema_metadata(metadata)
    draft = path.with_name(f".{path.name}{_DRAFT}")
    with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    draft.replace(path)


def _values(column: Column) -> pa.Array:
    values: Array = column.values.view(np.uint8) if column.dtype is DType.BOOL else column.values
    flat = pa.array(values, _ARROW[column.dtype], from_pandas=False)
    if column.offsets is None:
        return flat
    return pa.LargeListArray.from_arrays(pa.array(column.offsets, pa.int64()), flat)


def _longest(column: Column) -> int:
    if column.offsets is None:
        return 0
    return int(np.diff(column.offsets)[column.valid].max(initial=0))


def _digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def _made_from(path: Path) -> str | None:
    """The digest of the rows that a chunk was made from; None if there is no whole chunk."""
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            return (file.schema.metadata or {}).get(_ROWS_KEY, b"").decode() or None
    except (OSError, pa.ArrowInvalid):
        return None


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}{_DRAFT}")
    draft.write_bytes(content)
    draft.replace(path)
