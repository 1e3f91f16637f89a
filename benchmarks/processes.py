"""Child processes by their own handles: started, pinned to a core, measured, stopped."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 20.0
START_SECONDS = 300.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Died(RuntimeError):
    """A child ended, or did not say what it should in time."""


@dataclass(frozen=True)
class Memory:
    """What one process holds, in bytes.

    Attributes:
        private: Pages that it shares with nobody.
        proportional: Its pages, shared ones divided among those who share them (PSS).
        resident: All its pages, mapped files included (RSS).
    """

    private: int
    proportional: int
    resident: int


class Child:
    """A running child. Its standard output is read line by line, its standard error goes to a file.

    Args:
        name: For messages, and the name of its log.
        command: Program and arguments.
        logs: Folder of the log.
        environment: Its environment; one BLAS thread is added, as one core is all a server has here.
        cores: Where it may run, with all that it starts; None leaves it free.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        logs: Path,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, logs / f"{name}.log"
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.started = time.monotonic()
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**(os.environ if environment is None else environment), **one_thread},
            )
        if cores is not None:
            with suppress(ProcessLookupError):  # it ended already; whoever reads from it will say so
                os.sched_setaffinity(self.process.pid, cores)
        self._rest = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    def line(self, timeout: float) -> str:
        """The next line that it prints.

        Raises:
            Died: it ended, or the time is up; has the end of its log.
        """
        assert self.process.stdout is not None
        end = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                ready = selector.select(max(end - time.monotonic(), 0.0))
                block = os.read(self.process.stdout.fileno(), 1 << 20) if ready else b""
                if not block:
                    what = "ended" if ready else f"said nothing within {timeout:.0f} s"
                    tail = self.log.read_text("utf-8", "replace")[-2000:]
                    raise Died(f"{self.name} {what}; the end of {self.log}:\n{tail}")
                self._rest += block
        text, _, self._rest = self._rest.partition(b"\n")
        return text.decode()

    def listening(self, timeout: float = START_SECONDS) -> str:
        """The address that it announces.

        Raises:
            Died: see `line`.
        """
        end = time.monotonic() + timeout
        while True:
            said = self.line(end - time.monotonic())
            if said.startswith("listening on "):
                return said.removeprefix("listening on ")

    def tell(self, **command: Any) -> None:
        """Writes a command to its standard input, as one line of JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def hear(self, timeout: float) -> dict[str, Any]:
        """The next answer that it prints, one line of JSON.

        Raises:
            Died: see `line`.
        """
        answer: dict[str, Any] = json.loads(self.line(timeout))
        return answer

    def ask(self, timeout: float, **command: Any) -> dict[str, Any]:
        """Its answer to a command.

        Raises:
            Died: see `line`.
        """
        self.tell(**command)
        return self.hear(timeout)

    def stop(self) -> None:
        """Asks it to end, waits, and ends it by force only if it does not."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in tree(self.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def tree(pid: int) -> list[int]:
    """A process and all its descendants, itself first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for known in found:  # grows while it is walked
        found += sorted(children.get(known, []))
    return found


def pin(pids: Sequence[int], cores: Sequence[int]) -> None:
    """Lets all threads of these processes, and what they start later, run on these cores only."""
    for pid in pids:
        with suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(OSError):  # ended in the meantime
                    os.sched_setaffinity(int(thread.name), cores)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time of live processes so far, user and system, of all their threads."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory(pid: int) -> Memory:
    """What one process holds now."""
    kilobytes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, rest = line.partition(":")
        kilobytes[name] = int(rest.split()[0])
    private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    return Memory(private * 1024, kilobytes["Pss"] * 1024, kilobytes["Rss"] * 1024)


def start_redis(folder: Path, logs: Path, stack: ExitStack, cores: Sequence[int] | None = None) -> tuple[Child, str]:
    """Starts a Redis server that loads `dump.rdb` of the folder, if there is one, and never saves by itself.

    Returns:
        The child, stopped by `stack`, and its address.

    Raises:
        Died: there is no `redis-server`, or it does not start.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Died("the benchmark needs redis-server on the PATH: apt-get install redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    import redis

    for _ in range(5):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [program, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        server = Child("redis", [*command, "--dir", str(folder)], logs, cores=cores)
        stack.callback(server.stop)
        end = time.monotonic() + 30
        while server.process.poll() is None and time.monotonic() < end:
            with suppress(redis.exceptions.RedisError), redis.Redis(port=port) as client:
                if client.ping():  # refused while it loads
                    return server, f"127.0.0.1:{port}"
            time.sleep(0.02)
    raise Died(f"redis-server does not start; see {logs / 'redis.log'}")
