"""Reads of users from Redis: one command per key, and one round trip for all views of a plan and all users.

Feast keeps a hash per entity key with the features of all its views, so one HMGET brings those of all views that
share a key. Commands are put together when the plan is compiled, all but the key itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import redis
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import OnlineStoreUnavailable
from feast_recsys.features.feast_api import Value, compute_versioned_name, redis_hash_field
from feast_recsys.features.keys import KeyColumn, coerce_row, key_serializer
from feast_recsys.features.plan import ReadPlan, ViewPlan
from feast_recsys.features.redis_connections import Connection, Opening, RedisConnections, connections_of
from feast_recsys.features.repo import Repo
from feast_recsys.features.request_values import NO_REQUEST
from feast_recsys.features.row_decoder import RowDecoder
from feast_recsys.features.rows import unavailable, unix_seconds
from feast_recsys.features.user_reader import as_rows

_UNSET = Value()
# Below it `online_read`, which goes through a float and a datetime, keeps the second.
_SURELY_WITHIN_SECOND = 999_000_000


@dataclass(frozen=True)
class _Part:
    """Where one view's values are in a reply: features, then the event time at `end`."""

    decoder: RowDecoder
    start: int
    end: int


class _Command:
    """An HMGET of all views that share a key."""

    def __init__(self, repo: Repo, keys: tuple[KeyColumn, ...], views: Sequence[ViewPlan]) -> None:
        fields: list[bytes] = []
        parts = []
        versioned = repo.store.config.registry.enable_online_feature_view_versioning
        for view in views:
            name = compute_versioned_name(view.table, versioned)
            start = len(fields)
            fields += [redis_hash_field(f"{name}:{feature}") for feature in view.features]
            parts.append(_Part(RowDecoder(view), start, len(fields)))
            fields.append(f"_ts:{name}".encode())
        self.parts = tuple(parts)
        self._columns = tuple(column.key.join_key for column in keys)
        self._serialize = key_serializer(keys)
        self._project = repo.store.project.encode()
        self._head = b"*%d\r\n%b" % (len(fields) + 2, _bulk(b"HMGET"))
        self._tail = b"".join(map(_bulk, fields))

    def pack(self, ids: Mapping[str, int | str]) -> bytes:
        """The bytes to send for one row."""
        key = self._serialize(tuple([ids[column] for column in self._columns])) + self._project
        return b"%b$%d\r\n%b\r\n%b" % (self._head, len(key), key, self._tail)


class RedisReader:
    """Reads rows of what a plan names.

    Args:
        plan: What to read; all of it by `online_read`.
        commands: What to send.
        connections: Where.
    """

    def __init__(self, plan: ReadPlan, commands: Sequence[_Command], connections: RedisConnections) -> None:
        self._plan, self.commands, self.connections = plan, tuple(commands), connections
        self.references = plan.references
        self.views = ", ".join(view.name for view in plan.views)

    def begin(self, key: Mapping[str, int | str], request: Mapping[str, Any] = NO_REQUEST) -> RedisPending:
        """See UserReader."""
        return self.begin_many([key])

    def begin_many(
        self, keys: Sequence[Mapping[str, int | str]], request: Mapping[str, Any] = NO_REQUEST
    ) -> RedisPending:
        """See UserReader."""
        rows = [coerce_row(self._plan.join_keys, key) for key in keys]
        packed = b"".join([command.pack(ids) for ids in rows for command in self.commands])
        return RedisPending(self, packed, len(rows))

    def decode(self, replies: Sequence[Sequence[bytes | None]]) -> dict[str, Column]:
        """One row of columns, of the replies to all commands for one key."""
        columns: dict[str, Any] = dict.fromkeys(self.references)
        for command, reply in zip(self.commands, replies, strict=True):
            for part in command.parts:
                # Feast keeps no difference between a missing value and an unset one.
                messages = [Value.FromString(raw) if raw else _UNSET for raw in reply[part.start : part.end]]
                part.decoder.decode(messages, _event_time(reply[part.end]), columns)
        return columns


