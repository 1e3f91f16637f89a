"""Those who compete: each a process of its own with a real grpcio server, on the servers' core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from benchmarks.load import Loader
from benchmarks.processes import ROOT, Child, cpu_seconds, pin, tree
from benchmarks.repository import redis_environment
from benchmarks.world import World

OURS, OURS_WHOLE, OURS_TWO = "ours", "ours, whole graph", "ours, 2 workers"
NAIVE, NAIVE_FROZEN, HANDWRITTEN, ECHO = "naive peer", "naive peer, gc.freeze", "hand-written", "bare echo"
RANKERS = (OURS, OURS_WHOLE, OURS_TWO, NAIVE, NAIVE_FROZEN, HANDWRITTEN)
"""Those who must give the same scores."""


@dataclass(frozen=True)
class Cores:
    """Which core is whose. On a machine of one core all share it, and ratios mean little."""

    server: int
    load: int

    @classmethod
    def choose(cls) -> Cores:
        """The first core for servers, the second for load generator and Redis."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[min(1, len(cores) - 1)])

    @property
    def both(self) -> tuple[int, ...]:
        """All that is used."""
        return tuple(sorted({self.server, self.load}))


@dataclass(frozen=True)
class Place:
    """Where contenders run.

    Attributes:
        world: What is on disk.
        store: `redis` or `sqlite`.
        items: Size of the catalogue.
        redis: Address of the Redis server; None without one.
        cores: Which core is whose.
    """

    world: World
    store: str
    items: int
    redis: str | None
    cores: Cores
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", redis_environment(self.redis))

    @property
    def configuration(self) -> Path:
        """The repository's configuration file."""
        return self.world.configuration(self.store, self.items)


@dataclass(frozen=True)
class Contender:
    """A server that is ready.

    Attributes:
        name: As in the tables.
        child: Its process.
        address: Where it listens.
    """

    name: str
    child: Child
    address: str

    def pids(self) -> list[int]:
        """Its processes."""
        return tree(self.child.pid)

    def cpu(self) -> float:
        """CPU seconds that they used so far."""
        return cpu_seconds(self.pids())


def command(name: str, place: Place, *options: str) -> list[str]:
    """The command line of a contender."""
    world, configuration = place.world, str(place.configuration)
    peers = {
        NAIVE: ("naive", configuration, str(world.ranker)),
        NAIVE_FROZEN: ("naive", configuration, str(world.ranker), "--freeze"),
        HANDWRITTEN: ("handwritten", configuration, str(world.ranker), str(world.bundle(place.items))),
        ECHO: ("echo",),
    }
    if name in peers:
        module, *arguments = peers[name]
        return [sys.executable, "-m", f"benchmarks.peers.{module}", *arguments, *options]
    if name == OURS_WHOLE:
        configuration = str(world.configuration(place.store, place.items, whole=True))
    workers = ["--workers", "2" if name == OURS_TWO else "1"] if workers_supported() else []
    where = ["-c", str(place.configuration.parent), "-f", configuration]
    return [*feast_recsys(), *where, "serve", "--address", "127.0.0.1:0", *workers, *options]


def start(names: Sequence[str], place: Place, loader: Loader, stack: ExitStack) -> dict[str, Contender]:
    """Starts contenders, all at once and on all cores, waits until each is ready, and pins it.

    Raises:
        Died: one of them did not start.
        TimeoutError: one of them does not get ready.
    """
    children = {}
    for name in names:
        log = f"{place.store}-{place.items}-{name.replace(', ', '-').replace(' ', '-')}"
        children[name] = Child(log, command(name, place), place.world.logs, place.environment)
        stack.callback(children[name].stop)
    contenders = {name: Contender(name, child, child.listening()) for name, child in children.items()}
    for contender in contenders.values():
        loader.ready(contender.address)
        pin(contender.pids(), place.cores.both if contender.name == OURS_TWO else [place.cores.server])
    return contenders


@cache
def workers_supported() -> bool:
    """Whether `feast-recsys serve` has the option `--workers`."""
    text = subprocess.run([*feast_recsys(), "serve", "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    return "--workers" in text.stdout


def feast_recsys() -> list[str]:
    """The command of this environment."""
    return [str(Path(sys.executable).parent / "feast-recsys")]
