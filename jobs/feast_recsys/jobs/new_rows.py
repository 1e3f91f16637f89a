"""New rows of a local source on their way to the online store, at a cost that grows with their number.

Feast's file store reads and sorts the whole source for any range: minutes for a million rows. Here the rows of the
range are read alone; from there on they take Feast's own way, its conversion and its online store, and its registry
learns how far the view is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from feast_recsys.features.feast_api import FeatureView, convert_rows
from feast_recsys.features.local_rows import local_rows
from feast_recsys.features.repo import Repo

_BATCH = 10_000


def write_new_rows(repo: Repo, view: Any, start: datetime, end: datetime) -> bool:
    """Brings the rows of a range of event times online, both ends included.

    Args:
        repo: The repository.
        view: A feature view that was materialized up to `start`.
        start: Beginning, with a time zone.
        end: End.

    Returns:
        Whether that was done. False, with nothing done, for a view that only Feast can materialize: whose source is not
        local, which is more than a plain feature view, or where another engine than Feast's local one is configured.
    """
    config = repo.store.config
    plain = type(view) is FeatureView and not view.offline and view.batch_source is not None
    if not plain or _engine(config.batch_engine) != "local":
        return False
    keys = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    local = local_rows(repo, view, list(keys))
    if local is None or not keys:
        return False
    assert view.batch_source is not None  # plain
    mapping = dict(view.batch_source.field_mapping or {})
    original = {new: old for old, new in mapping.items()}
    table = local.latest([original.get(field.name, field.name) for field in view.features], start, end)
    table = table.rename_columns([mapping.get(name, name) for name in table.column_names])
    for batch in table.combine_chunks().to_batches(max_chunksize=_BATCH):
        rows = convert_rows(batch, view, keys)
        repo.store.provider.online_write_batch(config, view, rows, progress=None)
    repo.store.registry.apply_materialization(view, repo.store.project, start, end)
    return True


def _engine(batch_engine: Any) -> str:
    """The type of the configured engine, which Feast keeps as a name, a section or an object."""
    if isinstance(batch_engine, dict):
        return str(batch_engine.get("type", "local"))
    return str(getattr(batch_engine, "type", batch_engine) or "local")
