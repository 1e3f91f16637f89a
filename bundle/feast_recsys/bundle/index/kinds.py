"""Indexes of every kind: written, opened, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.index import ivf_measuring, overfetching_measuring
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.hnsw import build_hnsw, open_hnsw
from feast_recsys.bundle.index.ivf import IvfIndex
from feast_recsys.bundle.index.ivf_files import build_ivf, lists_for, open_ivf
from feast_recsys.bundle.index.overfetching import OverfetchingIndex
from feast_recsys.bundle.index.protocol import Index, Vectors
from feast_recsys.bundle.index.remote import build_embedded, open_embedded
from feast_recsys.bundle.index.scann import build_scann, open_scann
from feast_recsys.bundle.index.spec import ENGINES, IndexSpec, spec_of
from feast_recsys.bundle.index.switching import Switching

_PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_BREADTHS = (100, 200, 400, 800)
_LEAVES = (10, 20, 40, 80, 160)
_LONGEST_SQUARE = 1e30
_LARGE_GRAPH = 300_000
"""Items from which graphs are not among the candidates: they take minutes to build, and lists are faster."""


def build_index(
    spec: IndexSpec, vectors: Vectors, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes the files of an index; see `remote.build_embedded` for engines that hold columns as well.

    Args:
        spec: Which.
        vectors: [n, d] float32, finite.
        folder: Where; made if it is not there. Exact search, and an index of nothing, have no files.
        progress: Called with items done and their number.

    Raises:
        InvalidSettings: its library is not installed; names the extra.
        JobFailed: a vector is too long for its square to be summed up in single precision; names its row.
    """
    _refuse_huge(vectors)
    folder.mkdir(parents=True, exist_ok=True)
    if spec.kind in ENGINES:
        build_embedded(spec, vectors, folder, progress=progress)
    elif spec.kind != "exact" and len(vectors):
        if spec.kind == "scann":
            build_scann(spec, vectors, folder)
            if progress is not None:
                progress(len(vectors), len(vectors))
        else:
            build = build_hnsw if spec.kind == "hnsw" else build_ivf
            build(spec, vectors, folder, progress=progress)


def _refuse_huge(vectors: Vectors) -> None:
    """Libraries end the process, or find nothing, where squares overflow."""
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    if len(squares) and squares.max() > _LONGEST_SQUARE:
        row = int(np.argmax(squares))
        raise JobFailed(
            f"the vector of row {row} is {np.sqrt(squares[row]):.3g} long, too long for single precision; "
            "let the model give smaller numbers",
            field="index",
        )


def open_index(spec: IndexSpec, folder: Path, vectors: Vectors, switching: Switching | None = None) -> Index:
    """Opens an index; its files are mapped into memory.

    Args:
        spec: As it was built; search parameters may differ.
        folder: Its files.
        vectors: What it was built of, mapped.
        switching: What was measured for filtered searches; None goes by a rule of thumb.

    Raises:
        InvalidSettings: its library is not installed; names the extra.
        CorruptArtifact: a file is missing, broken, or of other vectors; names it.
    """
    if spec.kind == "exact" or not len(vectors):
        return ExactIndex(vectors)
    if spec.kind in ENGINES:
        return open_embedded(spec, folder, vectors)
    if spec.kind == "hnsw":
        return open_hnsw(spec, folder, vectors, switching)
    if spec.kind == "scann":
        return open_scann(spec, folder, vectors, switching)
    return open_ivf(spec, folder, vectors, switching)


def measure_switching(index: Index, queries: Vectors, k: int, recall: float) -> Switching | None:
    """Measures which way filtered searches of an index should go.

    Args:
        index: An opened index.
        queries: [q, d] float32, of real users.
        k: Number of items.
        recall: What the lower end of a 95 % interval over the queries must reach.

    Returns:
        None for an index that needs no plan.
    """
    if isinstance(index, IvfIndex) and len(queries):
        return ivf_measuring.measure(index, queries, k, recall)
    if isinstance(index, OverfetchingIndex) and len(queries):
        return overfetching_measuring.measure(index, queries, k, recall)
    return None


def candidates(n: int, dimension: int) -> list[IndexSpec]:
    """What is worth measuring for n items, the cheapest search of each build first; none without their libraries."""
    found: list[IndexSpec] = []
    if find_spec("faiss") is not None:
        found += _lists(n)
        if n <= _LARGE_GRAPH:
            found += [spec_of("hnsw", {"links": 32, "breadth": breadth}) for breadth in _BREADTHS]
    if find_spec("scann") is not None:
        found += [spec_of("scann", {"leaves_searched": leaves}) for leaves in _LEAVES if leaves <= n**0.5]
    return found


def _lists(n: int) -> Iterator[IndexSpec]:
    """Few long lists and many short ones, since clusters may be of any size."""
    for kind, widenings in (("ivf_sq8", (1.5,)), ("ivf_flat", (None,)), ("ivf_pq", (2.0, 6.0))):
        for share in (1, 4):
            lists = lists_for(n, round(share * n**0.5))
            for probes in _PROBES:
                if probes <= lists // 2:
                    for widening in widenings:
                        extra = {} if widening is None else {"widening": widening}
                        yield spec_of(kind, {"lists": lists, "probes": probes, **extra})
