"""USearch and hnswlib, graphs of neighbours with a library of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.spec import Number

LINKS = {"usearch": (16, 32), "hnswlib": (16, 32)}
"""By library, the numbers of neighbours that are tried."""

_BUILDING = {"usearch": 128, "hnswlib": 100}  # breadth of the search for an item's neighbours
_FILE = "graph"


def build(library: str, parameters: Mapping[str, Number], items: Vectors, folder: Path, threads: int) -> None:
    """Writes a graph by inner product; float32, as all others have it.

    Args:
        library: `usearch` or `hnswlib`.
        parameters: `links`.
        items: [n, d] float32.
        folder: Where the file goes.
        threads: To build with.
    """
    (n, dimension), links, path = items.shape, int(parameters["links"]), str(folder / _FILE)
    if library == "usearch":
        graph = _usearch(dimension, links)
        graph.add(np.arange(n), items, threads=threads)
        graph.save(path)
    else:
        import hnswlib

        graph = hnswlib.Index(space="ip", dim=dimension)
        graph.init_index(max_elements=n, M=links, ef_construction=_BUILDING[library], random_seed=1)
        graph.add_items(items, np.arange(n), num_threads=threads)
        graph.save_index(path)


class Usearch:
    """A graph of USearch. Its Python package knows no filter.

    Args:
        graph: USearch's.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def prepare(self, effort: int) -> None:
        """See Opened.prepare."""
        self._graph.expansion_search = effort

    def search(self, query: Vectors, k: int) -> Rows:
        """See Opened.search."""
        return np.asarray(self._graph.search(query[0], k, threads=1).keys, np.int64)

    def own_filter(self, allow: Allowed) -> None:
        """See Opened.own_filter."""

    def filtered(self, query: Vectors, k: int, own_filter: Any) -> Rows:
        """See Opened.filtered."""
        raise NotImplementedError("USearch's Python package knows no filter")


class Hnswlib:
    """A graph of hnswlib. A filter is a Python function that it asks for each item on its way.

    Args:
        graph: hnswlib's.
    """

    def __init__(self, graph: Any) -> None:
        self._graph = graph

    def prepare(self, effort: int) -> None:
        """See Opened.prepare."""
        self._graph.set_ef(effort)

    def search(self, query: Vectors, k: int) -> Rows:
        """See Opened.search."""
        return np.asarray(self._graph.knn_query(query, k, num_threads=1)[0][0], np.int64)

    def own_filter(self, allow: Allowed) -> Any:
        """See Opened.own_filter."""
        return allow.mask.tolist().__getitem__

    def filtered(self, query: Vectors, k: int, own_filter: Any) -> Rows:
        """See Opened.filtered; nothing where it finds fewer than k, for then it raises."""
        try:
            found = self._graph.knn_query(query, k, num_threads=1, filter=own_filter)[0][0]
        except RuntimeError:
            return np.empty(0, np.int64)
        return np.asarray(found, np.int64)


def open_graph(library: str, dimension: int, folder: Path) -> Usearch | Hnswlib:
    """Reads a graph into memory."""
    if library == "usearch":
        graph = _usearch(dimension, 0)
        graph.load(str(folder / _FILE))
        return Usearch(graph)
    import hnswlib

    graph = hnswlib.Index(space="ip", dim=dimension)
    graph.load_index(str(folder / _FILE))
    return Hnswlib(graph)


def _usearch(dimension: int, links: int) -> Any:
    from usearch.index import Index

    if not links:
        return Index(ndim=dimension, metric="ip", dtype="f32")
    breadth = _BUILDING["usearch"]
    return Index(ndim=dimension, metric="ip", dtype="f32", connectivity=links, expansion_add=breadth)
