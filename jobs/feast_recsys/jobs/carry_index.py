"""The index of the last bundle in the next one, while few items have changed; see `bundle.index.segments`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.index.entry import EXACT, IndexEntry
from feast_recsys.bundle.index.segments import BASE_FILE, TOMBSTONE, open_base_rows, save_base_rows
from feast_recsys.bundle.index.spec import ENGINES
from feast_recsys.bundle.index.vectors import open_vectors
from feast_recsys.bundle.manifest import RecommenderEntry
from feast_recsys.bundle.snapshot import UNKNOWN_ROW
from feast_recsys.features.index_settings import FixedIndex, MeasuredIndex
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.choose_index import fast_enough, needs_nothing
from feast_recsys.jobs.embed import Rows, Vectors
from feast_recsys.jobs.previous import Previous
from feast_recsys.jobs.queries import FEWEST
from feast_recsys.jobs.sources import entries_by_name, recommender_of

SEGMENTS = "segments"
"""Folder of a bundle with a folder for each recommender whose index is carried on."""


def carry_indexes(
    repo: Repo, root: Path, previous: Previous, ids: Array, vectors: Mapping[str, Vectors], staged: Path, indexes: str
) -> dict[str, IndexEntry]:
    """Takes over the indexes that need not be built anew. Their files are hard links where the file system allows.

    Args:
        repo: The repository.
        root: Folder of bundles.
        previous: The last bundle.
        ids: [n] ids now, ascending.
        vectors: [n, d] the models' own item vectors now, by recommender or joint name; of models that are `alike`.
        staged: The bundle that is being written.
        indexes: Its folder of indexes.

    Returns:
        What the manifest says of those taken over.
    """
    before, there = entries_by_name(previous.bundle.manifest), root / previous.bundle.id
    carried = {}
    for name, matrix in vectors.items():
        settings = repo.settings.recommenders[recommender_of(name)].retrieval.index
        entry = before.get(name)
        if entry is None or entry.index is None or entry.index.folder is None:
            continue
        if not _wanted(settings, entry.index, len(ids)):
            continue
        segments = _carried(previous, there, name, entry, ids, matrix)
        if segments.share > settings.compaction:
            continue
        folder, place = f"{indexes}/{name}", f"{SEGMENTS}/{name}"
        for path in sorted((there / entry.index.folder).iterdir()):
            _link(path, staged / folder / path.name)
        if segments.share == 0 and len(segments.base_rows) == len(ids):
            carried[name] = replace(entry.index, folder=folder, segments=None)
            continue
        _link(segments.base, staged / place / BASE_FILE)
        save_base_rows(staged / place, segments.base_rows)
        carried[name] = replace(entry.index, folder=folder, segments=place)
    return carried


@dataclass(frozen=True)
class _Carried:
    """A base and where its items are now.

    Attributes:
        base: File of the base's vectors.
        base_rows: Row of each now, or TOMBSTONE.
        n: Number of items now.
    """

    base: Path
    base_rows: Rows
    n: int

    @property
    def share(self) -> float:
        """Tombstones and items beside the base, as a share of the base."""
        live = int(np.count_nonzero(self.base_rows != TOMBSTONE))
        return (len(self.base_rows) - live + self.n - live) / max(len(self.base_rows), 1)


def _carried(
    previous: Previous, there: Path, name: str, entry: RecommenderEntry, ids: Array, vectors: Vectors
) -> _Carried:
    snapshot, index = previous.bundle.snapshot, entry.index
    then = snapshot.rows_of_keys(ids)
    then[previous.changed(name, ids, vectors)] = UNKNOWN_ROW
    now = np.full(len(snapshot), TOMBSTONE, np.int64)
    same = np.flatnonzero(then != UNKNOWN_ROW)
    now[then[same]] = same
    if index is None or index.segments is None:
        return _Carried(there / (entry.searched or entry.vectors), now, len(ids))
    base = there / index.segments / BASE_FILE
    rows = open_base_rows(there / index.segments, len(open_vectors(base)), len(snapshot))
    return _Carried(base, np.where(rows == TOMBSTONE, TOMBSTONE, now[rows]), len(ids))


def _wanted(settings: MeasuredIndex | FixedIndex, entry: IndexEntry, n: int) -> bool:
    """Whether an index answers to the settings of now. One that was fixed may not have been worth choosing.

    Engines hold filter columns as well, and these belong to one snapshot: they are filled anew.
    """
    if entry.spec.kind in (EXACT, *ENGINES) or (settings.recall, settings.k) != (entry.recall, entry.k):
        return False
    if isinstance(settings, FixedIndex):
        return settings.spec() == entry.spec
    if needs_nothing(settings, n) or fast_enough(settings, entry) or entry.measured is None or entry.queries < FEWEST:
        return False
    return entry.measured.reaches(settings.recall) and (entry.spec.kind in settings.kinds or not settings.kinds)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
