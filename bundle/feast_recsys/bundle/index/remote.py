"""Milvus and Qdrant as an index: they find candidates, and what comes back is checked and scored here.

A bundle keeps the vectors of its items in any case, mapped into memory. An engine's answer is therefore held against
what may come back, scored exactly, and where it has too few items, or the engine can't be asked exactly this question,
exact search answers over the rows that pass. So the engine decides on recall and time, and on nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact, IndexUnavailable, JobFailed, RecsysError
from feast_recsys.bundle.filter_plan import Plan
from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.breaker import Breaker
from feast_recsys.bundle.index.engine import MOST_EXCLUDED, Collection, Engine, fields_of
from feast_recsys.bundle.index.entry import Remote
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.milvus import embedded_milvus, milvus_server
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.qdrant import embedded_qdrant, qdrant_server
from feast_recsys.bundle.index.remote_filters import folded
from feast_recsys.bundle.index.rescoring import rescored
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.snapshot import Snapshot

COLLECTION = "items"
"""Name of the only collection of an embedded engine."""

FEW_ROWS = 10_000
"""Passing rows up to which exact search over them is quicker than any server: gathered and scored in 1.5 ms."""

MOST_WANTED = 10_000
"""Items that an engine is asked for at most; Milvus gives 16,384."""

_BATCH_BYTES, _BATCH_ROWS = 8 * 2**20, 5_000
_NO_ROWS = np.empty(0, np.int64)


class _Question(NamedTuple):
    where: Plan | None
    excluded: Rows


@dataclass(frozen=True, eq=False)
class RemoteIndex:
    """An index that an engine searches.

    Attributes:
        engine: Where.
        collection: What it searches.
        vectors: [n, d] float32, mapped: what it was filled with.
        few: Passing rows up to which a filter is left to exact search.
        breaker: Keeps searches from queueing while the engine is down.
    """

    engine: Engine
    collection: Collection
    vectors: Vectors
    few: int = FEW_ROWS
    breaker: Breaker = field(default_factory=Breaker, init=False, repr=False)

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def check(self) -> None:
        """Compares the number of items.

        Raises:
            IndexUnavailable: see Engine.
            CorruptArtifact: the collection is not there, or has not n items.
        """
        count, n = self.engine.count(self.collection.name), len(self)
        if count != n:
            holds = f"holds {count:,} items" if count >= 0 else "is not there"
            raise CorruptArtifact(
                f"{self.engine.place}: collection {self.collection.name} {holds}, but the bundle has {n:,}; "
                "materialize anew, or serve another bundle"
            )

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search.

        Raises:
            IndexUnavailable: see Engine.
        """
        m = min(k, len(self)) if allow is None else allow.up_to(min(k, len(self)))
        question = self._question(allow) if 0 < m <= MOST_WANTED and len(queries) else None
        answers = question and self.breaker.call(lambda: self._ask(queries, m, *question))
        if answers is None:
            return ExactIndex(self.vectors).search(queries, m, allow)
        found, scores = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        for n, (query, answer) in enumerate(zip(queries, answers, strict=True)):
            found[n], scores[n] = self._answer(query, answer, m, allow)
        return found, scores

    def _ask(self, queries: Vectors, m: int, where: Plan | None, excluded: Rows) -> Sequence[Rows] | None:
        return self.engine.search(self.collection, queries, m, where, excluded)

    def _question(self, allow: Allowed | None) -> _Question | None:
        """What to ask the engine; None where exact search is quicker, or nothing says the same."""
        if allow is None:
            return _Question(None, _NO_ROWS)
        if allow.most <= self.few:
            return None
        excluded: Rows = np.unique(allow.excluded) if isinstance(allow, Without) else _NO_ROWS
        where, passing = None, allow.filter
        if passing is not None:
            condition = folded(passing.condition) if passing.condition is not None else None
            if condition is None or condition is False:
                # Rows of some other origin. Where few are missing, these can be named.
                if len(passing) - passing.count + len(excluded) > MOST_EXCLUDED:
                    return None
                excluded = np.union1d(excluded, passing.blocked)
            elif condition is not True:
                where = condition
        return _Question(where, excluded) if len(excluded) <= MOST_EXCLUDED else None

    def _answer(
        self, query: npt.NDArray[np.float32], answer: Rows, m: int, allow: Allowed | None
    ) -> tuple[Rows, Vectors]:
        rows = np.unique(answer)
        rows = rows[(rows >= 0) & (rows < len(self))]
        if allow is not None:
            rows = rows[allow.mask.take(rows)]
        if len(rows) >= m:
            return rescored(self.vectors, query, rows, m)
        found, scores = ExactIndex(self.vectors).search(query[None], m, allow)
        return found[0], scores[0]


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
