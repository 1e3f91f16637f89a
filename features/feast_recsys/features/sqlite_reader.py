"""Reads of users from SQLite, on the calling thread: the store is a file, and a lock of it is waited for in time.

Feast's own read brings a datetime, a message and a group for each stored feature, over a connection that all threads
share. Here one statement brings the rows of all views, over connections of our own, and only what the plan names is
looked at.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError

from feast_recsys.bundle.columns import Column
from feast_recsys.features.feast_api import OnlineStore, Value, compute_table_id
from feast_recsys.features.keys import KeyColumn, coerce_row, key_serializer
from feast_recsys.features.plan import ReadPlan
from feast_recsys.features.repo import Repo
from feast_recsys.features.request_values import NO_REQUEST
from feast_recsys.features.row_decoder import RowDecoder
from feast_recsys.features.rows import unavailable, unix_seconds
from feast_recsys.features.user_reader import as_rows

_shared: weakref.WeakKeyDictionary[OnlineStore, SqliteConnections] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


class SqliteConnections:
    """Connections to the file of a store, as many as threads ever read at once.

    Args:
        path: The file. It must exist when the first read happens.
    """

    def __init__(self, path: str) -> None:
        # Without `mode` a wrong path would become an empty store.
        self._uri = f"file:{quote(os.path.abspath(path))}?mode=rw"
        self._pid = os.getpid()
        self._idle: list[_Lent] = []

    def lend(self) -> _Lent:
        """A connection that no other thread is using.

        Raises:
            sqlite3.OperationalError: there is no such file.
        """
        if os.getpid() != self._pid:  # SQLite's locks do not survive a fork
            self._idle, self._pid = [], os.getpid()
        try:
            return self._idle.pop()
        except IndexError:
            return _Lent(sqlite3.connect(self._uri, uri=True, check_same_thread=False, isolation_level=None))

    def give_back(self, lent: _Lent) -> None:
        """Takes one whose last statement is finished."""
        self._idle.append(lent)


@dataclass
class _Lent:
    connection: sqlite3.Connection
    waits: int = -1

    def within(self, milliseconds: int) -> sqlite3.Connection:
        """The connection, set to wait at most so long for a lock, and not much less."""
        if not 0.9 * milliseconds <= self.waits <= milliseconds:
            self.connection.execute(f"PRAGMA busy_timeout = {milliseconds}")
            self.waits = milliseconds
        return self.connection


class SqliteReader:
    """Reads rows of what a plan names.

    Args:
        repo: The repository.
        plan: What to read; all of it by `online_read`.
    """

    def __init__(self, repo: Repo, plan: ReadPlan) -> None:
        self._plan = plan
        self._connections = _connections_of(repo)
        self._names = ", ".join(view.name for view in plan.views)
        by_key: dict[tuple[KeyColumn, ...], int] = {}
        versioned = repo.store.config.registry.enable_online_feature_view_versioning
        statements = []
        for number, view in enumerate(plan.views):
            table = compute_table_id(repo.store.project, view.table, versioned).replace('"', '""')
            parameter = by_key.setdefault(view.keys, len(by_key)) + 1
            # Feast takes the event time of the last of a key's rows, in the order of this index.
            statements.append(
                f'SELECT {number}, feature_name, value, event_ts FROM "{table}" WHERE entity_key = ?{parameter}'
            )
        self._statement = " UNION ALL ".join(statements)
        self._keys = tuple((key_serializer(k), tuple(column.key.join_key for column in k)) for k in by_key)
        self._views = tuple((RowDecoder(view), view.features) for view in plan.views)

    def begin(self, key: Mapping[str, int | str], request: Mapping[str, Any] = NO_REQUEST) -> SqlitePending:
        """See UserReader. There is nothing to begin: a read of the page cache takes less than handing it over."""
        return self.begin_many([key])

    def begin_many(
        self, keys: Sequence[Mapping[str, int | str]], request: Mapping[str, Any] = NO_REQUEST
    ) -> SqlitePending:
        """See UserReader. A statement for each key: there is no way to a server that one could save."""
        rows = [coerce_row(self._plan.join_keys, key) for key in keys]
        return SqlitePending(
            self, [[serialize(tuple([ids[c] for c in columns])) for serialize, columns in self._keys] for ids in rows]
        )

    def read(self, rows: Sequence[list[bytes]], timeout: float) -> dict[str, Column]:
        """See Pending.result."""
        deadline = time.monotonic() + timeout
        return as_rows([self._read(keys, deadline) for keys in rows])

    def _read(self, keys: list[bytes], deadline: float) -> dict[str, Column]:
        found: list[dict[str, bytes]] = [{} for _ in self._views]
        moments: list[Any] = [None] * len(self._views)
        for view, feature, raw, moment in self._rows(keys, deadline):
            found[view][feature] = raw
            moments[view] = moment
        columns: dict[str, Any] = dict.fromkeys(self._plan.references)
        for (decoder, features), row, moment in zip(self._views, found, moments, strict=True):
            try:
                messages = [Value.FromString(row[name]) if name in row else None for name in features]
            except DecodeError as error:
                raise unavailable(self._names, error) from error
            # Feast reads the number as local time and takes that for UTC, as it does when it writes it.
            seconds = 0 if moment is None else unix_seconds(datetime.fromtimestamp(int(moment)))
            decoder.decode(messages, seconds, columns)
        return columns

    def _rows(self, keys: list[bytes], deadline: float) -> list[tuple[int, str, bytes, Any]]:
        lent = None
        try:
            lent = self._connections.lend()
            connection = lent.within(max(int((deadline - time.monotonic()) * 1000), 0))
            rows = connection.execute(self._statement, keys).fetchall()
        except sqlite3.Error as error:
            if lent is not None:
                lent.connection.close()
            raise unavailable(self._names, error) from error
        self._connections.give_back(lent)
        return rows


class SqlitePending:
    """A read that happens when its result is asked for."""

    __slots__ = ("_reader", "_rows")

    def __init__(self, reader: SqliteReader, rows: list[list[bytes]]) -> None:
        self._reader, self._rows = reader, rows

    def result(self, timeout: float) -> dict[str, Column]:
        """See Pending."""
        return self._reader.read(self._rows, timeout)

    def abandon(self) -> None:
        """See Pending."""


def _connections_of(repo: Repo) -> SqliteConnections:
    """One set for a store, because readers come and go with the plans."""
    store: Any = repo.store.provider.online_store
    with _shared_lock:
        if store not in _shared:
            _shared[store] = SqliteConnections(store._get_db_path(repo.store.config))
        return _shared[store]
