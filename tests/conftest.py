from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

# First, so that Feast never gets to set its Prometheus variables.
import feast_recsys.features.feast_api  # noqa: F401


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of this test session's own, as host:port. It keeps nothing on disk."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("these tests need redis-server: apt-get install redis-server, or brew install redis")
    folder = tmp_path_factory.mktemp("redis")
    process, port = _start(program, folder)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait(timeout=10)


@pytest.fixture(params=["sqlite", "redis"])
def redis_or_none(request: pytest.FixtureRequest) -> str | None:
    """Runs a test once per online store: None for SQLite, else the address of a Redis server."""
    address: str | None = request.getfixturevalue("redis_server") if request.param == "redis" else None
    return address


def _start(program: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        if _answers(process, port):
            return process, port
        process.kill()  # somebody else took the port
        process.wait()
    raise RuntimeError("redis-server does not start")


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with redis.Redis(port=port) as client:
                return bool(client.ping())
        except redis.ConnectionError:
            time.sleep(0.02)
    return False
