"""Connections to Redis for reads on request threads: few, kept open, and never opened on the thread of a request."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feast_recsys.bundle.errors import OnlineStoreUnavailable

# What opening a connection may take where the connection string does not say: it happens in a thread of its own.
_OPENING_SECONDS = 5.0

Connection = Any  # a redis.Connection: most of its methods have no types

_shared: weakref.WeakKeyDictionary[Any, RedisConnections] = weakref.WeakKeyDictionary()
_shared_lock = threading.Lock()


class RedisConnections:
    """At most `limit` connections, made by the pool of a client and so with all its settings.

    They are not given back to that pool, whose way of lending costs about as much as the read itself. A connection
    is lent to one read at a time; after an error it is closed before another read gets it.

    Args:
        pool: Pool of a `redis.Redis` client, plain or of a sentinel.
        limit: Most connections, those being opened included.
    """

    def __init__(self, pool: redis.ConnectionPool, limit: int) -> None:
        self._pool, self._limit = pool, limit
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._idle: list[Connection] = []
        self._closed: list[Connection] = []
        self._made = 0

    @property
    def made(self) -> int:
        """Number of connections, open or not."""
        return self._made

    def lend(self) -> Connection | None:
        """An open connection that no read is using; None if there is none."""
        if os.getpid() != self._pid:
            self._forget_parent()
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def open(self) -> Opening:
        """Begins to open a connection; whoever waits for it learns why that failed."""
        try:
            opening = Opening(self, self._closed_one())
        except OnlineStoreUnavailable as error:
            return Opening(self, None, error)
        threading.Thread(target=opening.run, name="redis-connect", daemon=True).start()
        return opening

    def give_back(self, connection: Connection) -> None:
        """Takes a connection whose replies have all been read."""
        self._idle.append(connection)

    def drop(self, connection: Connection) -> None:
        """Takes a connection that may still get replies, and closes it."""
        connection.disconnect()
        self._closed.append(connection)

    def _closed_one(self) -> Connection:
        with self._lock:
            if self._closed:
                return self._closed.pop()
            if self._made >= self._limit:
                raise OnlineStoreUnavailable(f"all {self._limit} connections to Redis wait for answers")
            self._made += 1
            return self._make()

    def _make(self) -> Connection:
        try:
            connection: Connection = self._pool.make_connection()
        except redis.ConnectionError as error:
            self._made -= 1
            raise OnlineStoreUnavailable(f"no further connection to Redis: {error}; raise max_connections") from error
        # One attempt: the next request is the next one.
        connection.retry = Retry(NoBackoff(), 0)
        connection.socket_timeout = connection.socket_timeout or _OPENING_SECONDS
        connection.socket_connect_timeout = connection.socket_connect_timeout or _OPENING_SECONDS
        return connection

    def _forget_parent(self) -> None:
        """After a fork the sockets are the parent's, and its replies come in on them."""
        with self._lock:
            if os.getpid() != self._pid:
                self._idle, self._closed, self._made, self._pid = [], [], 0, os.getpid()


class Opening:
    """A connection that is being opened, for one read.

    Args:
        owner: Where it goes if nobody waits for it any more.
        connection: Closed; None if there is none to open.
        error: Then, why.
    """

    def __init__(self, owner: RedisConnections, connection: Connection, error: Exception | None = None) -> None:
        self._owner, self._connection, self._error = owner, connection, error
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = self._taken = False
        if error is not None:
            self._done.set()

    def run(self) -> None:
        """Opens it; then it belongs to the read, or to nobody if the read was abandoned."""
        try:
            self._connection.connect()
        except Exception as error:  # of Redis, of TLS, or of name resolution
            self._error = error
            self._owner.drop(self._connection)
        with self._lock:
            self._done.set()
        if self._abandoned:
            self.abandon()

    def wait(self, timeout: float) -> Connection:
        """The open connection.

        Raises:
            redis.TimeoutError: it was not open in time; it is abandoned.
            OnlineStoreUnavailable: there are as many connections as there may be, and all are in use.
            Exception: what the attempt raised.
        """
        self._done.wait(timeout)
        if not self._take():
            raise redis.TimeoutError("the connection was not open in time")
        if self._error is not None:
            raise self._error
        return self._connection

    def abandon(self) -> None:
        """Nobody will wait: the connection goes to the next read, as soon as it is open."""
        if self._take() and self._error is None:
            self._owner.give_back(self._connection)

    def _take(self) -> bool:
        """Whether there is an outcome to take, which one alone can do. If not yet, the thread that opens takes it."""
        with self._lock:
            self._abandoned = True
            if self._taken or not self._done.is_set():
                return False
            self._taken = True
            return True


def connections_of(client: redis.Redis, limit: int) -> RedisConnections:
    """The connections beside a client: one set, because readers come and go with the plans."""
    with _shared_lock:
        if client not in _shared:
            _shared[client] = RedisConnections(client.connection_pool, limit)
        return _shared[client]
