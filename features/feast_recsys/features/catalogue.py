"""The features of every item that exists."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from feast_recsys.bundle.columns import Array, Column, FieldStatus
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.bundle.lookup import UNKNOWN_ROW, Rows
from feast_recsys.bundle.signature import Side
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.features.changes import changed_ids, ids_between
from feast_recsys.features.feast_api import FeatureView
from feast_recsys.features.plan import ReadPlan, compile_plan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import EntityKey, Repo, entity_key
from feast_recsys.features.schema import entities_of, get_view


@dataclass(frozen=True)
class Catalogue:
    """n items and their features.

    Attributes:
        ids: [n] int64, or objects that are str; ascending, each once.
        columns: By reference, n rows in the order of `ids`.
        known_rows: [n] int64, the row of the known snapshot that an item's features were taken from unread; -1 for
            items that were read. None if all were.
    """

    ids: Array
    columns: Mapping[str, Column]
    known_rows: Rows | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def read_rows(self) -> Rows:
        """The rows of the items that were read, ascending."""
        if self.known_rows is None:
            return np.arange(len(self))
        return np.flatnonzero(self.known_rows == UNKNOWN_ROW)


@dataclass(frozen=True)
class Known:
    """What was read before, by the same declarations and policies.

    Attributes:
        snapshot: All features at that time.
        as_of: Unix seconds up to which offline rows were online when it was read.
    """

    snapshot: Snapshot
    as_of: int

    def has(self, plan: ReadPlan, key: EntityKey) -> bool:
        """Whether it holds just the features of a plan, of the same types, under ids of the same type."""
        if self.snapshot.key_dtype is not key.dtype:
            return False
        snapshot, slots = self.snapshot, {slot.reference: slot.kind for view in plan.views for slot in view.slots}
        return set(snapshot.references) == set(slots) and all(
            (snapshot.dtype(name), snapshot.is_list(name)) == (kind.dtype, kind.is_list) for name, kind in slots.items()
        )


def read_catalogue(
    repo: Repo,
    references: Sequence[str],
    as_of: datetime,
    *,
    known: Known | None = None,
    chunk: int = 5_000,
    progress: Callable[[int, int], None] | None = None,
) -> Catalogue:
    """Reads all items: which there are from the offline store, their features back from the online store.

    The online store can't be enumerated, and keeps items that are gone; reading features back through it
    gives exactly what serving would see, and proves that materialization wrote it.

    With something known, only items are read that are new, have a row in the offline store that is no older than what
    is known, or whose values have passed their view's ttl since. Rows that only the online store has, and rows that
    reach the offline store late, with older event times, are not seen.

    Args:
        repo: The repository.
        references: Item features, `view:feature`.
        as_of: Items whose first row in the catalogue view is later do not exist yet. With a time zone.
        known: What need not be read again; None reads all.
        chunk: Items in one read of the online store.
        progress: Called with the number of items done and the total.

    Raises:
        InvalidArgument: `as_of` has no time zone.
        InvalidRepository: the catalogue view does not exist, is not of the item entity, has rows without an id or
            can't be read; and what `compile_plan` raises.
        OnlineStoreUnavailable, StaleFeature: see `OnlineReader.read`.
    """
    if as_of.tzinfo is None:
        raise InvalidArgument("as_of has no time zone; give one in UTC", field="as_of")
    plan, key = compile_plan(repo, references, Side.ITEM), entity_key(repo, Side.ITEM)
    ids = ids_between(repo, _catalogue_view(repo, key), key, None, as_of)
    reader = OnlineReader(repo, plan)
    if known is None or not known.has(plan, key) or as_of.timestamp() < known.as_of:
        return Catalogue(ids, _read(reader, ids, chunk, progress))
    known_rows = _unchanged(repo, plan, key, known, ids, as_of)
    todo = np.flatnonzero(known_rows == UNKNOWN_ROW)
    columns = _read(reader, ids[todo], chunk, progress)
    return Catalogue(ids, _merged(known.snapshot, known_rows, todo, columns), known_rows)


def _read(
    reader: OnlineReader, ids: Array, chunk: int, progress: Callable[[int, int], None] | None
) -> dict[str, Column]:
    keys: list[int | str] = ids.tolist()
    parts = []
    for start in range(0, len(keys), chunk):
        parts.append(reader.read(keys[start : start + chunk]))
        if progress is not None:
            progress(min(start + chunk, len(keys)), len(keys))
    if not parts:
        return reader.read([])
    return {reference: Column.concatenate([p[reference] for p in parts]) for reference in parts[0]}


def _unchanged(repo: Repo, plan: ReadPlan, key: EntityKey, known: Known, ids: Array, as_of: datetime) -> Rows:
    """[n] the known row of each item that need not be read, UNKNOWN_ROW for the others."""
    snapshot = known.snapshot
    then = datetime.fromtimestamp(known.as_of, timezone.utc)
    changed, unknown = changed_ids(repo, plan.references, key, then, as_of)
    if unknown:
        return np.full(len(ids), UNKNOWN_ROW, np.int64)
    old = np.zeros(len(snapshot) + 1, np.bool_)  # the last stands for UNKNOWN_ROW
    old[snapshot.rows_of_keys(changed)] = True
    for view in plan.views:
        if view.ttl > 0:
            for slot in view.slots:
                status, moments = snapshot.meta(slot.reference)
                oldest = time.time() - view.ttl
                old[:-1] |= (status == FieldStatus.PRESENT) & (moments > 0) & (moments < oldest)
    rows = snapshot.rows_of_keys(ids)
    return np.where(old[rows], UNKNOWN_ROW, rows)


def _merged(snapshot: Snapshot, known_rows: Rows, todo: Rows, read: Mapping[str, Column]) -> dict[str, Column]:
    """Columns of all items: the known ones of the snapshot, those `todo` as they were read."""
    kept = np.flatnonzero(known_rows != UNKNOWN_ROW)
    places = np.empty(len(known_rows), np.int64)
    places[kept], places[todo] = np.arange(len(kept)), len(kept) + np.arange(len(todo))
    columns = {}
    for reference, column in read.items():
        old = snapshot.gather(reference, known_rows[kept])
        columns[reference] = Column.concatenate([old, column]).take(places) if len(todo) else old
    return columns


def _catalogue_view(repo: Repo, key: EntityKey) -> FeatureView:
    view = get_view(repo, repo.settings.catalogue)
    if not isinstance(view, FeatureView) or entities_of(repo, view) != (key.entity,):
        raise InvalidRepository(
            f"catalogue view {repo.settings.catalogue!r} must be a feature view of exactly the entity {key.entity!r}",
            field="recsys.catalogue",
        )
    return view
