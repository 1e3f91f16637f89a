"""From models, items and vectors to the files of a bundle."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.index.by_metric import Searched, search_vectors
from feast_recsys.bundle.index.entry import IndexEntry
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, Centre
from feast_recsys.bundle.index.vectors import save_vectors
from feast_recsys.bundle.manifest import RecommenderEntry, inventory
from feast_recsys.bundle.signature import Role, Stage
from feast_recsys.bundle.snapshot import write_snapshot
from feast_recsys.bundle.store import SNAPSHOT_FOLDER
from feast_recsys.features.catalogue import Catalogue
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.embed import Vectors
from feast_recsys.jobs.exported import ExportedModel
from feast_recsys.jobs.previous import reading

MODELS = "models"
VECTORS = "vectors"
ITEM_COLUMNS = "item_columns"

Models = Mapping[tuple[str, Stage], ExportedModel]


def write_catalogue(staged: Path, catalogue: Catalogue) -> None:
    """Writes the snapshot into a staging folder, unless it is there."""
    folder = staged / SNAPSHOT_FOLDER
    if not folder.exists():
        folder.mkdir()
        write_snapshot(folder, catalogue.ids, catalogue.columns)


def write_files(
    staged: Path,
    models: Models,
    catalogue: Catalogue,
    vectors: Mapping[str, Vectors],
    indexes: Mapping[str, IndexEntry] = MappingProxyType({}),
    searched: Mapping[str, Searched] | None = None,
) -> dict[str, RecommenderEntry]:
    """Fills a staging folder with all but the item columns and the manifest.

    Args:
        staged: The folder.
        models: Exported models by recommender and stage; those of sources of candidates by their joint names.
        catalogue: All items.
        vectors: [n, d] the models' own item vectors, by recommender or joint name.
        indexes: What searches them; what is not named is searched exactly.
        searched: From `searched_by` for the same vectors; None makes it anew.

    Returns:
        The recommenders' entries of the manifest; `item_columns` is set where they must be written.

    Raises:
        JobFailed: a model was exported anew while the job ran.
    """
    write_catalogue(staged, catalogue)
    for model in {m.name: m for m in models.values()}.values():
        _copy(model, staged / MODELS / model.name)
    (staged / VECTORS).mkdir()
    searched, entries = searched or searched_by(models, vectors), {}
    for recommender, matrix in vectors.items():
        path = f"{VECTORS}/{recommender}.npy"
        save_vectors(staged / path, matrix)
        retrieval, ranking = models[recommender, Stage.RETRIEVAL], models.get((recommender, Stage.RANKING))
        form, centre = _save_searched(staged, recommender, searched[recommender])
        entries[recommender] = RecommenderEntry(
            f"{MODELS}/{retrieval.name}",
            path,
            retrieval.signature.graphs[Role.ITEM_ENCODER].sha256,
            f"{MODELS}/{ranking.name}" if ranking is not None else None,
            f"{ITEM_COLUMNS}/{ranking.name}" if ranking is not None and ranking.item_part is not None else None,
            index=indexes.get(recommender),
            searched=form,
            centre=centre,
        )
    return entries


def searched_by(
    models: Models, vectors: Mapping[str, Vectors], centres: Mapping[str, Centre] | None = None
) -> dict[str, Searched]:
    """Item vectors as indexes take them, by the metric of each model.

    Args:
        models: Exported models by recommender and stage.
        vectors: [n, d] the models' own, by recommender or joint name.
        centres: Those of the last bundle, by the same names.

    Raises:
        JobFailed: a vector is too long for the metric.
    """
    made = {}
    for name, matrix in vectors.items():
        signature = models[name, Stage.RETRIEVAL].signature
        try:
            made[name] = search_vectors(matrix, signature.metric, (centres or {}).get(name))
        except ValueError as error:
            raise JobFailed(
                f"item vectors of {signature.name!r}: {error}; let the model give smaller numbers", field="metric"
            ) from error
    return made


def _save_searched(staged: Path, name: str, searched: Searched) -> tuple[str | None, str | None]:
    """Writes what is searched if that is not the model's own vectors, and its centre; their paths inside the bundle."""
    if searched.metric == INNER_PRODUCT:
        return None, None
    path = f"{VECTORS}/{name}.{searched.metric}.npy"
    save_vectors(staged / path, searched.vectors)
    if searched.centre is None:
        return path, None
    centre = f"{VECTORS}/{name}.{searched.metric}.centre.npy"
    save_vectors(staged / centre, searched.centre[None])
    return path, centre


def facts(
    repo: Repo, mode: str, created: datetime, models: Iterable[ExportedModel], catalogue: Catalogue
) -> dict[str, Any]:
    """What people may want to know about a bundle later: versions, counts, the newest row of each view."""
    newest: dict[str, int] = {}
    for reference, column in catalogue.columns.items():
        view = reference.partition(":")[0]
        newest[view] = max(newest.get(view, 0), int(column.timestamps.max(initial=0)))
    return {
        "mode": mode,
        "created": created.isoformat(timespec="seconds"),
        "project": repo.store.project,
        **reading(repo),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("feast-recsys", "feast", "onnxruntime", "numpy", "pyarrow")},
        },
        "models": {model.name: model.signature.stage.value for model in models},
        "features": {reference: int(column.valid.sum()) for reference, column in catalogue.columns.items()},
        "newest": newest,
    }


def _copy(model: ExportedModel, target: Path) -> None:
    for name in model.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.folder / name, target / name)
    if inventory(target) != model.files:
        raise JobFailed(
            f"model {model.name!r} was exported anew while this job read it; run it again", field=model.name
        )
