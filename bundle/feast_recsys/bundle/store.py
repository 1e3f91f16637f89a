"""A folder of bundles: staging, publishing by one atomic rename of a pointer, opening.

bundles/
  CURRENT                      name of the bundle to serve
  20260101T120000Z-1a2b3c4d/   a bundle; never changed once it has this name
  .staging-XXXXXXXX/           one that is being written, or was left behind by a job that died
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.index.by_metric import by_metric, underlying
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import open_index
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, width_of
from feast_recsys.bundle.index.remote import open_embedded, open_remote
from feast_recsys.bundle.index.segments import BASE_FILE, Segments, open_base_rows
from feast_recsys.bundle.index.spec import ENGINES
from feast_recsys.bundle.index.vectors import open_centre, open_vectors
from feast_recsys.bundle.index.waiting import WaitingIndex, open_waiting
from feast_recsys.bundle.item_columns import open_item_columns
from feast_recsys.bundle.listing import open_listing, open_rows
from feast_recsys.bundle.manifest import MANIFEST_FILE, Manifest, RecommenderEntry, verify
from feast_recsys.bundle.runtime import ON_CPU, Execution, LoadedGraph, LoadedSplit, load_model, load_split
from feast_recsys.bundle.signature import Role, Signature, Stage
from feast_recsys.bundle.snapshot import Snapshot, open_snapshot

POINTER = "CURRENT"
SNAPSHOT_FOLDER = "snapshot"
_STAGING = ".staging-"
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class LoadedRecommender:
    """The models and the index of one recommender, ready to run.

    Attributes:
        retrieval: Signature of the retrieval model.
        query_encoder: Its query side.
        index: The item vectors, row by row as in the snapshot.
        ranking: Signature of the ranking model, None if there is none.
        ranker: Its graph, None if there is none.
        split: The ranker in parts, without the item part; None if it is served whole.
        item_columns: What the item part gave, [n, width] each, in the order of its outputs.
        sources: By name, what there is of its sources of candidates.
    """

    retrieval: Signature
    query_encoder: LoadedGraph
    index: Index
    ranking: Signature | None
    ranker: LoadedGraph | None
    split: LoadedSplit | None = None
    item_columns: tuple[Array, ...] = ()
    sources: Mapping[str, LoadedSource] = field(default_factory=dict)


@dataclass(frozen=True)
class LoadedSource:
    """A source of candidates.

    Attributes:
        shape: The settings that it was made by.
        model: Its retrieval model; None if that is the recommender's own, or it has none.
        listing: Rows [m] int64 and falling scores [m] float32 of what it lists; None if it lists nothing.
        rows: Rows that may come from it, ascending, [r] int64; None for all.
    """

    shape: Mapping[str, Any]
    model: LoadedRecommender | None
    listing: tuple[Rows, Vectors] | None
    rows: Rows | None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Immutable; files are memory-mapped and stay usable after the folder is deleted."""

    manifest: Manifest
    snapshot: Snapshot
    recommenders: Mapping[str, LoadedRecommender]

    @property
    def id(self) -> str:
        """Its name."""
        return self.manifest.bundle_id


def current(root: Path) -> str | None:
    """Name of the published bundle; None if none was ever published."""
    try:
        return (root / POINTER).read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None


