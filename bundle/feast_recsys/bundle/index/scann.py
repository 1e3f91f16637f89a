"""Anisotropic vector quantization (Guo et al. 2020), by ScaNN, which is an extra of its own."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact, InvalidSettings
from feast_recsys.bundle.index.overfetching import OverfetchingIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.rescoring import FEWEST_CODES
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.index.switching import Switching, unmeasured

CONFIGURATION_FILE = "scann_config.pb"

# As ScaNN's authors recommend: numbers of a code, and how much more error along an item counts than across it.
_NUMBERS, _THRESHOLD = 2, 0.2
_FEWEST = 256  # items from which leaves and codes can be learnt; fewer are compared one by one
_SAMPLE = 250_000
_LEAF, _COMPARED = 1_000.0, 50.0  # nanoseconds of a leaf, and of an item compared exactly


@dataclass(frozen=True)
class ScannIndex(OverfetchingIndex):
    """An opened index.

    Attributes:
        searcher: ScaNN's.
    """

    searcher: Any

    def nearest(self, query: npt.NDArray[np.float32], depth: int, effort: int) -> tuple[Rows, Vectors]:
        """See OverfetchingIndex.nearest. ScaNN itself compares what it found by the vectors."""
        wanted = max(depth, FEWEST_CODES, self.switching.depths[0])
        wide = min(ceil(wanted * self.spec.search["widening"]), len(self))
        rows, scores = self.searcher.search(query, depth, wide, effort)
        return np.asarray(rows, np.int64), np.asarray(scores, np.float32)

    @property
    def effort(self) -> int:
        """See OverfetchingIndex.effort: leaves that are searched."""
        return min(int(self.spec.search["leaves_searched"]), self.most_effort)

    @property
    def most_effort(self) -> int:
        """See OverfetchingIndex.most_effort."""
        return leaves_for(len(self), int(self.spec.build["leaves"]))

    def nanoseconds(self, depth: int, effort: int) -> float:
        """See OverfetchingIndex.nanoseconds."""
        return _LEAF * effort + _COMPARED * depth * self.spec.search["widening"]


def build_scann(spec: IndexSpec, vectors: Vectors, folder: Path) -> None:
    """Writes the files of [n, d] float32 vectors, n at least 1, into a folder.

    Args:
        spec: Its `leaves` count.
        vectors: The items.
        folder: Is made if it is not there.
    """
    library, n = _library(), len(vectors)
    builder = library.scann_ops_pybind.builder(np.ascontiguousarray(vectors, np.float32), 10, "dot_product")
    if n < _FEWEST:
        builder = builder.score_brute_force()
    else:
        leaves = leaves_for(n, int(spec.build["leaves"]))
        builder = builder.tree(leaves, leaves, training_sample_size=min(n, _SAMPLE))
        builder = builder.score_ah(_NUMBERS, anisotropic_quantization_threshold=_THRESHOLD).reorder(100)
    folder.mkdir(parents=True, exist_ok=True)
    builder.build().serialize(str(folder), relative_path=True)


def open_scann(spec: IndexSpec, folder: Path, vectors: Vectors, switching: Switching | None) -> ScannIndex:
    """Reads an index into memory; ScaNN maps none.

    Raises:
        CorruptArtifact: a file is missing, broken, or of other vectors; names the folder.
    """
    library = _library()
    if not (folder / CONFIGURATION_FILE).is_file():
        raise CorruptArtifact(f"{folder / CONFIGURATION_FILE} is missing")
    try:
        searcher = library.scann_ops_pybind.load_searcher(str(folder))
        searcher.search(np.zeros(vectors.shape[1], np.float32), 1)  # refuses another width
    except (RuntimeError, OSError, ValueError) as error:
        raise CorruptArtifact(f"{folder} holds no index that can be read: {error}") from error
    if searcher.size() != len(vectors):
        raise CorruptArtifact(f"{folder} has {searcher.size()} items, the vectors beside it are {vectors.shape}")
    most = leaves_for(len(vectors), int(spec.build["leaves"]))
    plan = switching or unmeasured(100, min(int(spec.search["leaves_searched"]), most), most)
    return ScannIndex(spec, vectors, plan, searcher)


def leaves_for(n: int, wanted: int) -> int:
    """Number of leaves: as wanted, or twice the root of n, but with some 10 items in each on average."""
    return max(1, min(wanted or round(2 * n**0.5), n // 10 or 1))


def _library() -> ModuleType:
    try:
        import scann as library
    except ImportError as error:
        raise InvalidSettings(
            "this index needs ScaNN; install feast-recsys[scann], or choose another kind", field="index"
        ) from error
    module: ModuleType = library
    return module