class RedisPending:
    """A read that was sent, or that waits for a connection to be sent on."""

    __slots__ = ("_connection", "_opening", "_packed", "_reader", "_rows")

    def __init__(self, reader: RedisReader, packed: bytes, rows: int) -> None:
        self._reader, self._packed, self._rows = reader, packed, rows
        self._opening: Opening | None = None
        self._connection = connection = reader.connections.lend()
        if connection is not None:
            try:
                connection.send_packed_command([packed], check_health=False)
                return
            except redis.RedisError:  # it died while it was idle
                self._drop()
        self._opening = reader.connections.open()

    def result(self, timeout: float) -> dict[str, Column]:
        """See Pending."""
        deadline = time.monotonic() + timeout
        try:
            replies = self._replies(deadline)
            each = len(self._reader.commands)
            return as_rows([self._reader.decode(replies[n : n + each]) for n in range(0, len(replies), each)])
        except OnlineStoreUnavailable:
            raise
        except (redis.RedisError, OSError, DecodeError) as error:
            raise unavailable(self._reader.views, error) from error
        finally:
            self.abandon()

    def abandon(self) -> None:
        """See Pending. The replies that are still to come go with the connection."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            opening.abandon()
        self._drop()

    def __del__(self) -> None:
        self.abandon()

    def _replies(self, deadline: float) -> list[Any]:
        if self._connection is not None:
            try:
                return self._receive(self._connection, deadline)
            except redis.TimeoutError:
                raise
            except redis.ConnectionError:  # it died while it was idle, which only a read shows
                self._drop()
        opening = self._opening or self._reader.connections.open()
        self._opening = None
        self._connection = connection = opening.wait(max(deadline - time.monotonic(), 0.0))
        connection.send_packed_command([self._packed], check_health=False)
        return self._receive(connection, deadline)

    def _receive(self, connection: Connection, deadline: float) -> list[Any]:
        # Only the first wait asks whether something came: with replies at hand the question itself would decode one.
        if not connection.can_read(max(deadline - time.monotonic(), 0.0)):
            raise redis.TimeoutError("no answer in time")
        replies = []
        for _ in range(self._rows * len(self._reader.commands)):
            connection.update_current_socket_timeout(max(deadline - time.monotonic(), 0.001))
            replies.append(connection.read_response(disable_decoding=True))
        self._connection = None
        self._reader.connections.give_back(connection)
        return replies

    def _drop(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._reader.connections.drop(connection)


def redis_reader(repo: Repo, plan: ReadPlan) -> RedisReader | None:
    """A reader for a plan; None for a Redis cluster, and for clients other than redis-py."""
    config = repo.store.config.online_store
    if getattr(config.client, "value", config.client) != "redis":
        return None
    # Feast's own client counts with everything that its connection string says. Making it connects to nothing.
    store: Any = repo.store.provider.online_store
    client = store._get_client(config)
    if not isinstance(client, redis.Redis):
        return None
    by_key: dict[tuple[KeyColumn, ...], list[ViewPlan]] = {}
    for view in plan.views:
        by_key.setdefault(view.keys, []).append(view)
    commands = [_Command(repo, keys, views) for keys, views in by_key.items()]
    # Each thread of the server waits for one read at a time; as many may still be opening a connection.
    return RedisReader(plan, commands, connections_of(client, 2 * repo.settings.serving.threads))


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _event_time(raw: bytes | None) -> int:
    """Unix seconds as `online_read` would give them."""
    if not raw:
        return 0
    stamp = Timestamp.FromString(raw)
    if stamp.seconds >= 0 and stamp.nanos < _SURELY_WITHIN_SECOND:
        return stamp.seconds
    return unix_seconds(datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1_000_000_000.0, tz=timezone.utc))