def stage(root: Path) -> Path:
    """A fresh folder to write a bundle in. Folders that dead jobs left behind are removed first.

    Call it while holding the job's lease: it takes every other staging folder for abandoned.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_STAGING}*"):
        shutil.rmtree(left)
    return Path(tempfile.mkdtemp(prefix=_STAGING, dir=root))


def publish(root: Path, staged: Path, manifest: Manifest, *, keep: int, verified: bool = False) -> Path:
    """Makes a staged bundle the current one.

    The manifest is written last, the bundle is opened as a server would, and everything is flushed to disk before it
    gets its name; then the pointer is replaced. Whoever dies in between leaves the old bundle current.

    Args:
        root: Folder of bundles.
        staged: What `stage` returned, now filled.
        manifest: With the inventory of `staged`.
        keep: Number of bundles to keep, the new one included.
        verified: Whether the inventory was taken by the same process, and nothing was written since: then the files are
            not read again to be held against it.

    Returns:
        The bundle's folder.

    Raises:
        FileExistsError: there is a bundle of that name already; `next_id` gives free ones.
        CorruptArtifact, InvalidSignature: what was staged can't be opened; nothing was published.
        IndexUnavailable: the server of an index does not answer; nothing was published.
    """
    target = root / manifest.bundle_id
    if target.exists():
        raise FileExistsError(f"{target} exists already")
    manifest.save(staged)
    _reach(open_bundle(staged, verified=verified))
    staged.chmod(0o755)
    for path in (*staged.rglob("*"), staged):
        _flush(path)
    staged.rename(target)
    _flush(root)
    before = current(root)
    point(root, manifest.bundle_id)
    for name in _doomed(history(root), before, keep):
        # Renamed first: a removal that is cut short leaves no half bundle to roll back to.
        doomed = root / f"{_STAGING}{name}"
        (root / name).rename(doomed)
        shutil.rmtree(doomed)
    return target


def _doomed(names: list[str], before: str | None, keep: int) -> list[str]:
    """What to remove of all bundles, the new one last. Servers still have the one before: it goes before no other."""
    if keep > 1 and before in names[:-keep]:
        names = [*(name for name in names[:-1] if name != before), before, names[-1]]
    return names[:-keep]


def next_id(root: Path, now: datetime, fingerprint: str) -> str:
    """A free name for a new bundle: the time, later than every bundle that is there, and the start of the fingerprint.

    Args:
        root: Folder of bundles.
        now: Time of creation, aware.
        fingerprint: Hex digits.
    """
    moment = now.astimezone(timezone.utc).replace(microsecond=0)
    for name in history(root):
        with suppress(ValueError):  # a folder that somebody else put here
            taken = datetime.strptime(name.partition("-")[0], _TIME).replace(tzinfo=timezone.utc)
            moment = max(moment, taken + timedelta(seconds=1))
    return f"{moment.strftime(_TIME)}-{fingerprint[:8]}"


def point(root: Path, bundle_id: str) -> None:
    """Replaces the pointer: publishes, or rolls back to, a bundle that is there.

    Raises:
        CorruptArtifact: there is no such bundle; names those that exist.
    """
    if not (root / bundle_id / MANIFEST_FILE).is_file():
        raise CorruptArtifact(f"{root} holds no bundle {bundle_id!r}; there are: {', '.join(history(root)) or 'none'}")
    beside = root / f"{POINTER}.new"
    beside.write_text(bundle_id + "\n", "utf-8")
    _flush(beside)
    beside.replace(root / POINTER)
    _flush(root)


def history(root: Path) -> list[str]:
    """Names of the bundles that are there, oldest first, the current one last."""
    if not root.is_dir():
        return []
    names = sorted(p.parent.name for p in root.glob(f"*/{MANIFEST_FILE}") if not p.parent.name.startswith("."))
    now = current(root)
    return sorted(names, key=lambda name: name == now)


def verify_published(root: Path, bundle_id: str) -> Manifest:
    """Holds a bundle against its checksums by the name that it was published under. Reads every file; opens nothing.

    Raises:
        CorruptArtifact: a file is missing, altered or not listed, or the bundle has another name; names the file.
    """
    manifest = Manifest.load(root / bundle_id)
    if manifest.bundle_id != bundle_id:
        raise CorruptArtifact(f"{MANIFEST_FILE} of {root / bundle_id} is that of bundle {manifest.bundle_id}")
    verify(root / bundle_id, manifest)
    return manifest


def open_bundle(folder: Path, execution: Execution = ON_CPU, *, verified: bool = False) -> Bundle:
    """Verifies and opens a bundle.

    Args:
        folder: The bundle.
        execution: Where and how its graphs are to run.
        verified: Whether its files were held against their checksums already, by another process perhaps.

    Raises:
        CorruptArtifact: a file is missing, altered or does not fit the others; names it.
        InvalidSignature: a graph and its signature differ.
        InvalidSettings: its graphs can't run on that device.
    """
    manifest = Manifest.load(folder)
    if not verified:
        verify(folder, manifest)
    snapshot = open_snapshot(folder / SNAPSHOT_FOLDER)
    if len(snapshot) != manifest.items:
        raise CorruptArtifact(f"bundle {manifest.bundle_id}: {len(snapshot)} items, its manifest says {manifest.items}")
    recommenders = {
        name: replace(
            _open(folder, entry, snapshot, execution), sources=_open_sources(folder, entry, snapshot, execution)
        )
        for name, entry in manifest.recommenders.items()
    }
    return Bundle(manifest, snapshot, recommenders)


def _reach(bundle: Bundle) -> None:
    """Raises IndexUnavailable if the server of an index can't be asked; one that serves would wait for it."""
    for recommender in bundle.recommenders.values():
        models = (source.model for source in recommender.sources.values() if source.model is not None)
        for loaded in (recommender, *models):
            index = underlying(loaded.index)
            if isinstance(index, WaitingIndex):
                index.opened()


