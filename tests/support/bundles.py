"""A small complete bundle, without Feast: four items, one recommender with both stages."""

from __future__ import annotations

import shutil
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from support import graphs

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.index.vectors import save_vectors
from feast_recsys.bundle.manifest import Manifest, RecommenderEntry, inventory
from feast_recsys.bundle.signature import Input, Role, Side, Stage
from feast_recsys.bundle.snapshot import write_snapshot
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.bundle.vocabulary import Vocabulary

DIMENSION = 4
IDS = ["a", "b", "c", "d"]
AGE = Input("age", "profile:age", Side.USER, DType.INT64)
YEAR = Input("year", "movie:year", Side.ITEM, DType.INT64)
GENRES = Input("genres", "movie:genres", Side.ITEM, DType.STRING, 3, "", "", vocabulary="genres.json")
COLUMNS = {
    "movie:year": Column.of(DType.INT64, [1, 2, None, 4]),
    "movie:genres": Column.of(DType.STRING, [["x"], ["x", "y"], None, []], is_list=True),
}
CREATED = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)


def fill(staged: Path, *, seed: int = 0, ids: list[str] | None = None) -> dict[str, RecommenderEntry]:
    """Writes everything but the manifest."""
    vocabularies = {"genres.json": Vocabulary(("x", "y"))}
    retrieval = graphs.export(
        staged / "models/m_retrieval",
        "m_retrieval",
        Stage.RETRIEVAL,
        {Role.QUERY_ENCODER: (AGE,), Role.ITEM_ENCODER: (YEAR, GENRES)},
        vocabularies,
        dimension=DIMENSION,
        seed=seed,
    )
    graphs.export(
        staged / "models/m_ranking", "m_ranking", Stage.RANKING, {Role.RANKER: (AGE, YEAR, GENRES)}, vocabularies,
        dimension=DIMENSION, seed=seed,
    )  # fmt: skip
    (staged / "snapshot").mkdir()
    keys = IDS if ids is None else ids
    rows = np.arange(len(keys))
    write_snapshot(
        staged / "snapshot", np.array(keys, object), {name: column.take(rows) for name, column in COLUMNS.items()}
    )
    (staged / "vectors").mkdir()
    vectors = np.arange(len(keys) * DIMENSION, dtype=np.float32).reshape(len(keys), DIMENSION) + seed
    save_vectors(staged / "vectors/m.npy", vectors)
    encoder = retrieval.graphs[Role.ITEM_ENCODER].sha256
    return {"m": RecommenderEntry("models/m_retrieval", "vectors/m.npy", encoder, "models/m_ranking")}


def manifest(root: Path, staged: Path, entries: dict[str, RecommenderEntry], seed: int = 0, items: int = 4) -> Manifest:
    """What belongs beside a filled staging folder."""
    fingerprint = f"{seed:064x}"[::-1]
    bundle_id = next_id(root, CREATED, fingerprint)
    return Manifest(bundle_id, 1_767_268_800, fingerprint, items, "test", entries, inventory(staged), {"seed": seed})


def publish_bundle(root: Path, *, seed: int = 0, keep: int = 3, ids: list[str] | None = None) -> Path:
    """Stages, fills and publishes."""
    staged = stage(root)
    entries = fill(staged, seed=seed, ids=ids)
    return publish(root, staged, manifest(root, staged, entries, seed, len(IDS if ids is None else ids)), keep=keep)


def remake_manifest(folder: Path) -> None:
    """Lists a bundle's files anew, after a test changed some: what a forger or a bug would leave."""
    loaded = Manifest.load(folder)
    changed = Manifest(
        loaded.bundle_id, loaded.as_of, loaded.fingerprint, loaded.items, loaded.project, loaded.recommenders,
        inventory(folder), loaded.metadata,
    )  # fmt: skip
    changed.save(folder)


def copy_bundle(source: Path, target: Path) -> Path:
    """A copy to break."""
    shutil.copytree(source, target)
    return target
