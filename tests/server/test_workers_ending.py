"""How a server of several processes begins and ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from support.serving import wait_for
from support.serving_bundle import publish_bundle
from support.serving_stores import locked
from support.serving_world import build_world
from support.workers import COMMAND, alive, server_process

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.settings import parse_settings
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

RANK = pb.RankRequest(recommender="both", user_id="1", item_ids=["1", "2", "3"])
BEGUN = 'stage_seconds_count{rpc="Rank",stage="gather"}'


@pytest.fixture
def world(tmp_path):
    # Calls that wait for a locked store must still wait when a busy machine has sent the signals.
    patient = {"drain_seconds": 30.0, "store_timeout_ms": 60_000}
    world = build_world(tmp_path / "world", serving={"metrics_address": "127.0.0.1:0", "workers": 2, **patient})
    publish_bundle(world)
    return world


def begin_calls(server, stubs):
    """A call on each connection, of which none ends while the store is locked."""
    running = [stub.Rank.future(RANK, wait_for_ready=True) for stub in stubs]
    wait_for(lambda: server.count(BEGUN) >= len(running), "the calls to begin")
    return running


def refused(address: str) -> bool:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as fresh:
        try:
            RecommenderServiceStub(fresh).Rank(RANK, timeout=0.2)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


@pytest.mark.parametrize("whom", ["the supervisor", "every process"])
def test_a_signal_lets_the_calls_of_all_workers_end_and_refuses_new_ones(world, tmp_path, whom):
    """Service managers signal every process of a service, and a terminal does the same for Ctrl-C."""
    number = signal.SIGTERM if whom == "the supervisor" else signal.SIGINT
    with server_process(world, tmp_path / "log") as server, server.stubs(8) as stubs:
        children = server.children()
        assert len(children) == 3
        shared = {Path(path).parent for pid in children for path in counts(pid)}
        with locked(world):
            running = begin_calls(server, stubs)
            for pid in children if whom == "every process" else ():
                signal_process(pid, number)
            server.process.send_signal(number)
            wait_for(lambda: refused(server.address), "the port to close")
        for call in running:
            reply = call.result(timeout=30)
            assert len(reply.item_ids) == 3
            assert not reply.info.degraded_reasons
        assert server.process.wait(timeout=30) == 0
        assert not any(map(alive, children))
        assert len(shared) == 1
        assert not shared.pop().exists()


def counts(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[-1] for line in lines if line.endswith(".cells")]


def signal_process(pid: int, number: int) -> None:
    import os

    os.kill(pid, number)


def test_a_second_signal_ends_everything_at_once(world, tmp_path):
    with server_process(world, tmp_path / "log") as server, server.stubs(4) as stubs, locked(world):
        children = server.children()
        begin_calls(server, stubs)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: refused(server.address), "the port to close")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=10) == -signal.SIGTERM
        assert not any(map(alive, children))


def test_when_the_supervisor_is_killed_all_others_drain_and_end(world, tmp_path):
    with server_process(world, tmp_path / "log") as server, server.stubs(4) as stubs:
        children = server.children()
        with locked(world):
            running = begin_calls(server, stubs)
            server.process.kill()
            wait_for(lambda: refused(server.address), "the port to close")
        assert all(len(call.result(timeout=30).item_ids) == 3 for call in running)
        wait_for(lambda: not any(map(alive, children)), "the children to end")


def test_without_a_bundle_it_listens_and_waits_for_one(tmp_path):
    world = build_world(tmp_path / "world", serving={"metrics_address": "127.0.0.1:0"})
    with server_process(world, tmp_path / "log", "--address", "localhost:0", ready=False) as server:
        with server.stubs(1) as [stub], pytest.raises(grpc.RpcError) as raised:
            stub.Rank(RANK, wait_for_ready=True)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        publish_bundle(world)
        wait_for(lambda: server.count("bundle_swaps_total") >= 1, "the bundle")
        with server.stubs(1) as [stub]:
            assert len(stub.Rank(RANK).item_ids) == 3


@pytest.mark.parametrize("setting", ["address", "metrics_address"])
@pytest.mark.parametrize("value", ["127.0.0.1:1e9", "nowhere.invalid:0", "192.0.2.1:0", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_told_before_feast_is_imported(tmp_path, setting, value):
    (tmp_path / "feature_store.yaml").write_text(
        f"recsys: {{catalogue: c, recommenders: {{r: {{}}}}, serving: {{{setting}: '{value}'}}}}\n"
    )
    command = [sys.executable, "-X", "importtime", "-c", COMMAND, "-c", str(tmp_path), "serve"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"recsys.serving.{setting}: can't listen on '{value}'" in result.stderr
    assert "| feast\n" not in result.stderr


@pytest.mark.parametrize("value", [0, -1, "many", None])
def test_the_number_of_workers_is_checked(value):
    section = {"catalogue": "c", "recommenders": {"r": {}}, "serving": {"workers": value}}
    with pytest.raises(InvalidSettings) as raised:
        parse_settings(section, Path("feature_store.yaml"))
    assert raised.value.field == "recsys.serving.workers"


def test_a_repository_that_feast_refuses_ends_the_server(tmp_path):
    (tmp_path / "feature_store.yaml").write_text("recsys: {catalogue: c, recommenders: {r: {}}}\n")
    command = [sys.executable, "-c", COMMAND, "-c", str(tmp_path), "serve", "--address", "127.0.0.1:0"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "INVALID_REPOSITORY" in result.stderr