def _open(folder: Path, entry: RecommenderEntry, snapshot: Snapshot, execution: Execution) -> LoadedRecommender:
    retrieval, graphs = load_model(folder / entry.retrieval, (Role.QUERY_ENCODER,), execution)
    _expect(retrieval.stage is Stage.RETRIEVAL, f"{entry.retrieval} is no retrieval model")
    made_by = retrieval.graphs[Role.ITEM_ENCODER].sha256
    _expect(made_by == entry.item_encoder, f"{entry.vectors} was made by another item encoder than {entry.retrieval}'s")
    vectors = open_vectors(folder / entry.vectors)
    n, width = vectors.shape
    _expect(n == len(snapshot), f"{entry.vectors} has {n} rows for {len(snapshot)} items")
    _expect(
        width == retrieval.dimension,
        f"{entry.vectors} has width {width}, {entry.retrieval} says {retrieval.dimension}",
    )
    index = _open_index(folder, entry, _searched(folder, entry, retrieval, vectors), snapshot)
    centre = open_centre(folder / entry.centre, width) if entry.centre is not None else None
    index = by_metric(index, vectors, retrieval.metric, centre)
    query = graphs[Role.QUERY_ENCODER.value]
    if entry.ranking is None:
        return LoadedRecommender(retrieval, query, index, None, None)
    ranking, ranking_graphs = load_model(folder / entry.ranking, (Role.RANKER,), execution)
    _expect(ranking.stage is Stage.RANKING, f"{entry.ranking} is no ranking model")
    ranker = ranking_graphs[Role.RANKER.value]
    if ranker.graph.split is None:
        return LoadedRecommender(retrieval, query, index, ranking, ranker)
    parts = load_split(folder / entry.ranking, ranker.graph.split, item=False, execution=execution)
    columns: tuple[Array, ...] = ()
    if ranker.graph.split.item is not None:
        _expect(entry.item_columns is not None, f"it lacks what the item part of {entry.ranking} gives")
        outputs = ranker.graph.split.item.outputs
        columns = open_item_columns(folder / str(entry.item_columns), outputs, len(snapshot))
    return LoadedRecommender(retrieval, query, index, ranking, ranker, parts, columns)


def _open_sources(
    folder: Path, entry: RecommenderEntry, snapshot: Snapshot, execution: Execution
) -> dict[str, LoadedSource]:
    """What there is of a recommender's sources; those with the same model share it."""
    models: dict[str, LoadedRecommender] = {}
    for source in entry.sources.values():
        if source.model is not None and source.model.vectors not in models:
            models[source.model.vectors] = _open(folder, source.model, snapshot, execution)
    return {
        name: LoadedSource(
            source.shape,
            models[source.model.vectors] if source.model is not None else None,
            open_listing(folder / source.listing, len(snapshot)) if source.listing is not None else None,
            open_rows(folder / source.rows, len(snapshot)) if source.rows is not None else None,
        )
        for name, source in entry.sources.items()
    }


def _searched(folder: Path, entry: RecommenderEntry, retrieval: Signature, vectors: Vectors) -> Vectors:
    """The vectors as the index takes them."""
    if retrieval.metric == INNER_PRODUCT:
        return vectors
    _expect(
        entry.searched is not None, f"{entry.retrieval} compares by {retrieval.metric}, for which there are no vectors"
    )
    searched = open_vectors(folder / str(entry.searched))
    shape = (len(vectors), width_of(retrieval.dimension, retrieval.metric))
    _expect(searched.shape == shape, f"{entry.searched} has shape {searched.shape}; {entry.retrieval} needs {shape}")
    return searched


def _open_index(folder: Path, entry: RecommenderEntry, vectors: Vectors, snapshot: Snapshot) -> Index:
    """What the manifest names; exact search where it names nothing."""
    chosen = entry.index
    if chosen is not None and chosen.remote is not None:
        return open_waiting(partial(open_remote, chosen.spec, chosen.remote, vectors, snapshot), vectors)
    if chosen is None or chosen.folder is None:
        return ExactIndex(vectors)
    if chosen.spec.kind in ENGINES:
        return open_embedded(chosen.spec, folder / chosen.folder, vectors, snapshot)
    if chosen.segments is not None:
        built_of, segments = open_vectors(folder / chosen.segments / BASE_FILE), folder / chosen.segments
        base = open_index(chosen.spec, folder / chosen.folder, built_of, chosen.switching)
        return Segments(base, open_base_rows(segments, len(built_of), len(vectors)), vectors)
    return open_index(chosen.spec, folder / chosen.folder, vectors, chosen.switching)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise CorruptArtifact(f"the bundle does not fit together: {message}; materialize again")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
