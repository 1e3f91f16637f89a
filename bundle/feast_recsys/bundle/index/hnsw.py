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
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.library import all_cores, faiss
from feast_recsys.bundle.index.overfetching import OverfetchingIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.reduction import of_equal_length
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.switching import Switching, unmeasured

GRAPH_FILE = "graph.faiss"

_ADDED = 16_384  # items that are added between two reports of progress
_STEP = 1_000.0  # nanoseconds of a step of the search


@dataclass(frozen=True)
class HnswIndex(OverfetchingIndex):
    """An opened graph. A filter inside it would cut the ways that lead to what passes.

    Attributes:
        searcher: FAISS's index over [n, d + 1].
    """

    searcher: Any

    def nearest(self, query: npt.NDArray[np.float32], depth: int, effort: int) -> tuple[Rows, None]:
        """See OverfetchingIndex.nearest."""
        library = faiss()
        wide = np.zeros(self.searcher.d, np.float32)
        wide[: len(query)] = query
        distances, rows = np.empty(depth, np.float32), np.empty(depth, np.int64)
        pointer, parameters = library.swig_ptr, library.SearchParametersHNSW()
        parameters.efSearch = max(effort, depth)
        self.searcher.search_c(1, pointer(wide), depth, pointer(distances), pointer(rows), parameters)
        return rows if rows[-1] >= 0 else rows[rows >= 0], None

    @property
    def effort(self) -> int:
        """See OverfetchingIndex.effort: breadth of the search."""
        return int(self.spec.search["breadth"])

    @property
    def most_effort(self) -> int:
        """See OverfetchingIndex.most_effort."""
        return max(len(self), self.effort)

    def nanoseconds(self, depth: int, effort: int) -> float:
        """See OverfetchingIndex.nanoseconds."""
        return _STEP * max(effort, depth)


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


def open_hnsw(spec: IndexSpec, folder: Path, vectors: Vectors, switching: Switching | None) -> HnswIndex:
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
    breadth = int(spec.search["breadth"])
    plan = switching or unmeasured(100, breadth, max(len(vectors), breadth))
    return HnswIndex(spec, vectors, plan, searcher)
