"""Inverted lists as files: built, written, opened. See inverted_lists.py for what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.inverted_lists import SMALL, InvertedLists
from feast_recsys.bundle.index.ivf import IvfIndex
from feast_recsys.bundle.index.library import all_cores, faiss
from feast_recsys.bundle.index.probing import Probing
from feast_recsys.bundle.index.protocol import Vectors
from feast_recsys.bundle.index.reduction import of_equal_length
from feast_recsys.bundle.index.scratch import Scratch
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.switching import Switching, unmeasured

INDEX_FILE, LISTS_FILE, FACTS_FILE = "index.faiss", "lists.npy", "facts.json"

_SAMPLE_PER_LIST = 64
_ROUNDS = 10
_CODES = 16  # of each part of a product code: no fewer items can be learnt from
_FEWEST = 39  # items of a list, on average
_ADDED = 65_536  # items that are widened at a time
_ROUNDING = 1e-4  # of squared lengths


def build_ivf(
    spec: IndexSpec, vectors: Vectors, folder: Path, *, progress: Callable[[int, int], None] | None = None
) -> None:
    """Writes the files of an index over [n, d] float32 vectors, n at least 1, into a folder.

    Args:
        spec: Its kind and `lists` count.
        vectors: The items.
        folder: Is made if it is not there.
        progress: Called with items done and their number.
    """
    library = faiss()
    n, d = vectors.shape
    lists, flat = lists_for(n, int(spec.build["lists"])), np.asarray(vectors, np.float32)
    equal = equally_long(flat)
    width = _width(spec.kind, d, equal)
    with all_cores():
        wide, last = (flat, 0.0) if equal else _made_equal(flat)
        searcher = _trained(spec.kind, wide, last, lists, width)
        assigned = np.empty(n, np.int32)
        for start in range(0, n, _ADDED):
            part = _widened(wide[start : start + _ADDED], last, width)
            keys = searcher.quantizer.search(part, 1)[1][:, 0]
            assigned[start : start + _ADDED] = keys
            if spec.kind == "ivf_pq":
                searcher.add(part)  # it packs codes in blocks, and does so here alone
            else:
                searcher.add_core(len(part), library.swig_ptr(part), None, library.swig_ptr(np.ascontiguousarray(keys)))
            if progress is not None:
                progress(min(start + _ADDED, n), n)
    folder.mkdir(parents=True, exist_ok=True)
    library.write_index(searcher, str(folder / INDEX_FILE))
    np.save(folder / LISTS_FILE, assigned, allow_pickle=False)
    (folder / FACTS_FILE).write_text(json.dumps({"dimension": d, "last": last}) + "\n", encoding="utf-8")


def open_ivf(spec: IndexSpec, folder: Path, vectors: Vectors, switching: Switching | None) -> IvfIndex:
    """Maps an index into memory.

    Raises:
        CorruptArtifact: a file is missing, broken, or of other vectors; names it.
    """
    library, path = faiss(), folder / INDEX_FILE
    try:
        searcher = library.read_index(str(path), library.IO_FLAG_MMAP | library.IO_FLAG_READ_ONLY)
        lists = np.load(folder / LISTS_FILE, mmap_mode="r", allow_pickle=False)
        facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
        shape, last = (len(lists), int(facts["dimension"])), np.float32(facts["last"])
    except (RuntimeError, OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise CorruptArtifact(f"{folder} holds no index that can be read: {error}") from error
    if not isinstance(searcher, library.IndexIVF):
        raise CorruptArtifact(f"{path} holds {type(searcher).__name__}, not inverted lists")
    (n, d), width = vectors.shape, _width(spec.kind, vectors.shape[1], not last)
    if shape != vectors.shape or (searcher.ntotal, searcher.d) != (n, width):
        raise CorruptArtifact(f"{folder} is of vectors {shape}, those beside it are {vectors.shape}")
    if lists.dtype != np.int32 or lists.min() < 0 or lists.max() >= searcher.nlist:
        raise CorruptArtifact(f"{folder / LISTS_FILE} names lists that are not there")
    _without_threads(library, searcher)
    probes = min(int(spec.search["probes"]), searcher.nlist)
    searcher.nprobe = probes
    sizes = np.bincount(lists, minlength=searcher.nlist)
    plan = switching or unmeasured(100, probes, searcher.nlist)
    flat = library.downcast_index(searcher.quantizer)
    centroids = library.rev_swig_ptr(flat.get_xb(), searcher.nlist * width).reshape(searcher.nlist, width)
    probing = Probing(centroids, sizes, n, probes, plan)
    return IvfIndex(InvertedLists(spec, vectors, searcher, last, probing, Scratch(width, d)), np.asarray(lists))


def lists_for(n: int, wanted: int) -> int:
    """Number of lists: as wanted, or four times the root of n, but with some items in each on average."""
    return max(1, min(wanted or round(4 * n**0.5), n // _FEWEST or 1))


def equally_long(vectors: Vectors) -> bool:
    """Whether [n, d] vectors are of one length, but for what rounding leaves."""
    squares = np.einsum("ij,ij->i", vectors, vectors)
    least, most = float(squares.min(initial=np.inf)), float(squares.max(initial=0.0))
    return most > 0.0 and least >= (1.0 - _ROUNDING) * most


def _made_equal(vectors: Vectors) -> tuple[Vectors, float]:
    """[n, d + 1] vectors of one length, and the last number of each item."""
    equal, length = of_equal_length(vectors)
    return equal, SMALL * length


def _trained(kind: str, wide: Vectors, last: float, lists: int, width: int) -> Any:
    """An empty index whose centroids are those of equally long vectors; directions where `last` is 0."""
    library = faiss()
    means = library.Kmeans(
        wide.shape[1],
        lists,
        niter=_ROUNDS,
        seed=1,
        max_points_per_centroid=_SAMPLE_PER_LIST,
        min_points_per_centroid=1,
        spherical=not last,
    )
    means.train(wide)
    centroids = np.asarray(means.centroids, np.float32)
    quantizer = library.IndexFlatIP(width)
    halves = -0.5 / last * np.einsum("ij,ij->i", centroids, centroids) if last else 0.0
    quantizer.add(_widened(centroids, halves, width))
    searcher = _empty(kind, quantizer, width, lists)
    sample = wide[:: max(len(wide) // (_SAMPLE_PER_LIST * lists), 1)]
    if len(sample) < _CODES:
        sample = np.resize(sample, (_CODES, wide.shape[1]))
    searcher.train(_widened(sample, last, width))
    return searcher


def _width(kind: str, d: int, equal: bool) -> int:
    """d, or d + 2, and what a kind wants: processors take 8 or 16 numbers at once, product codes are of two each."""
    unit = {"ivf_flat": 1 if equal else 8, "ivf_sq8": 16, "ivf_pq": 2}[kind]
    return -(-(d if equal else d + 2) // unit) * unit


def _widened(vectors: Vectors, last: float | npt.NDArray[np.float32], width: int) -> Vectors:
    """[n, width]: vectors, zeros, and a last column where it is not 0."""
    wide = np.zeros((len(vectors), width), np.float32)
    wide[:, : vectors.shape[1]] = vectors
    if np.any(last):
        wide[:, -1] = last
    return wide


def _empty(kind: str, quantizer: Any, width: int, lists: int) -> Any:
    library = faiss()
    metric = library.METRIC_INNER_PRODUCT
    if kind == "ivf_flat":
        return library.IndexIVFFlat(quantizer, width, lists, metric)
    if kind == "ivf_sq8":
        # Not of residuals: those of the last column would be far larger than the numbers that matter.
        eight = library.ScalarQuantizer.QT_8bit
        return library.IndexIVFScalarQuantizer(quantizer, width, lists, eight, metric, False)
    searcher = library.IndexIVFPQFastScan(quantizer, width, lists, width // 2, 4, metric)
    searcher.by_residual = False
    searcher.pq.cp.min_points_per_centroid = 1  # or it warns on the standard error
    return searcher


def _without_threads(library: Any, searcher: Any) -> None:
    """FAISS would start threads to read mapped lists ahead, with every search."""
    mapped = library.downcast_InvertedLists(searcher.invlists)
    if hasattr(mapped, "prefetch_nthread"):
        mapped.prefetch_nthread = 0
