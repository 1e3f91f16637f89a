"""Whether there is anything new: one hash over all that a bundle is made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.features.catalogue import Catalogue
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.sources import NO_SOURCES, SourceData, all_sources

# Raised when the same inputs would make another bundle.
RECIPE = 2

# How an index is measured and kept up, but not which it is: that these change is no reason for a new bundle. The next
# one goes by them, and `materialize --full` at once.
_HOW = {"sample", "compaction", "budget_seconds"}


def fingerprint(
    repo: Repo, models: Iterable[ExportedModel], catalogue: Catalogue, sources: SourceData = NO_SOURCES
) -> str:
    """SHA-256, as hex, over the models' files, the settings that shape a bundle, the items with their values, and what
    there is for sources of candidates.

    Event times and the reasons for missing values are left out: materializing the same values again is nothing new.
    """
    document: dict[str, Any] = {
        "recipe": RECIPE,
        "settings": _settings(repo),
        "models": {m.name: {name: entry.sha256 for name, entry in m.files.items()} for m in models},
        "ids": _digest([_array(catalogue.ids)]),
        "columns": {reference: _column(column) for reference, column in catalogue.columns.items()},
    }
    shapes = [[name, source.name, source.shape()] for name, _, source in all_sources(repo)]
    if shapes:
        document["sources"] = [shapes, sources.digest()]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _settings(repo: Repo) -> dict[str, Any]:
    settings = repo.settings
    recommenders = {
        name: [
            r.retrieval.model,
            r.retrieval.vectors,
            r.ranking.model if r.ranking else None,
            r.retrieval.index.model_dump(mode="json", exclude=_HOW),
        ]
        for name, r in settings.recommenders.items()
    }
    return {
        "project": repo.store.project,
        "item": settings.item,
        "catalogue": settings.catalogue,
        "recommenders": recommenders,
    }


def _column(column: Column) -> str:
    parts: list[bytes] = [column.dtype.value.encode(), column.valid.tobytes(), *_bytes(column.values, column.dtype)]
    if column.offsets is not None:
        parts.append(np.diff(column.offsets).tobytes())
    return _digest([b"list" if column.is_list else b"scalar", *parts])


def _array(values: Array) -> bytes:
    return b"".join(_bytes(values, DType.INT64 if values.dtype == np.int64 else DType.STRING))


def _bytes(values: Array, dtype: DType) -> list[bytes]:
    if dtype is not DType.STRING:
        return [np.ascontiguousarray(values).tobytes()]
    if not len(values):
        return [b"", b""]
    _, ends, encoded = pa.array(values, pa.large_string()).buffers()
    offsets = np.frombuffer(ends, np.int64)[: len(values) + 1]
    return [np.diff(offsets).tobytes(), encoded.slice(0, int(offsets[-1])).to_pybytes() if encoded is not None else b""]


def _digest(parts: Iterable[bytes]) -> str:
    """Of parts with their lengths, so that no two lists of parts look alike."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
