from __future__ import annotations

import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from support.serving import Oracle, World, build_world, publish_bundle, serving

from feast_recsys.server.app import Server
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub


@dataclass(frozen=True)
class Service:
    """A world, a server for it, a client, and what the answers should be."""

    world: World
    server: Server
    stub: RecommenderServiceStub
    bundle_id: str
    oracle: Oracle


@pytest.fixture(scope="session", params=["sqlite", "redis", "sqlite, text ids"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server for all tests that change nothing, on either store, and once with ids that are text."""
    address = request.getfixturevalue("redis_server") if request.param == "redis" else None
    world = build_world(tmp_path_factory.mktemp("world"), redis=address, text="text" in request.param)
    bundle_id = publish_bundle(world)
    with serving(world) as (server, stub):
        yield Service(world, server, stub, bundle_id, Oracle(world, bundle_id))


class RedisProcess:
    """A Redis server of one test's own, to stop and to kill."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        program = shutil.which("redis-server")
        assert program is not None
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--dir", str(folder)]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        for _ in range(500):
            try:
                with redis.Redis(port=self.port) as client:
                    client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.02)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Accepts connections, and answers nothing."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    yield process
    process.kill()


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Lets every read of a world's SQLite store wait."""
    connection = sqlite3.connect(world.repo.path / "online.db", isolation_level=None)
    try:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()
