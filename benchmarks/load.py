"""The load generator: a process of its own that sends requests in a closed loop, bytes out and bytes in.

It takes one JSON command a line on standard input and answers one line each; it ends when standard input does.
`Loader` is the side that gives the commands.
"""

from __future__ import annotations

import base64
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from benchmarks.processes import START_SECONDS, Child
from benchmarks.traffic import Traffic, read

SERVICE = "feast_recsys.v1.RecommenderService"
CHANNELS = 8
"""Connections at concurrency above 1, so that every worker behind a shared port gets some."""
PATIENCE = 60.0
Call = Callable[..., bytes]


@dataclass(frozen=True)
class Load:
    """What came of a load.

    Attributes:
        seconds: How long it ran.
        latencies: [n] float64 seconds of the calls that succeeded.
        ends: [n] float64 when each ended, in the seconds of `time.monotonic`.
        failed: Calls that failed.
        errors: Some of their messages.
        busy: Share of one core that the load generator itself used.
    """

    seconds: float
    latencies: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    failed: int
    errors: tuple[str, ...]
    busy: float


class Loader:
    """Commands a load generator.

    Args:
        logs: Folder of its log.
        stack: Stops it.
        cores: Where it may run.
        name: For messages.
    """

    def __init__(self, logs: Path, stack: ExitStack, cores: Sequence[int], name: str = "load") -> None:
        self._child = Child(name, [sys.executable, "-m", "benchmarks.load"], logs, cores=cores)
        stack.callback(self._child.stop)

    def ready(self, address: str, timeout: float = START_SECONDS) -> float:
        """Waits until a server says that it is SERVING; when it did, in the seconds of `time.monotonic`."""
        return float(self._child.ask(timeout + PATIENCE, do="ready", address=address, patience=timeout)["at"])

    def call(self, address: str, method: str, request: bytes) -> bytes:
        """Makes one call.

        Raises:
            RuntimeError: it failed.
        """
        text = base64.b64encode(request).decode()
        answer = self._child.ask(PATIENCE, do="call", address=address, method=method, request=text)
        if "error" in answer:
            raise RuntimeError(f"{method} at {address} failed: {answer['error']}")
        return base64.b64decode(answer["reply"])

    def run(self, address: str, traffic: Traffic, concurrency: int, seconds: float) -> Load:
        """Sends requests for so long."""
        self.begin(address, traffic, concurrency, seconds)
        return self.end(seconds)

    def begin(self, address: str, traffic: Traffic, concurrency: int, seconds: float) -> None:
        """Begins to send requests; `end` must follow."""
        self._child.tell(
            do="run", address=address, method=traffic.method, path=str(traffic.path),
            concurrency=concurrency, seconds=seconds,
        )  # fmt: skip

    def interrupt(self) -> None:
        """Ends early what `begin` began."""
        self._child.process.send_signal(signal.SIGUSR1)

    def end(self, seconds: float) -> Load:
        """Waits for what `begin` began."""
        answer = self._child.hear(seconds + PATIENCE)
        latencies, ends = (np.frombuffer(base64.b64decode(answer[name]), np.float64) for name in ("latencies", "ends"))
        return Load(answer["seconds"], latencies, ends, answer["failed"], tuple(answer["errors"]), answer["busy"])


class Interrupt:
    """Set by a signal: the load ends after the calls that are under way."""

    def __init__(self) -> None:
        self.set = False
        signal.signal(signal.SIGUSR1, self._hear)

    def _hear(self, *_: object) -> None:
        self.set = True


class Channels:
    """Open connections by address: one for single calls, several for many at once."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], grpc.Channel] = {}

    def __call__(self, address: str, number: int = 0) -> grpc.Channel:
        if (address, number) not in self._open:
            options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
            self._open[address, number] = grpc.insecure_channel(address, options)
        return self._open[address, number]

    def method(self, address: str, method: str, number: int = 0) -> Call:
        """A method as a function from bytes to bytes."""
        call: Call = self(address, number).unary_unary(f"/{SERVICE}/{method}")
        return call


def ready(channels: Channels, address: str, patience: float) -> dict[str, Any]:
    """Polls health; a server without a health service is ready when it can be reached."""
    from grpc_health.v1 import health_pb2

    check = channels(address).unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=1.0, wait_for_ready=True)
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                return {"at": time.monotonic()}
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return {"at": time.monotonic()}
        time.sleep(0.01)
    raise TimeoutError(f"{address} is not ready after {patience:.0f} s")


def call(channels: Channels, address: str, method: str, request: str) -> dict[str, Any]:
    """Makes one call."""
    try:
        reply = channels.method(address, method)(base64.b64decode(request), timeout=30.0)
    except grpc.RpcError as error:
        return {"error": f"{error.code().name}: {error.details()}"}
    return {"reply": base64.b64encode(reply).decode()}


def run(
    channels: Channels,
    interrupt: Interrupt,
    address: str,
    method: str,
    requests: Sequence[bytes],
    concurrency: int,
    seconds: float,
) -> dict[str, Any]:
    """Sends requests in a closed loop from `concurrency` threads."""
    parts: list[tuple[list[float], list[float]]] = []
    errors: list[str] = []
    clock, stop = time.monotonic, time.monotonic() + seconds

    def work(number: int) -> None:
        send = channels.method(address, method, number % CHANNELS)
        latencies, ends = [], []
        at, now = number * len(requests) // concurrency, clock()
        while now < stop and not interrupt.set:
            request = requests[at % len(requests)]
            at += 1
            began = clock()
            try:
                send(request, timeout=30.0)
            except grpc.RpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")
                now = clock()
                continue
            now = clock()
            latencies.append(now - began)
            ends.append(now)
        parts.append((latencies, ends))

    began, used = clock(), time.process_time()
    if concurrency == 1:
        work(0)
    else:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    took = clock() - began
    return {
        "seconds": took,
        "latencies": _pack([value for latencies, _ in parts for value in latencies]),
        "ends": _pack([value for _, ends in parts for value in ends]),
        "failed": len(errors),
        "errors": sorted(set(errors))[:5],
        "busy": (time.process_time() - used) / took,
    }


def _pack(values: Sequence[float]) -> str:
    return base64.b64encode(np.array(values, np.float64).tobytes()).decode()


def main() -> None:
    """Answers commands until standard input ends."""
    channels, interrupt = Channels(), Interrupt()
    files: dict[str, list[bytes]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        what = command.pop("do")
        if what == "ready":
            answer = ready(channels, **command)
        elif what == "call":
            answer = call(channels, **command)
        else:
            path = command.pop("path")
            if path not in files:
                files[path] = read(Path(path))
            interrupt.set = False
            answer = run(channels, interrupt, requests=files[path], **command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
