"""Milvus and Qdrant as an index: collections filled and opened. See remote_index.py for how they are searched."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

from feast_recsys.bundle.errors import CorruptArtifact, IndexUnavailable, JobFailed, RecsysError
from feast_recsys.bundle.index.engine import Collection, Engine, fields_of
from feast_recsys.bundle.index.entry import Remote
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.milvus import embedded_milvus, milvus_server
from feast_recsys.bundle.index.protocol import Index, Vectors
from feast_recsys.bundle.index.qdrant import embedded_qdrant, qdrant_server
from feast_recsys.bundle.index.remote_index import FEW_ROWS, RemoteIndex
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.snapshot import Snapshot

COLLECTION = "items"
"""Name of the only collection of an embedded engine."""

_BATCH_BYTES, _BATCH_ROWS = 8 * 2**20, 5_000


def connect(kind: str, address: str, timeout_seconds: float = 1.0) -> Engine:
    """Connects to a server.

    Args:
        kind: `milvus` or `qdrant`.
        address: Of the server. Its secret comes from the environment: MILVUS_TOKEN or QDRANT_API_KEY.
        timeout_seconds: How long one search may take. What a job does may take longer.

    Raises:
        InvalidSettings: the client is not installed; names the extra.
        IndexUnavailable: nobody answers there, or not to us.
    """
    return (milvus_server if kind == "milvus" else qdrant_server)(address, timeout_seconds)


def fill(
    engine: Engine,
    name: str,
    spec: IndexSpec,
    vectors: Vectors,
    snapshot: Snapshot | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Makes a collection of a whole catalogue, in place of one of that name: created, upserted, finished, counted.

    Args:
        engine: Where.
        name: Of the collection.
        spec: Its parameters.
        vectors: [n, d] float32.
        snapshot: Its columns are stored for filters; None for none.
        progress: Called with items written and their number.

    Raises:
        IndexUnavailable: see Engine.
        JobFailed: there are not n items in it afterwards.
    """
    n, collection = len(vectors), _collection(name, spec, vectors, snapshot)
    engine.drop(name)
    engine.create(collection)
    size = _batch(vectors, snapshot)
    for start in range(0, n, size):
        rows = np.arange(start, min(start + size, n), dtype=np.int64)
        columns = {key: snapshot.gather(key, rows) for key in collection.fields} if snapshot is not None else {}
        engine.upsert(collection, rows, vectors[rows[0] : rows[-1] + 1], columns)
        if progress is not None:
            progress(int(rows[-1]) + 1, n)
    engine.finish(collection)
    count = engine.count(name)
    if count != n:
        raise JobFailed(f"{engine.place}: {n:,} items were written to collection {name}, but it has {count:,}")


def open_remote(
    spec: IndexSpec, remote: Remote, vectors: Vectors, snapshot: Snapshot | None = None, *, few: int = FEW_ROWS
) -> RemoteIndex:
    """Opens the collection of a server.

    Args:
        spec: As it was filled; search parameters may differ.
        remote: Where it is.
        vectors: [n, d] float32, mapped: what it was filled with.
        snapshot: What it was filled with.
        few: See RemoteIndex.

    Raises:
        InvalidSettings: see `connect`.
        IndexUnavailable: the server does not answer.
        CorruptArtifact: the collection is not there, or has not n items; names both.
    """
    engine = connect(spec.kind, remote.address, remote.timeout_seconds)
    index = RemoteIndex(engine, _collection(remote.collection, spec, vectors, snapshot), vectors, few)
    weakref.finalize(index, engine.close)
    index.check()
    return index


def build_embedded(
    spec: IndexSpec,
    vectors: Vectors,
    folder: Path,
    snapshot: Snapshot | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the files of an embedded engine into a folder, which is made; see `fill`.

    Qdrant has none: its local mode holds all in memory, and is filled when it is opened. (It could keep pickles, which
    whoever opens them executes.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    if spec.kind == "milvus" and len(vectors):
        engine = embedded_milvus(folder)
        try:
            fill(engine, COLLECTION, spec, vectors, snapshot, progress=progress)
        finally:
            engine.close()
    elif progress is not None:
        progress(len(vectors), len(vectors))


def open_embedded(
    spec: IndexSpec, folder: Path, vectors: Vectors, snapshot: Snapshot | None = None, *, few: int = FEW_ROWS
) -> Index:
    """Opens an embedded engine, which goes with the index.

    Milvus Lite locks its files and writes to them, so each process opens a copy of its own in a temporary folder.

    Args:
        spec: As it was built; search parameters may differ.
        folder: Its files.
        vectors: [n, d] float32, mapped: what it was built of.
        snapshot: What it was built of.
        few: See RemoteIndex.

    Raises:
        InvalidSettings: the client is not installed; names the extra.
        CorruptArtifact: a file is missing or broken, or the collection has not n items; names the folder.
    """
    if not len(vectors):
        return ExactIndex(vectors)
    copy = Path(tempfile.mkdtemp(prefix="feast-recsys-")) if spec.kind == "milvus" else None
    try:
        if copy is None:
            engine: Engine = embedded_qdrant()
        else:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
            engine = embedded_milvus(copy)
    except (IndexUnavailable, OSError) as error:
        _remove(copy)
        raise CorruptArtifact(f"{folder} holds no index that can be read: {error}") from error
    except RecsysError:
        _remove(copy)
        raise
    index = RemoteIndex(engine, _collection(COLLECTION, spec, vectors, snapshot), vectors, few)
    end = weakref.finalize(index, _end, engine, copy)
    try:
        if copy is None:
            fill(engine, COLLECTION, spec, vectors, snapshot)
        index.check()
    except IndexUnavailable as error:
        end()
        raise CorruptArtifact(f"{folder} holds no index that can be read: {error}") from error
    return index


def _end(engine: Engine, copy: Path | None) -> None:
    engine.close()
    _remove(copy)


def _remove(copy: Path | None) -> None:
    if copy is not None:
        shutil.rmtree(copy, ignore_errors=True)


def _collection(name: str, spec: IndexSpec, vectors: Vectors, snapshot: Snapshot | None) -> Collection:
    return Collection(name, int(vectors.shape[1]), fields_of(snapshot) if snapshot is not None else {}, spec)


def _batch(vectors: Vectors, snapshot: Snapshot | None) -> int:
    """Items that are sent at a time."""
    each = vectors.shape[1] * 4 + (snapshot.table.nbytes / max(len(snapshot), 1) if snapshot is not None else 0)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(each, 1))))
