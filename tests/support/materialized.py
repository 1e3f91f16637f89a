"""What a materialization left behind, read the way anybody else would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support import warehouse

from feast_recsys.bundle.store import Bundle, current, open_bundle
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.report import Summary


def counts(summary: Summary, step: str) -> Mapping[str, int]:
    """Of the step whose name begins so."""
    return next(s.counts for s in summary.steps if s.name.startswith(step))


def bundle_of(repo: Repo) -> Bundle:
    """The published bundle."""
    root = repo.resolve("bundles")
    return open_bundle(root / str(current(root)))


def vectors_of(bundle: Bundle, repo: Repo) -> np.ndarray:
    """The published item vectors, read by NumPy alone."""
    return np.load(repo.resolve("bundles") / bundle.id / "vectors/things.npy")


def feast_vectors(repo: Repo, ids: list[Any]) -> list[np.ndarray | None]:
    """What any other client of Feast sees."""
    answer = repo.store.get_online_features([warehouse.VECTORS], [{warehouse.ITEM_KEY: i} for i in ids]).to_dict()
    return [None if v is None else np.array(v, np.float32) for v in answer["vector"]]


def add_rows(folder: Path, *tables: pa.Table) -> None:
    """Puts rows behind those of the catalogue's source."""
    path = folder / "catalogue.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(path), *tables]), path)
