"""The user's read from SQLite when the file is locked, gone, or read by many."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from feast.types import Array, Int64, String
from support.feast_repo import View, at, feast_repo
from support.oracle import assert_same, read_together

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import OnlineStoreUnavailable
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.sqlite_reader import SqliteReader
from feast_recsys.features.user_reader import user_reader

USERS = 20
REFERENCES = ["history:items", "profile:name", "history:last"]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Users whose every value says whose it is, in a folder whose name means something in a URI."""
    users = list(range(USERS))
    moments = [at(user) for user in users]
    profile = pa.table({"user_id": users, "event_timestamp": moments, "name": [f"user {user}" for user in users]})
    items = [[user] * user for user in users]
    history = pa.table({"user_id": users, "event_timestamp": moments, "items": items, "last": users})
    views = [
        View("profile", "user", {"name": String}, profile),
        View("history", "user", {"items": Array(Int64), "last": Int64}, history),
    ]
    return feast_repo(tmp_path / "50% #1?", views, materialize_until=at(1000).to_pydatetime())


def reader_of(repo: Repo) -> SqliteReader:
    reader = user_reader(repo, compile_plan(repo, REFERENCES, Side.USER))
    assert isinstance(reader, SqliteReader)
    return reader


def assert_of(user: int, columns: dict[str, Column]) -> None:
    assert list(columns) == REFERENCES
    assert columns["profile:name"][0] == f"user {user}"
    assert columns["history:items"][0].tolist() == [user] * user
    assert columns["history:last"][0] == user


@contextmanager
def locked(repo: Repo) -> Iterator[None]:
    connection = sqlite3.connect(repo.path / "online.db", isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def test_a_lock_is_waited_for_no_longer_than_allowed(repo: Repo) -> None:
    """Not a measurement: Feast's own connection would wait five seconds each time."""
    reader = reader_of(repo)
    assert_of(3, reader.begin({"user_id": 3}).result(5.0))
    with locked(repo):
        for timeout in (0.02, 0.0, 0.01):
            with pytest.raises(OnlineStoreUnavailable, match=r"history, profile.*locked"):
                reader.begin({"user_id": 3}).result(timeout)
    assert_of(4, reader.begin({"user_id": 4}).result(5.0))


def test_a_lock_that_goes_in_time_costs_nothing_but_time(repo: Repo) -> None:
    reader = reader_of(repo)
    with ThreadPoolExecutor(1) as thread:
        with locked(repo):
            read = thread.submit(reader.begin({"user_id": 5}).result, 30.0)
        assert_of(5, read.result())


def test_feasts_own_connection_is_left_as_it_was(repo: Repo) -> None:
    read_together(repo, compile_plan(repo, REFERENCES, Side.USER), {"user_id": [1]})
    connection = repo.store.provider.online_store._conn  # type: ignore[attr-defined]  # SQLite's alone
    before = connection.execute("PRAGMA busy_timeout").fetchone()
    reader_of(repo).begin({"user_id": 1}).result(0.05)
    assert connection.execute("PRAGMA busy_timeout").fetchone() == before


def test_a_store_that_is_not_there_is_not_made(repo: Repo) -> None:
    (repo.path / "online.db").unlink()
    reader = reader_of(open_repo(repo.path))
    with pytest.raises(OnlineStoreUnavailable, match="unable to open") as caught:
        reader.begin({"user_id": 1}).result(1.0)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert not (repo.path / "online.db").exists()


def test_a_table_that_is_not_there(repo: Repo) -> None:
    with sqlite3.connect(repo.path / "online.db") as connection:
        connection.execute(f'DROP TABLE "{repo.store.project}_history"')
    connection.close()
    with pytest.raises(OnlineStoreUnavailable, match="no such table"):
        reader_of(repo).begin({"user_id": 1}).result(1.0)


def test_what_another_process_writes_is_seen_by_the_next_read(repo: Repo) -> None:
    reader = reader_of(repo)
    assert_of(1, reader.begin({"user_id": 1}).result(1.0))
    with sqlite3.connect(repo.path / "online.db") as connection:
        connection.execute(f'DELETE FROM "{repo.store.project}_history"')
    connection.close()
    after = reader.begin({"user_id": 1}).result(1.0)
    assert not after["history:last"].valid[0]
    assert after["profile:name"][0] == "user 1"
    assert_same(after, read_together(repo, compile_plan(repo, REFERENCES, Side.USER), {"user_id": [1]}))


def test_threads_share_a_reader(repo: Repo) -> None:
    reader = reader_of(repo)

    def read_often(seed: int) -> None:
        for number in range(100):
            user = (seed * 7 + number) % USERS
            assert_of(user, reader.begin({"user_id": user}).result(30.0))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read_often, range(8)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_process_has_connections_of_its_own(repo: Repo) -> None:
    reader = reader_of(repo)
    assert_of(1, reader.begin({"user_id": 1}).result(5.0))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            assert_of(2, reader.begin({"user_id": 2}).result(5.0))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert_of(3, reader.begin({"user_id": 3}).result(5.0))
