"""Reading features from the online store, without the envelope of Feast's `get_online_features`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.feast_api import EntityKeyMessage
from feast_recsys.features.keys import Key, KeyColumn, key_message, missing_key
from feast_recsys.features.plan import ReadPlan, ViewPlan
from feast_recsys.features.repo import Repo
from feast_recsys.features.request_values import NO_REQUEST
from feast_recsys.features.rows import LARGEST_READ, Rows, ViewDecoder, unavailable
from feast_recsys.features.through_feast import FeastRead, group_by_call


class OnlineReader:
    """Reads what a plan names. Holds no state of its own: threads may share it as far as the online store allows.

    Args:
        repo: The repository.
        plan: What to read, compiled from the same repository.
    """

    def __init__(self, repo: Repo, plan: ReadPlan) -> None:
        self.plan = plan
        self._store = repo.store
        self._direct: dict[tuple[KeyColumn, ...], list[tuple[ViewPlan, ViewDecoder]]] = {}
        for view in plan.views:
            if view.table is not None:
                self._direct.setdefault(view.keys, []).append((view, ViewDecoder(view)))
        self._through_feast = [FeastRead(repo, plan, views) for views in group_by_call(plan.views)]

    def read(
        self,
        rows: Sequence[int | str] | Mapping[str, Sequence[Any]],
        request: Mapping[str, Sequence[Any]] = NO_REQUEST,
    ) -> dict[str, Column]:
        """The features of entities.

        Args:
            rows: n ids by join key (further columns are ignored), or a plain sequence of ids of the plan's own key.
                They come in any order, may repeat, and may be the text of a number.
            request: n values by name of each of the plan's request fields.

        Returns:
            By reference, in the order of the plan, a column of n rows, row i for the i-th ids.

        Raises:
            InvalidArgument: a join key or request field is missing, null where it may not be, of another type, or not
                as long as the others; names it.
            OnlineStoreUnavailable: the store failed; the cause is attached.
            StaleFeature: see `recsys.serving.stale`.
            InvalidRepository: a stored value does not fit the declared type.
        """
        ids, n = self._ids(rows)
        columns: dict[str, Column] = {}
        for keys, views in self._direct.items():
            columns |= self._read_views(keys, views, _row_keys(keys, ids, n))
        for call in self._through_feast:
            columns |= call.read(ids, request, n)
        return {reference: columns[reference] for reference in self.plan.references}

    def _ids(self, rows: Sequence[int | str] | Mapping[str, Sequence[Any]]) -> tuple[dict[str, list[int | str]], int]:
        """Ids as Feast stores them, by join key, and the number of rows."""
        if not isinstance(rows, Mapping):
            if self.plan.key is None:
                raise InvalidArgument(f"give ids by join key; the plan has {', '.join(self.plan.join_keys) or 'none'}")
            rows = {self.plan.key.join_key: rows}
        lengths = {column: len(values) for column, values in rows.items()}
        if len(set(lengths.values())) != 1:
            raise InvalidArgument(f"the columns of ids differ in length, or there is none: {lengths}")
        ids = {}
        for column, key in self.plan.join_keys.items():
            if column not in rows:
                raise missing_key(key)
            ids[column] = [key.coerce(value) for value in rows[column]]
        return ids, next(iter(lengths.values()))

    def _read_views(
        self, keys: tuple[KeyColumn, ...], views: list[tuple[ViewPlan, ViewDecoder]], rows: list[Key]
    ) -> dict[str, Column]:
        """The features of views that share a key, each distinct row read once."""
        positions: dict[Key, int] = {}
        taken = [positions.setdefault(row, len(positions)) for row in rows]
        messages = [key_message(keys, row) for row in positions]
        chunks = [messages[at : at + LARGEST_READ] for at in range(0, len(messages), LARGEST_READ)] or [[]]
        columns: dict[str, Column] = {}
        for view, decoder in views:
            parts = [decoder.decode(self._read_view(view, chunk)) for chunk in chunks]
            columns |= parts[0]
            if len(parts) > 1:
                columns |= {r: Column.concatenate([part[r] for part in parts]) for r in parts[0]}
        if len(messages) < len(taken):
            index = np.array(taken, np.int64)
            columns = {reference: column.take(index) for reference, column in columns.items()}
        return columns

    def _read_view(self, view: ViewPlan, keys: list[EntityKeyMessage]) -> Rows:
        if not keys or view.table is None:
            return []
        try:
            # The list is fresh each time because Redis appends to it.
            return self._store.provider.online_store.online_read(
                self._store.config, view.table, keys, list(view.features)
            )
        except Exception as error:  # stores raise whatever their drivers raise
            raise unavailable(view.name, error) from error


def _row_keys(keys: tuple[KeyColumn, ...], ids: Mapping[str, list[int | str]], n: int) -> list[Key]:
    if not keys:
        return [()] * n
    return list(zip(*(ids[column.key.join_key] for column in keys), strict=True))
