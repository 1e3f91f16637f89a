"""Hierarchical navigable small worlds (Malkov and Yashunin 2018), by FAISS.

The graph joins items that are near each other once all are equally long (see reduction.py): with inner products
throughout, it finds .40 of the 100 best among factors of Gowalla's 40,981 items, whatever the breadth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.library import all_cores, faiss, one_thread
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.reduction import of_equal_length
from feast_recsys.bundle.index.rescoring import rescored
from feast_recsys.bundle.index.spec import IndexSpec

GRAPH_FILE = "graph.faiss"

_ADDED = 16_384  # items that are added between two reports of progress

# Nanoseconds of a step of the search in a graph, and of an item that exact search gathers or scores. Measured on
# 100,000 and 1,000,000 vectors of 64 numbers, one thread; only their ratios matter.
_STEP, _GATHERED, _SCORED = 1_000.0, 8.0, 8.0


@dataclass(frozen=True)
class HnswIndex:
    """An opened graph.

    A search that may not return everything asks for more items, and drops those that must not come back: inside the
    graph, a filter would cut the ways that lead to what passes. Where few may come back, exact search over them takes
    less time.

    Attributes:
        spec: How it is built and searched.
        vectors: [n, d] float32, mapped: what scores are computed with.
        searcher: FAISS's index over [n, d + 1].
    """

    spec: IndexSpec
    vectors: Vectors
    searcher: Any

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search."""
        m = min(k, len(self)) if allow is None else allow.up_to(min(k, len(self)))
        found = np.empty((len(queries), m), np.int64)
        scores = np.empty((len(queries), m), np.float32)
        if m:
            for n in range(len(queries)):
                found[n], scores[n] = self._one(queries[n : n + 1], m, allow)
        return found, scores

    def _one(self, query: Vectors, m: int, allow: Allowed | None) -> tuple[Rows, Vectors]:
        for depth in [m] if allow is None else self._depths(m, allow):
            rows = self.nearest(query, depth)
            if allow is not None:
                rows = rows[allow.mask.take(rows)]
            if len(rows) >= m:
                return rescored(self.vectors, query[0], rows, m)
        rows, scores = ExactIndex(self.vectors).search(query, m, allow)
        return rows[0], scores[0]

    def _depths(self, m: int, allow: Allowed) -> list[int]:
        """How many items to ask for, and how many if that was too few, as long as exact search takes no less time."""
        n = len(self)
        excluded = len(allow.excluded) if isinstance(allow, Without) else 0
        share = allow.most / n
        exact = min(_GATHERED * allow.most, _SCORED * n)
        # What a request excludes may be the very best items, or lie anywhere.
        hopeful = m / share + min(excluded, m)
        careful = 1.5 * m / share + excluded
        return [
            round(depth)
            for depth in (hopeful, careful)
            if depth <= n and _STEP * self._breadth(depth, m) < exact
        ]  # fmt: skip

    def _breadth(self, depth: float, m: int) -> float:
        """The breadth that finds so many as well as the wanted breadth finds m."""
        wanted: float = self.spec.search["breadth"] * max(depth / m, 1.0) ** 0.75
        return max(wanted, depth)

    def nearest(self, query: Vectors, depth: int, breadth: int | None = None) -> Rows:
        """At most `depth` rows for one query [1, d], the best first as far as the graph knows."""
        library = faiss()
        wide = np.zeros((1, self.searcher.d), np.float32)
        wide[:, : self.dimension] = query
        distances, rows = np.empty((1, depth), np.float32), np.empty((1, depth), np.int64)
        wanted = breadth or round(self._breadth(depth, min(depth, 100)))
        pointer, parameters = library.swig_ptr, library.SearchParametersHNSW()
        parameters.efSearch = wanted
        one_thread()
        self.searcher.search_c(1, pointer(wide), depth, pointer(distances), pointer(rows), parameters)
        found: Rows = rows[0]
        return found if found[-1] >= 0 else found[found >= 0]


def build_hnsw(
    spec: IndexSpec, vectors: Vectors, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes the graph of [n, d] float32 vectors, n at least 1, into a folder.

    Args:
        spec: Its `links` and `building` count.
        vectors: The items.
        folder: Is made if it is not there.
        progress: Called with items done and their number.
    """
    library = faiss()
    equal, _ = of_equal_length(np.asarray(vectors, np.float32))
    searcher = library.IndexHNSWFlat(equal.shape[1], int(spec.build["links"]), library.METRIC_L2)
    searcher.hnsw.efConstruction = int(spec.build["building"])
    with all_cores():
        for start in range(0, len(equal), _ADDED):
            searcher.add(equal[start : start + _ADDED])
            if progress is not None:
                progress(min(start + _ADDED, len(equal)), len(equal))
    folder.mkdir(parents=True, exist_ok=True)
    library.write_index(searcher, str(folder / GRAPH_FILE))


def open_hnsw(spec: IndexSpec, folder: Path, vectors: Vectors) -> HnswIndex:
    """Maps a graph into memory.

    Raises:
        CorruptArtifact: the file is missing, broken, or of other vectors; names it.
    """
    library, path = faiss(), folder / GRAPH_FILE
    try:
        searcher = library.read_index(str(path), library.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if not isinstance(searcher, library.IndexHNSW):
        raise CorruptArtifact(f"{path} holds {type(searcher).__name__}, not a graph")
    if (searcher.ntotal, searcher.d) != (len(vectors), vectors.shape[1] + 1):
        raise CorruptArtifact(f"{path} has {searcher.ntotal} items, the vectors beside it are {vectors.shape}")
    return HnswIndex(spec, vectors, searcher)
