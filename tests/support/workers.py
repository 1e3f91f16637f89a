"""`feast-recsys serve` as a user starts it: a process tree of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.serving import wait_for
from support.serving_world import World

from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

COMMAND = "from feast_recsys.cli.main import main; main()"


class ServerProcess:
    """A running server: its supervisor, and what can be seen of it from outside."""

    def __init__(self, process: subprocess.Popen[str], log: Path, metrics: str, address: str) -> None:
        self.process, self._log, self._metrics, self.address = process, log, metrics, address

    @property
    def log(self) -> str:
        return self._log.read_text()

    def metrics(self) -> dict[str, float]:
        """The page, by name and labels as they are written there."""
        with urllib.request.urlopen(self._metrics, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name.removeprefix("feast_recsys_"): float(value) for name, _, value in pairs}

    def count(self, name: str) -> float:
        return self.metrics().get(name, 0.0)

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def pid(self, name: str) -> int:
        """Of the process that the log calls so; the last one of that name."""
        return int(re.findall(rf"{name} is process (\d+)", self.log)[-1])

    @contextmanager
    def stubs(self, connections: int) -> Iterator[list[RecommenderServiceStub]]:
        """Clients with a connection each; the kernel spreads these over the workers."""
        with ExitStack() as stack:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.insecure_channel(self.address, options) for _ in range(connections)]
            yield [RecommenderServiceStub(stack.enter_context(channel)) for channel in channels]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


@contextmanager
def server_process(world: World, log: Path, *options: str, ready: bool = True) -> Iterator[ServerProcess]:
    """Starts a server, waits until it listens, and ends what is left of it."""
    command = [sys.executable, "-c", COMMAND, "-c", str(world.repo.path), "serve", *options]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().strip() for _ in range(2)]
        assert lines[1].startswith("listening on "), log.read_text()
        metrics, address = lines[0].removeprefix("metrics at "), lines[1].removeprefix("listening on ")
        server = ServerProcess(process, log, metrics, address)
        if ready:
            workers = server.count("workers")
            wait_for(lambda: server.count("bundle_swaps_total") >= workers, "all workers to have the bundle")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def health(address: str, **options: Any) -> int:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        request = health_pb2.HealthCheckRequest()
        return health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True, **options).status
