"""A server of several processes, seen from outside: calls, metrics, bundles, and workers that die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from support.serving import not_yet_ready, wait_for
from support.serving_bundle import Oracle, best, publish_bundle
from support.serving_world import build_world
from support.workers import COMMAND, alive, health, server_process

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.store import point
from feast_recsys.server.app import Server
from feast_recsys.v1 import recommender_service_pb2 as pb

RANK = pb.RankRequest(recommender="both", user_id="1", item_ids=["1", "2", "3"])
RANKED = 'requests_total{code="OK",recommender="both",rpc="Rank"}'
SERVING = 1


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = build_world(tmp_path_factory.mktemp("world"), serving={"metrics_address": "127.0.0.1:0"})
    publish_bundle(world)
    return world


@pytest.fixture(scope="module")
def server(world, tmp_path_factory):
    """Two workers. Each test leaves them serving a good bundle."""
    with server_process(world, tmp_path_factory.mktemp("log") / "stderr", "--workers", "2") as server:
        yield server
        assert server.stop() == 0


def current(world) -> str:
    return (world.bundles / "CURRENT").read_text().strip()


def workers(server) -> list[int]:
    return [server.pid(f"worker-{n}") for n in (1, 2)]


class Load:
    """Calls without a pause over several connections, until it is left."""

    def __init__(self, server, connections: int = 6) -> None:
        self._server, self._connections = server, connections
        self._done = threading.Event()
        self.replies: list[pb.RankResponse] = []
        self.errors: list[grpc.RpcError] = []

    def __enter__(self):
        self._stubs = self._server.stubs(self._connections)
        self._threads = [threading.Thread(target=self._call, args=(stub,)) for stub in self._stubs.__enter__()]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        self._stubs.__exit__(*error)

    def _call(self, stub) -> None:
        while not self._done.is_set():
            try:
                self.replies.append(stub.Rank(RANK, timeout=10))
            except grpc.RpcError as error:
                self.errors.append(error)


def test_all_workers_answer_on_one_port_and_one_page_counts_for_all(server, world):
    oracle = Oracle(world, current(world))
    row = oracle.user("1")
    scores = {i: oracle.probability(row, i) for i in RANK.item_ids}
    before = server.count(RANKED)
    with server.stubs(24) as stubs:
        replies = [stub.Rank(RANK) for stub in stubs]
        sockets = {pid: connections(pid, server.address) for pid in workers(server)}
    for reply in replies:
        assert list(reply.item_ids) == best(scores, 3)
    assert sum(sockets.values()) >= 24
    assert all(sockets.values()), sockets
    page = server.metrics()
    assert page[RANKED] == before + 24
    assert page["workers"] == 2
    assert page[f'bundle_info{{bundle_id="{current(world)}"}}'] == 1
    assert page["bundle_age_seconds"] == pytest.approx(time.time() - page["bundle_as_of_seconds"], abs=60)
    assert page['request_seconds_count{rpc="Rank"}'] == page['stage_seconds_count{rpc="Rank",stage="rank"}']


def connections(pid: int, address: str) -> int:
    """Established connections of a process on the server's port."""
    import psutil

    port = int(address.rpartition(":")[2])
    found = psutil.Process(pid).net_connections("tcp")
    return sum(c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in found)


def test_a_killed_worker_is_replaced_while_the_other_answers_and_nothing_is_forgotten(server):
    victim, other = workers(server)
    with server.stubs(12) as stubs:
        for stub in stubs:
            stub.Rank(RANK)
    before = server.metrics()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: server.count("bundle_swaps_total") > before["bundle_swaps_total"], "the next worker")
    page = server.metrics()
    assert (page["workers"], page["worker_restarts_total"]) == (2, before["worker_restarts_total"] + 1)
    assert page[RANKED] == before[RANKED]
    now = workers(server)
    assert now[0] != victim
    assert now[1] == other
    assert not alive(victim)
    assert "worker-1 was killed by SIGKILL" in server.log
    with server.stubs(12) as stubs:
        assert all(list(stub.Rank(RANK).item_ids) for stub in stubs)
    assert server.count(RANKED) == before[RANKED] + 12


def test_a_worker_that_is_told_to_end_drains_and_is_replaced(server):
    before = server.metrics()
    victim = workers(server)[1]
    os.kill(victim, signal.SIGTERM)
    wait_for(lambda: server.count("bundle_swaps_total") > before["bundle_swaps_total"], "the next worker")
    assert not alive(victim)
    assert "worker-2 ended with exit code 0" in server.log


