"""FAISS called as its own documentation does it: indexes by inner product over the items as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.ivf_files import lists_for
from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.spec import Number

FILE = "index.faiss"

# As many as our own lists learn from, so that building is compared, not sampling.
_SAMPLE_PER_LIST = 64


def build(kind: str, parameters: Mapping[str, Number], items: Vectors, folder: Path, threads: int) -> None:
    """Builds what `index_factory` makes of a kind.

    Args:
        kind: `ivf_flat`; `ivf_sq8` or `ivf_pq`, with exact scores for the best of their codes; or `hnsw`.
        parameters: `lists`; `links` and `building` of a graph.
        items: [n, d] float32.
        folder: Where the file goes.
        threads: To build with.
    """
    library = faiss()
    before = library.omp_get_max_threads()
    library.omp_set_num_threads(threads)
    index = library.index_factory(
        items.shape[1], _factory(kind, parameters, *items.shape), library.METRIC_INNER_PRODUCT
    )
    if kind == "hnsw":
        index.hnsw.efConstruction = int(parameters["building"])
    else:
        lists = _lists(index)
        lists.cp.max_points_per_centroid, lists.cp.min_points_per_centroid = _SAMPLE_PER_LIST, 1
        if kind == "ivf_pq":
            lists.pq.cp.min_points_per_centroid = 1
    index.train(items)
    index.add(items)
    library.write_index(index, str(folder / FILE))
    library.omp_set_num_threads(before)


class BareFaiss:
    """An index of FAISS, read into memory.

    Args:
        index: FAISS's.
        graph: Whether it is one; else it has inverted lists.
        widening: How many times k codes are compared exactly; None without codes.
    """

    def __init__(self, index: Any, *, graph: bool, widening: float | None) -> None:
        self._index, self._graph, self._widening = index, graph, widening
        if widening is not None:
            index.k_factor = widening
        self._effort = 1

    def prepare(self, effort: int) -> None:
        """See Opened.prepare."""
        self._effort = effort
        if self._graph:
            self._index.hnsw.efSearch = effort
        else:
            _lists(self._index).nprobe = effort

    def search(self, query: Vectors, k: int) -> Rows:
        """See Opened.search."""
        rows: Rows = self._index.search(query, k)[1][0]
        return rows

    def own_filter(self, allow: Allowed) -> Any:
        """See Opened.own_filter."""
        library = faiss()
        selector = library.IDSelectorBitmap(np.packbits(allow.mask, bitorder="little"))
        if self._graph:
            return library.SearchParametersHNSW(sel=selector, efSearch=self._effort)
        parameters = library.SearchParametersIVF(sel=selector, nprobe=self._effort)
        if self._widening is None:
            return parameters
        return library.IndexRefineSearchParameters(base_index_params=parameters, k_factor=self._widening)

    def filtered(self, query: Vectors, k: int, own_filter: Any) -> Rows:
        """See Opened.filtered."""
        rows: Rows = self._index.search(query, k, params=own_filter)[1][0]
        return rows


def open_bare(kind: str, fixed: Mapping[str, Number], folder: Path) -> BareFaiss:
    """Reads an index into memory."""
    index, widening = faiss().read_index(str(folder / FILE)), fixed.get("widening")
    return BareFaiss(index, graph=kind == "hnsw", widening=None if widening is None else float(widening))


def _factory(kind: str, parameters: Mapping[str, Number], n: int, dimension: int) -> str:
    if kind == "hnsw":
        return f"HNSW{int(parameters['links'])},Flat"
    lists = lists_for(n, int(parameters["lists"]))
    codes = {"ivf_flat": "Flat", "ivf_sq8": "SQ8,RFlat", "ivf_pq": f"PQ{dimension // 2}x4fs,RFlat"}[kind]
    return f"IVF{lists},{codes}"


def _lists(index: Any) -> Any:
    """The inverted lists of an index, below what refines their answers."""
    library = faiss()
    found = library.downcast_index(index)
    return library.downcast_index(found.base_index) if hasattr(found, "base_index") else found
