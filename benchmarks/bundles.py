"""Publishes the bundle of a generated catalogue with the functions of the materialization job.

The job itself reads every item back from the online store; a million of them would take minutes, and the store of the
benchmark holds only the items that candidates are drawn from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from benchmarks.content import ITEM_FEATURES, ITEM_VIEW, RANKING, RETRIEVAL, item_columns, item_ids
from benchmarks.repository import PROJECT, RECOMMENDER

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.manifest import Manifest, inventory
from feast_recsys.bundle.signature import Role, Stage
from feast_recsys.bundle.store import next_id, publish, stage
from feast_recsys.features.catalogue import Catalogue
from feast_recsys.features.repo import open_repo
from feast_recsys.jobs.assemble import ITEM_COLUMNS, Models, write_files
from feast_recsys.jobs.embed import embed, with_key
from feast_recsys.jobs.exported import item_encoder, open_model
from feast_recsys.jobs.item_columns import write_item_columns

AS_OF = 1_767_225_600
KEEP = 100
JOIN_KEY = "item_id"


def publish_bundle(configuration: Path, root: Path, items: int) -> str:
    """Makes and publishes the bundle of the first `items` items.

    Args:
        configuration: Of a repository that names the exported models; nothing of its stores is touched.
        root: Folder of bundles.
        items: Size of the catalogue.

    Returns:
        Its name.
    """
    repo = open_repo(configuration.parent, configuration)
    models: Models = {
        (RECOMMENDER, Stage.RETRIEVAL): open_model(repo, RECOMMENDER, Stage.RETRIEVAL, RETRIEVAL),
        (RECOMMENDER, Stage.RANKING): open_model(repo, RECOMMENDER, Stage.RANKING, RANKING),
    }
    retrieval, ranking = models[RECOMMENDER, Stage.RETRIEVAL], models[RECOMMENDER, Stage.RANKING]
    catalogue = Catalogue(item_ids(items), _columns(item_columns(items)))
    columns = with_key(catalogue.columns, JOIN_KEY, catalogue.ids)
    rows = np.arange(items)
    vectors = embed(item_encoder(retrieval), columns, catalogue.ids, rows, retrieval.signature.dimension)
    staged = stage(root)
    entries = write_files(staged, models, catalogue, {RECOMMENDER: vectors})
    if ranking.item_part is not None:
        inputs = ranking.signature.graphs[Role.RANKER].inputs
        write_item_columns(staged / ITEM_COLUMNS / ranking.name, ranking.item_part, inputs, columns, catalogue.ids)
    fingerprint = hashlib.sha256(f"{items} {inventory(staged)}".encode()).hexdigest()
    bundle_id = next_id(root, datetime.now(timezone.utc), fingerprint)
    manifest = Manifest(bundle_id, AS_OF, fingerprint, items, PROJECT, entries, inventory(staged))
    publish(root, staged, manifest, keep=KEEP)
    return bundle_id


def twin(root: Path, bundle_id: str) -> str:
    """A second bundle of the same files, linked, under another name: something to swap to. Not published.

    Returns:
        Its name.
    """
    manifest = Manifest.load(root / bundle_id)
    other = next_id(root, datetime.now(timezone.utc), manifest.fingerprint[::-1])
    staged = root / f".twin-{other}"
    for name in manifest.files:
        (staged / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(root / bundle_id / name, staged / name)
    replace(manifest, bundle_id=other, fingerprint=manifest.fingerprint[::-1]).save(staged)
    staged.rename(root / other)
    return other


def _columns(values: Mapping[str, Array]) -> dict[str, Column]:
    """Columns without nulls, by Feast reference."""
    columns = {}
    for feature in ITEM_FEATURES:
        n = len(values[feature.name])
        present = np.full(n, FieldStatus.PRESENT, np.uint8)
        dtype = DType.INT64 if feature.keys else DType.FLOAT32
        column = Column(dtype, values[feature.name], present, np.ones(n, np.bool_), np.full(n, AS_OF))
        columns[f"{ITEM_VIEW}:{feature.name}"] = column
    return columns