def test_a_killed_warden_is_replaced_and_its_page_goes_on(server, world):
    before = server.metrics()
    victim = server.pid("warden")
    os.kill(victim, signal.SIGKILL)
    page = server.metrics()  # the port stays open meanwhile
    assert page[RANKED] == before[RANKED]
    assert page["worker_restarts_total"] == before["worker_restarts_total"]
    assert server.pid("warden") != victim
    swap(server, world, seed=3)


def test_a_swap_under_load_fails_no_call_and_mixes_no_bundles(server, world):
    names = {current(world)}
    with Load(server) as load:
        for seed in (4, 5):
            names.add(swap(server, world, seed=seed))
        wait_for(lambda: load.replies[-1].info.bundle_id == current(world), "an answer of the new bundle")
    assert not load.errors
    oracles = {name: Oracle(world, name) for name in names}
    wanted = {}
    for name, oracle in oracles.items():
        row = oracle.user("1")
        wanted[name] = best({i: oracle.probability(row, i) for i in RANK.item_ids}, 3)
    assert {reply.info.bundle_id for reply in load.replies} <= names
    for reply in load.replies:
        assert list(reply.item_ids) == wanted[reply.info.bundle_id]


def swap(server, world, *, seed: int) -> str:
    swaps = server.count("bundle_swaps_total")
    name = publish_bundle(world, seed=seed)
    wait_for(lambda: server.count("bundle_swaps_total") >= swaps + 2, "both workers to take the new bundle")
    info = {line for line in server.metrics() if line.startswith("bundle_info")}
    assert info == {f'bundle_info{{bundle_id="{name}"}}'}
    return name


def test_a_bundle_is_released_with_the_second_one_after_it(server, world):
    """The one before stays at hand for callers that name it."""
    names = [swap(server, world, seed=seed) for seed in (6, 7, 8)]
    for pid in workers(server):
        wait_for(lambda: mapped(pid) == set(names[1:]), f"the first of {names} to go")  # noqa: B023


def mapped(pid: int) -> set[str]:
    """Bundles of which a process has a file in its memory."""
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        paths = [line.split(maxsplit=5)[-1].strip() for line in maps]
    return {path.split("/bundles/")[1].split("/")[0] for path in paths if "/bundles/" in path}


def test_a_corrupt_bundle_is_refused_once_for_all_and_the_old_one_stays(server, world):
    good = current(world)
    bad = swap(server, world, seed=9)
    swaps = server.count("bundle_swaps_total")
    point(world.bundles, good)
    wait_for(lambda: server.count("bundle_swaps_total") >= swaps + 2, "both workers to go back")
    assert settled(server, good)
    path = world.bundles / bad / "vectors.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    swaps = server.count("bundle_swaps_total")
    point(world.bundles, bad)
    wait_for(lambda: server.count("bundle_failures_total") >= 1, "the refusal")
    lines = [line for line in server.log.splitlines() if f"{bad} is refused" in line]
    assert all("warden" in line and "vectors.npy" in line and f"{good} stays" in line for line in lines)
    with server.stubs(8) as stubs:
        assert {stub.Rank(RANK).info.bundle_id for stub in stubs} == {good}
    assert server.count("bundle_swaps_total") == swaps
    swap(server, world, seed=10)


def settled(server, bundle_id: str) -> bool:
    names = {line for line in server.metrics() if line.startswith("bundle_info")}
    return names == {f'bundle_info{{bundle_id="{bundle_id}"}}'}


def test_nobody_else_gets_the_port(server, world, tmp_path):
    host, _, port = server.address.rpartition(":")
    with pytest.raises(InvalidSettings) as raised:
        Server(world.repo, address=server.address).start()
    assert raised.value.field == "recsys.serving.address"
    command = [sys.executable, "-c", COMMAND, "-c", str(world.repo.path), "serve", "--address", server.address]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "INVALID_SETTINGS" in second.stderr
    assert server.address in second.stderr
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            foreign.bind((host, int(port)))


def test_a_port_that_a_single_server_has_is_refused(world):
    with not_yet_ready(world) as single:
        command = [sys.executable, "-c", COMMAND, "-c", str(world.repo.path), "serve", "--address", single.address]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert single.address in second.stderr


def test_every_worker_is_healthy(server):
    assert [health(server.address) for _ in range(12)] == [SERVING] * 12
