"""Reading features from the online store, without the envelope of Feast's `get_online_features`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository, OnlineStoreUnavailable
from feast_recsys.features.decode import decode
from feast_recsys.features.feast_api import EntityKeyMessage, FeastStatus, GetOnlineFeaturesResponse, Value
from feast_recsys.features.plan import ReadPlan, ViewPlan
from feast_recsys.features.repo import Repo

# SQLite takes 32,766 keys in one statement unless built otherwise.
_LARGEST_READ = 10_000

Rows = Sequence[tuple[datetime | None, dict[str, Value] | None]]


class OnlineReader:
    """Reads what a plan names. Holds no state of its own: threads may share it as far as the online store allows.

    Args:
        repo: The repository.
        plan: What to read, compiled from the same repository.
    """

    def __init__(self, repo: Repo, plan: ReadPlan) -> None:
        self.plan = plan
        self._store = repo.store
        self._direct = tuple(view for view in plan.views if view.table is not None)
        others = [view for view in plan.views if view.table is None]
        together = tuple(view for view in others if not view.alone)
        self._through_feast = ([together] if together else []) + [(view,) for view in others if view.alone]

    def read(self, keys: Sequence[int | str]) -> dict[str, Column]:
        """The features of entities.

        Args:
            keys: n ids, in any order; they may repeat, and may be the text of a number.

        Returns:
            By reference, in the order of the plan, a column of n rows, row i for `keys[i]`.

        Raises:
            InvalidArgument: an id is null or not of the entity's type.
            OnlineStoreUnavailable: the store failed; the cause is attached.
            StaleFeature: see `recsys.serving.stale`.
            InvalidRepository: a stored value does not fit the declared type.
        """
        positions: dict[int | str, int] = {}
        rows = [positions.setdefault(self.plan.key.coerce(key), len(positions)) for key in keys]
        unique = list(positions)
        chunks = [unique[at : at + _LARGEST_READ] for at in range(0, len(unique), _LARGEST_READ)] or [[]]
        parts = [self._read_unique(chunk) for chunk in chunks]
        columns = parts[0]
        if len(parts) > 1:
            columns = {reference: Column.concatenate([p[reference] for p in parts]) for reference in columns}
        if len(unique) < len(rows):
            taken = np.array(rows, np.int64)
            columns = {reference: column.take(taken) for reference, column in columns.items()}
        return columns

    def _read_unique(self, keys: list[int | str]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        messages: dict[str, list[Any]] = {}
        for view in self._direct:
            if view.key_field not in messages:
                messages[view.key_field] = self._key_messages(view.key_field, keys)
            columns |= _decode_rows(view, self._read_view(view, messages[view.key_field]))
        for views in self._through_feast:
            columns |= self._read_through_feast(views, keys)
        return {reference: columns[reference] for reference in self.plan.references}

    def _key_messages(self, field: str, keys: list[int | str]) -> list[EntityKeyMessage]:
        name = [self.plan.key.join_key]
        try:
            values = [Value(**{field: key}) for key in keys]  # type: ignore[arg-type]  # one member, chosen by name
        except ValueError as error:
            raise InvalidArgument(f"{name[0]}: {error}; the ids are 32 bits wide", field=name[0]) from error
        return [EntityKeyMessage(join_keys=name, entity_values=[value]) for value in values]

    def _read_view(self, view: ViewPlan, keys: list[EntityKeyMessage]) -> Rows:
        if not keys or view.table is None:
            return []
        try:
            # The list is fresh each time because Redis appends to it.
            return self._store.provider.online_store.online_read(
                self._store.config, view.table, keys, list(view.features)
            )
        except Exception as error:  # stores raise whatever their drivers raise
            raise _unavailable(view.name, error) from error

    def _read_through_feast(self, views: tuple[ViewPlan, ...], keys: list[int | str]) -> dict[str, Column]:
        slots = [(view, slot) for view in views for slot in view.slots]
        if not keys:
            empty = np.zeros(0, np.int64)
            return {slot.reference: decode(slot, [], empty, None, view.stale) for view, slot in slots}
        full = not views[0].alone
        try:
            response = self._store.get_online_features(
                features=[slot.reference for _, slot in slots],
                entity_rows={self.plan.key.join_key: keys},
                full_feature_names=full,
            )
        except Exception as error:
            raise _unavailable(", ".join(view.name for view in views), error) from error
        answers = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
        columns = {}
        for view, slot in slots:
            answer = answers.get(slot.full_name if full else slot.feature)
            if answer is None:
                raise InvalidRepository(f"Feast answers nothing for {slot.reference}", field=slot.reference)
            messages, timestamps = _unwrap(answer)
            columns[slot.reference] = decode(slot, messages, timestamps, _stale(view, timestamps), view.stale)
        return columns


def _decode_rows(view: ViewPlan, rows: Rows) -> dict[str, Column]:
    features = [row or {} for _, row in rows]
    timestamps = np.array([_seconds(moment) for moment, _ in rows], np.int64)
    stale = _stale(view, timestamps)
    return {
        slot.reference: decode(slot, [row.get(slot.feature) for row in features], timestamps, stale, view.stale)
        for slot in view.slots
    }


def _unwrap(vector: GetOnlineFeaturesResponse.FeatureVector) -> tuple[list[Value | None], npt.NDArray[np.int64]]:
    n = len(vector.values)
    missing = [status == FeastStatus.NOT_FOUND for status in vector.statuses] or [False] * n
    # A remote store sends no event times.
    timestamps = np.array([t.seconds for t in vector.event_timestamps] or [0] * n, np.int64)
    return [None if lost else value for value, lost in zip(vector.values, missing, strict=True)], timestamps


def _seconds(moment: datetime | None) -> int:
    if moment is None:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp())


def _stale(view: ViewPlan, timestamps: npt.NDArray[np.int64]) -> list[bool] | None:
    if view.ttl <= 0:
        return None
    oldest = time.time() - view.ttl
    return [0 < t < oldest for t in timestamps.tolist()]


def _unavailable(views: str, error: Exception) -> OnlineStoreUnavailable:
    return OnlineStoreUnavailable(
        f"reading {views} from the online store failed: {type(error).__name__}: {error}", field=views
    )
