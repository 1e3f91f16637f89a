"""Inverted lists as files: built, written, opened. See ivf.py for what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.ivf import SMALL, IvfIndex
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
    lists, width = lists_for(n, int(spec.build["lists"])), _width(spec.kind, d)
    with all_cores():
        equal, length = of_equal_length(np.asarray(vectors, np.float32))
        searcher = _trained(spec.kind, equal, length, lists, width)
        assigned = np.empty(n, np.int32)
        for start in range(0, n, _ADDED):
            part = _widened(equal[start : start + _ADDED], SMALL * length, width)
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
    (folder / FACTS_FILE).write_text(json.dumps({"dimension": d, "last": SMALL * length}) + "\n", encoding="utf-8")


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
    n, width = len(vectors), _width(spec.kind, vectors.shape[1])
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
    return IvfIndex(spec, vectors, searcher, np.asarray(lists), last, probing, Scratch(width))


def lists_for(n: int, wanted: int) -> int:
    """Number of lists: as wanted, or four times the root of n, but with some items in each on average."""
    return max(1, min(wanted or round(4 * n**0.5), n // _FEWEST or 1))


def _trained(kind: str, equal: Vectors, length: float, lists: int, width: int) -> Any:
    """An empty index whose centroids are those of [n, d + 1] vectors."""
    library, small = faiss(), SMALL * length
    means = library.Kmeans(
        equal.shape[1],
        lists,
        niter=_ROUNDS,
        seed=1,
        max_points_per_centroid=_SAMPLE_PER_LIST,
        min_points_per_centroid=1,
    )
    means.train(equal)
    centroids = np.asarray(means.centroids, np.float32)
    quantizer = library.IndexFlatIP(width)
    quantizer.add(_widened(centroids, -0.5 / small * np.einsum("ij,ij->i", centroids, centroids), width))
    searcher = _empty(kind, quantizer, width, lists)
    sample = equal[:: max(len(equal) // (_SAMPLE_PER_LIST * lists), 1)]
    if len(sample) < _CODES:
        sample = np.resize(sample, (_CODES, equal.shape[1]))
    searcher.train(_widened(sample, small, width))
    return searcher


def _width(kind: str, d: int) -> int:
    """d + 2, and what the codes of a kind want: vectors of processors take 16 numbers, product codes two each."""
    unit = {"ivf_flat": 1, "ivf_sq8": 16, "ivf_pq": 2}[kind]
    return -(-(d + 2) // unit) * unit


def _widened(vectors: Vectors, last: float | npt.NDArray[np.float32], width: int) -> Vectors:
    """[n, width]: [n, d + 1] vectors, zeros, and a last column."""
    wide = np.zeros((len(vectors), width), np.float32)
    wide[:, : vectors.shape[1]] = vectors
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
