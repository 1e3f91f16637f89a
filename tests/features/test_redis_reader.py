"""The user's read from Redis when Redis, or the way to it, does not behave."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
import yaml
from feast.types import Array, Int64, String
from redis._parsers import _RESP2Parser  # noqa: PLC2701 -- what redis-py takes where hiredis is not installed
from support.feast_repo import View, at, feast_repo
from support.oracle import assert_same, read_together
from support.serving_stores import RedisProcess
from support.tcp_proxy import TcpProxy

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import OnlineStoreUnavailable
from feast_recsys.bundle.signature import Side
from feast_recsys.features.plan import compile_plan
from feast_recsys.features.redis_connections import RedisConnections
from feast_recsys.features.redis_reader import RedisReader
from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.features.user_reader import user_reader

USERS = 20
REFERENCES = ["profile:name", "history:items", "history:last"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Repo:
    """Users whose every value says whose it is."""
    users = list(range(USERS))
    moments = [at(user) for user in users]
    profile = pa.table({"user_id": users, "event_timestamp": moments, "name": [f"user {user}" for user in users]})
    items = [[user] * (user * 500) for user in users]  # up to 9,500 elements: more than one packet
    history = pa.table({"user_id": users, "event_timestamp": moments, "items": items, "last": users})
    views = [
        View("profile", "user", {"name": String}, profile),
        View("history", "user", {"items": Array(Int64), "last": Int64}, history),
    ]
    return feast_repo(
        tmp_path_factory.mktemp("stored"), views, redis=redis_server, materialize_until=at(1000).to_pydatetime()
    )


def reopened(stored: Repo, folder: Path, connection_string: str, threads: int = 8) -> Repo:
    """The same repository by another way to the same Redis."""
    document = yaml.safe_load((stored.path / "feature_store.yaml").read_text())
    document["online_store"]["connection_string"] = connection_string
    document["recsys"]["serving"] = {"threads": threads}
    file = folder / "other.yaml"
    file.write_text(yaml.safe_dump(document))
    return open_repo(stored.path, file)


def reader_of(repo: Repo) -> RedisReader:
    reader = user_reader(repo, compile_plan(repo, REFERENCES, Side.USER))
    assert isinstance(reader, RedisReader)
    return reader


def assert_of(user: int, columns: dict[str, Column]) -> None:
    assert columns["profile:name"][0] == f"user {user}"
    assert columns["history:items"][0].tolist() == [user] * (user * 500)
    assert columns["history:last"][0] == user


@pytest.fixture
def proxy(redis_server: str) -> Iterator[TcpProxy]:
    proxy = TcpProxy(redis_server)
    yield proxy
    proxy.close()


def test_all_views_of_a_user_come_by_one_command(stored: Repo) -> None:
    reader = reader_of(stored)
    assert len(reader.commands) == 1
    client = redis.Redis.from_url(f"redis://{stored.store.config.online_store.connection_string}")
    assert_of(3, reader.begin({"user_id": 3}).result(5.0))
    before = client.info("commandstats")["cmdstat_hmget"]["calls"]
    assert_of(4, reader.begin({"user_id": "4"}).result(5.0))
    assert client.info("commandstats")["cmdstat_hmget"]["calls"] == before + 1
    client.close()


def test_several_users_come_in_one_round_trip(stored: Repo, tmp_path: Path, proxy: TcpProxy) -> None:
    repo = reopened(stored, tmp_path, proxy.address)
    plan, users = compile_plan(repo, REFERENCES, Side.USER), [3, 19, 999, 0, 3]
    reader = reader_of(repo)
    keys = [{"user_id": user} for user in users]
    assert_same(reader.begin_many(keys).result(5.0), read_together(stored, plan, {"user_id": users}))
    proxy.hold()
    late = reader.begin_many(keys)
    with pytest.raises(OnlineStoreUnavailable):
        late.result(0.05)
    proxy.release()
    assert_of(1, reader.begin({"user_id": 1}).result(5.0))  # and not what is still to come for the others


@pytest.mark.parametrize("options", ["", "decode_responses=true", "protocol=3", "protocol=3,decode_responses=true"])
@pytest.mark.parametrize("parser", [None, _RESP2Parser], ids=["hiredis", "python"])
def test_however_the_client_is_set_up(stored: Repo, tmp_path: Path, options: str, parser: Any) -> None:
    address = stored.store.config.online_store.connection_string
    repo = reopened(stored, tmp_path, f"{address},{options}" if options else address)
    if parser is not None:
        client: Any = repo.store.provider.online_store
        client._get_client(repo.store.config.online_store).connection_pool.connection_kwargs["parser_class"] = parser
    reader = reader_of(repo)
    plan = compile_plan(stored, REFERENCES, Side.USER)
    for user in (1, 19, 999, 2, 1):
        assert_same(reader.begin({"user_id": user}).result(5.0), read_together(stored, plan, {"user_id": [user]}))
    assert reader.connections.made == 1


def test_a_late_answer_never_reaches_another_user(stored: Repo, tmp_path: Path, proxy: TcpProxy) -> None:
    reader = reader_of(reopened(stored, tmp_path, proxy.address))
    assert_of(1, reader.begin({"user_id": 1}).result(5.0))
    proxy.hold()
    late = [reader.begin({"user_id": user}) for user in (2, 3)]
    with pytest.raises(OnlineStoreUnavailable, match="TimeoutError"):
        late[0].result(0.05)
    late[1].abandon()
    proxy.release()
    for user in (4, 5, 6, 7):
        assert_of(user, reader.begin({"user_id": user}).result(5.0))


@pytest.mark.parametrize("parser", [None, _RESP2Parser], ids=["hiredis", "python"])
@pytest.mark.parametrize("passing", [1, 40, 5_000])
def test_half_an_answer_is_none(stored: Repo, tmp_path: Path, proxy: TcpProxy, passing: int, parser: Any) -> None:
    repo = reopened(stored, tmp_path, proxy.address)
    if parser is not None:
        client: Any = repo.store.provider.online_store
        client._get_client(repo.store.config.online_store).connection_pool.connection_kwargs["parser_class"] = parser
    reader = reader_of(repo)
    assert_of(1, reader.begin({"user_id": 1}).result(5.0))
    proxy.hold(after=passing)
    with pytest.raises(OnlineStoreUnavailable, match=r"profile, history.*TimeoutError"):
        reader.begin({"user_id": 19}).result(0.2)
    proxy.release()
    for user in (18, 2):
        assert_of(user, reader.begin({"user_id": user}).result(5.0))


def test_a_timeout_is_kept(stored: Repo, tmp_path: Path, proxy: TcpProxy) -> None:
    """Not a measurement: without a bound it would wait for ever."""
    reader = reader_of(reopened(stored, tmp_path, proxy.address))
    reader.begin({"user_id": 1}).result(5.0)
    proxy.hold()
    for _ in range(3):
        with pytest.raises(OnlineStoreUnavailable):
            reader.begin({"user_id": 2}).result(0.02)
    with pytest.raises(OnlineStoreUnavailable):
        reader.begin({"user_id": 2}).result(0.0)


def test_a_connection_that_died_while_idle_is_replaced_without_an_error(
    stored: Repo, tmp_path: Path, proxy: TcpProxy
) -> None:
    reader = reader_of(reopened(stored, tmp_path, proxy.address))
    for user in (1, 2, 3):
        assert_of(user, reader.begin({"user_id": user}).result(5.0))
        proxy.cut()
    assert reader.connections.made == 1
    assert proxy.accepted == 3


def test_a_connection_that_redis_closes_is_replaced_without_an_error(stored: Repo) -> None:
    reader = reader_of(stored)
    reader.begin({"user_id": 1}).result(5.0)
    with redis.Redis.from_url(f"redis://{stored.store.config.online_store.connection_string}") as client:
        client.client_kill_filter(_type="normal", skipme=True)
    assert_of(5, reader.begin({"user_id": 5}).result(5.0))


def test_connections_are_few(stored: Repo, tmp_path: Path, proxy: TcpProxy) -> None:
    reader = reader_of(reopened(stored, tmp_path, proxy.address, threads=2))
    pending = [reader.begin({"user_id": 7}) for _ in range(4)]
    refused = reader.begin({"user_id": 7})
    with pytest.raises(OnlineStoreUnavailable, match="all 4 connections"):
        refused.result(5.0)
    for read in pending:
        assert_of(7, read.result(5.0))
    for _ in range(10):
        assert_of(7, reader.begin({"user_id": 7}).result(5.0))
    assert reader.connections.made == 4
    assert proxy.accepted == 4


def test_readers_of_one_store_share_their_connections(stored: Repo, tmp_path: Path, proxy: TcpProxy) -> None:
    """Plans, and readers with them, are compiled anew each minute."""
    repo = reopened(stored, tmp_path, proxy.address)
    for user in range(10):
        assert_of(user, reader_of(repo).begin({"user_id": user}).result(5.0))
    assert proxy.accepted == 1


def test_the_pool_may_set_a_lower_bound(stored: Repo, tmp_path: Path, redis_server: str) -> None:
    reader = reader_of(reopened(stored, tmp_path, f"{redis_server},max_connections=1"))
    first, second = reader.begin({"user_id": 1}), reader.begin({"user_id": 2})
    assert_of(1, first.result(5.0))
    with pytest.raises(OnlineStoreUnavailable, match="max_connections"):
        second.result(5.0)


def test_no_redis_at_all(stored: Repo, tmp_path: Path) -> None:
    reader = reader_of(reopened(stored, tmp_path, "127.0.0.1:1"))
    for _ in range(30):
        with pytest.raises(OnlineStoreUnavailable, match=r"profile, history.*ConnectionError") as caught:
            reader.begin({"user_id": 1}).result(5.0)
        assert caught.value.__cause__ is not None
    assert reader.connections.made == 1


def test_a_host_without_a_name_is_unavailable_and_not_an_error_of_ours(stored: Repo, tmp_path: Path) -> None:
    reader = reader_of(reopened(stored, tmp_path, "nowhere.invalid:6379"))
    with pytest.raises(OnlineStoreUnavailable):
        reader.begin({"user_id": 1}).result(5.0)


def test_an_outage_from_end_to_end(stored: Repo, tmp_path: Path) -> None:
    """Frozen, then killed: each read fails in its own time, and the first after the outage succeeds."""
    server = RedisProcess(tmp_path)
    try:
        repo = reopened(stored, tmp_path, server.address)
        reader = reader_of(repo)
        unknown = reader.begin({"user_id": 1}).result(5.0)
        assert not any(column.valid[0] for column in unknown.values())
        with server.frozen():
            for _ in range(40):  # more than there are connections
                with pytest.raises(OnlineStoreUnavailable):
                    reader.begin({"user_id": 1}).result(0.01)
        deadline = time.monotonic() + 30
        while True:  # connections that were being opened while it froze come back when they are open
            try:
                assert_same(reader.begin({"user_id": 1}).result(5.0), unknown)
                break
            except OnlineStoreUnavailable:
                assert time.monotonic() < deadline
    finally:
        server.kill()
    with pytest.raises(OnlineStoreUnavailable):
        reader.begin({"user_id": 1}).result(5.0)


def test_an_error_of_redis_is_unavailable_and_leaves_the_next_read_alone(stored: Repo, tmp_path: Path) -> None:
    server = RedisProcess(tmp_path)
    try:
        reader = reader_of(reopened(stored, tmp_path, server.address))
        key = reader.commands[0].pack({"user_id": 1}).split(b"\r\n")[4]
        with redis.Redis.from_url(f"redis://{server.address}") as client:
            client.set(key, "no hash")
        with pytest.raises(OnlineStoreUnavailable, match="WRONGTYPE"):
            reader.begin({"user_id": 1}).result(5.0)
        assert not any(column.valid[0] for column in reader.begin({"user_id": 2}).result(5.0).values())
    finally:
        server.kill()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")  # this child only looks
def test_a_child_process_has_connections_of_its_own(stored: Repo) -> None:
    reader = reader_of(stored)
    assert_of(1, reader.begin({"user_id": 1}).result(5.0))
    inherited = reader.connections.lend()
    assert inherited is not None
    reader.connections.give_back(inherited)
    child = os.fork()
    if child == 0:
        # No thread but this one is left, so it only looks and goes.
        os._exit(0 if reader.connections.lend() is None and reader.connections.made == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert_of(2, reader.begin({"user_id": 2}).result(5.0))


def test_threads_share_a_reader(stored: Repo) -> None:
    reader = reader_of(stored)

    def read_often(seed: int) -> None:
        for number in range(100):
            user = (seed * 7 + number) % USERS
            read = reader.begin({"user_id": user})
            if number % 9 == seed:
                read.abandon()
            else:
                assert_of(user, read.result(10.0))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(read_often, range(8)))
    assert isinstance(reader.connections, RedisConnections)
    assert reader.connections.made <= 16


def test_other_clients_have_no_such_reader(stored: Repo, tmp_path: Path) -> None:
    address = stored.store.config.online_store.connection_string
    repo = reopened(stored, tmp_path, address)
    repo.store.config.online_store.client = "glide"
    assert user_reader(repo, compile_plan(repo, REFERENCES, Side.USER)) is None


def test_a_sentinel_leads_to_the_master(stored: Repo, tmp_path: Path, redis_server: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host, _, master = redis_server.partition(":")
    file = tmp_path / "sentinel.conf"
    file.write_text(f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor mymaster {host} {master} 1\n")
    program = shutil.which("redis-server")
    assert program is not None
    process = subprocess.Popen([program, str(file), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        repo = reopened(stored, tmp_path, f"127.0.0.1:{port}")
        repo.store.config.online_store.redis_type = "redis_sentinel"
        reader = reader_of(repo)
        deadline = time.monotonic() + 30
        while True:  # until the sentinel listens
            try:
                assert_of(6, reader.begin({"user_id": 6}).result(5.0))
                break
            except OnlineStoreUnavailable:
                assert time.monotonic() < deadline
        assert_of(7, reader.begin({"user_id": 7}).result(5.0))
    finally:
        process.terminate()
        process.wait()
