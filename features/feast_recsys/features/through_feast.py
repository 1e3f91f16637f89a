"""Reads that only `get_online_features` can answer: on-demand views, and stores with an envelope of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.decode import Decoder
from feast_recsys.features.feast_api import FeastStatus, GetOnlineFeaturesResponse, Value
from feast_recsys.features.keys import Key
from feast_recsys.features.plan import ReadPlan, ViewPlan
from feast_recsys.features.repo import Repo
from feast_recsys.features.request_values import request_columns
from feast_recsys.features.rows import LARGEST_READ, stale_rows, unavailable


def group_by_call(views: Sequence[ViewPlan]) -> list[tuple[ViewPlan, ...]]:
    """Views that one call of `get_online_features` can answer together, of those that `online_read` can't read.

    A view whose join keys are renamed is asked for by its own names, with the renamed columns under them: with both
    columns in one request Feast would take whichever comes last.
    """
    groups: dict[Any, list[ViewPlan]] = {}
    for view in views:
        if view.table is None:
            renamed = tuple(c for c in view.keys if c.name != c.key.join_key)
            groups.setdefault(view.name if view.alone else renamed, []).append(view)
    return [tuple(group) for group in groups.values()]


class FeastRead:
    """One call of `get_online_features`.

    Args:
        repo: The repository.
        plan: The plan that the views are of.
        views: What to ask for: a group of `group_by_call`.
    """

    def __init__(self, repo: Repo, plan: ReadPlan, views: tuple[ViewPlan, ...]) -> None:
        self._store = repo.store
        self._views = views
        self._slots = tuple((view, slot, Decoder(slot, view.stale)) for view in views for slot in view.slots)
        self._full_names = not views[0].alone
        self._asked = list(dict.fromkeys(f"{view.view}:{slot.feature}" for view in views for slot in view.slots))
        self._columns = {column.name: column.key.join_key for view in views for column in view.keys}
        names = dict.fromkeys(name for view in views for name in view.request_fields)
        self._fields = tuple(plan.request_fields[name] for name in names)

    def read(
        self, ids: Mapping[str, list[int | str]], request: Mapping[str, Sequence[Any]], n: int
    ) -> dict[str, Column]:
        """The features of n rows, by reference.

        Raises:
            InvalidArgument: a request field is missing, of another type or of another length; names it.
            OnlineStoreUnavailable, StaleFeature, InvalidRepository: see `OnlineReader.read`.
        """
        given = request_columns(self._fields, request, n)
        rows = {name: ids[column] for name, column in self._columns.items()}
        if given or not rows:
            return self._concatenate([self._call(rows, given, n)])
        keys: list[Key] = list(zip(*rows.values(), strict=True))
        positions: dict[Key, int] = {}
        taken = [positions.setdefault(key, len(positions)) for key in keys]
        unique = list(positions)
        parts = []
        for at in range(0, len(unique), LARGEST_READ) or [0]:
            chunk = unique[at : at + LARGEST_READ]
            parts.append(self._call({name: [key[i] for key in chunk] for i, name in enumerate(rows)}, {}, len(chunk)))
        columns = self._concatenate(parts)
        if len(unique) < n:
            columns = {reference: column.take(np.array(taken, np.int64)) for reference, column in columns.items()}
        return columns

    def _concatenate(self, parts: list[dict[str, Column]]) -> dict[str, Column]:
        if len(parts) == 1:
            return parts[0]
        return {reference: Column.concatenate([part[reference] for part in parts]) for reference in parts[0]}

    def _call(self, rows: Mapping[str, list[Any]], given: Mapping[str, list[Any]], n: int) -> dict[str, Column]:
        if n == 0:
            empty = np.zeros(0, np.int64)
            return {slot.reference: decoder.decode([], empty, None) for _, slot, decoder in self._slots}
        columns = {**rows, **given}
        # Feast counts the rows of an entityless read by any column, and ignores one that it does not know.
        entity_rows = columns or {"row": list(range(n))}
        try:
            response = self._store.get_online_features(
                features=list(self._asked), entity_rows=entity_rows, full_feature_names=self._full_names
            )
        except Exception as error:  # stores raise whatever their drivers raise
            raise unavailable(", ".join(view.name for view in self._views), error) from error
        answers = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
        decoded = {}
        for view, slot, decoder in self._slots:
            answer = answers.get(slot.full_name if self._full_names else slot.feature)
            if answer is None:
                raise InvalidRepository(f"Feast answers nothing for {slot.reference}", field=slot.reference)
            messages, timestamps = _unwrap(answer)
            if len(messages) != n:
                raise InvalidRepository(
                    f"Feast answers {len(messages)} values of {slot.reference} for {n} rows; an on-demand view must "
                    "give one for each",
                    field=slot.reference,
                )
            decoded[slot.reference] = decoder.decode(messages, timestamps, stale_rows(view, timestamps))
        return decoded


def _unwrap(vector: GetOnlineFeaturesResponse.FeatureVector) -> tuple[list[Value | None], npt.NDArray[np.int64]]:
    n = len(vector.values)
    missing = [status == FeastStatus.NOT_FOUND for status in vector.statuses] or [False] * n
    # A remote store sends no event times.
    timestamps = np.array([t.seconds for t in vector.event_timestamps] or [0] * n, np.int64)
    return [None if lost else value for value, lost in zip(vector.values, missing, strict=True)], timestamps
