"""The server as a process: health, reflection, metrics, signals, and what it does without."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager

import grpc
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from support.serving import connected, counted, failure, not_yet_ready, serving, wait_for
from support.serving_bundle import Oracle, best, publish_bundle, save_ranker
from support.serving_stores import locked
from support.serving_world import build_world, ranker_inputs

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.server.app import Server
from feast_recsys.server.collector import Collector
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub

SERVICE = "feast_recsys.v1.RecommenderService"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
RANK = pb.RankRequest(recommender="both", user_id="1", item_ids=["1", "2", "3"])

# Runs in a fresh interpreter. What belongs to extras can't be imported there, as if it were not installed.
PROCESS = """
import sys
from pathlib import Path

class NotInstalled:
    names = {"torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "scipy", "redis", "faiss"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
from feast_recsys.features.settings import load_settings
from feast_recsys.server.serve import serve

serve(load_settings(Path(sys.argv[1])), Path(sys.argv[1]), announce=lambda text: print(text, flush=True))
ours = {name.split(".")[1] for name in sys.modules if name.startswith("feast_recsys.")}
print("ours:", *sorted(ours), flush=True)
print("not installed:", *sorted(NotInstalled.names & set(sys.modules)), flush=True)
"""


@pytest.fixture
def world(tmp_path):
    return build_world(tmp_path)


@contextmanager
def process(world):
    """A server process, the address it listens on, and a way to read its metrics."""
    child = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(world.repo.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = [child.stdout.readline().strip() for _ in range(2)]
        assert lines[1].startswith("listening on "), child.stderr.read()
        yield child, lines[1].removeprefix("listening on "), lambda: read(lines[0].removeprefix("metrics at "))
    finally:
        child.kill()
        child.communicate()


def test_health_follows_the_bundle(world):
    with not_yet_ready(world) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        statuses = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert next(statuses).status == NOT_SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
        publish_bundle(world)
        assert next(statuses).status == SERVING
        assert server.wait_until_ready(30)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as raised:
            health.Check(health_pb2.HealthCheckRequest(service="another.Service"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        statuses.cancel()


def test_health_turns_before_the_server_stops(world):
    publish_bundle(world)
    with serving(world) as (server, _), grpc.insecure_channel(server.address) as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(statuses).status == SERVING
        stopper = threading.Thread(target=server.stop, args=(2.0,))
        stopper.start()
        assert next(statuses).status == NOT_SERVING
        statuses.cancel()
        stopper.join()


def test_reflection_lists_and_describes_the_service(service):
    stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    [answer] = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    names = {s.name for s in answer.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    [answer] = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)]))
    assert answer.file_descriptor_response.file_descriptor_proto


def test_calls_at_once_each_get_their_own_answer(service):
    requests = []
    for n in range(48):
        user, items = service.world.id(n % 6), [service.world.id(1 + (n + k) % 40) for k in range(1 + n % 9)]
        requests.append(pb.RankRequest(recommender="both", user_id=user, item_ids=items))
    one_by_one = [service.stub.Rank(r) for r in requests]
    at_once = [service.stub.Rank.future(r) for r in requests]
    assert [f.result() for f in at_once] == one_by_one


def test_an_unforeseen_error_tells_the_caller_nothing_and_the_log_everything(world, caplog):
    """ONNX Runtime fails when `age` points outside of a table of four."""
    model = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
        g (int64[B] age, float[N] price) => (float[N] output) {
            table = Constant <value_floats = [0.1, 0.2, 0.3, 0.4]> ()
            picked = Gather (table, age)
            sum = Add (picked, price)
            output = Sigmoid (sum)
        }""")
    inputs = [i for i in ranker_inputs(text=False) if i.name in ("age", "price")]
    publish_bundle(world, change=lambda staged: save_ranker(staged / "models/ranking", inputs, model) and None)
    with serving(world) as (server, stub):
        assert len(stub.Rank(RANK).item_ids) == 3
        broken = pb.RankRequest(recommender="both", user_id="1", item_ids=["1"])
        broken.context["profile:age"].int64_value = 99
        with caplog.at_level(logging.ERROR):
            error = failure(stub.Rank, broken)
        assert (error.code, error.reason) == ("INTERNAL", "INTERNAL")
        assert error.message == "internal error; the server's log has the details"
        assert counted(server, "requests_total", rpc="Rank", recommender="both", code="INTERNAL") == 1
        assert len(stub.Rank(RANK).item_ids) == 3
    [record] = [r for r in caplog.records if r.name == "feast_recsys.server.interceptor"]
    assert record.exc_info is not None
    assert "Gather" in str(record.exc_info[1])


def read(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return response.read().decode()


def test_metrics_are_there_for_prometheus(tmp_path):
    world = build_world(tmp_path, serving={"metrics_address": "127.0.0.1:0"})
    bundle_id = publish_bundle(world)
    with serving(world) as (server, stub):
        stub.Rank(RANK)
        text = read(f"http://{server.metrics_address}/metrics")
    for line in (
        'feast_recsys_requests_total{code="OK",recommender="both",rpc="Rank"} 1.0',
        'feast_recsys_request_seconds_count{rpc="Rank"} 1.0',
        'feast_recsys_stage_seconds_count{rpc="Rank",stage="rank"} 1.0',
        f'feast_recsys_bundle_info{{bundle_id="{bundle_id}"}} 1.0',
        "feast_recsys_bundle_swaps_total 1.0",
        "feast_recsys_bundle_age_seconds ",
    ):
        assert line in text


@pytest.mark.parametrize("setting", ["address", "metrics_address"])
def test_an_address_that_is_taken_is_named(world, tmp_path, setting):
    publish_bundle(world)
    taken = build_world(tmp_path / "first", serving={"metrics_address": "127.0.0.1:0"})
    with not_yet_ready(taken) as server:
        second = build_world(tmp_path / "second", serving={setting: getattr(server, setting)})
        with pytest.raises(InvalidSettings) as raised:
            Server(second.repo).start()
        assert raised.value.field == f"recsys.serving.{setting}"
        assert getattr(server, setting) in raised.value.message


def test_the_server_runs_where_nothing_of_the_extras_is_installed(tmp_path):
    world = build_world(tmp_path, serving={"metrics_address": "127.0.0.1:0"})
    bundle_id = publish_bundle(world)
    oracle = Oracle(world, bundle_id)
    row = oracle.user("1")
    wanted = {i: oracle.probability(row, i) for i in RANK.item_ids}
    with process(world) as (child, address, _), grpc.insecure_channel(address) as channel:
        wait_for(lambda: health(channel) == SERVING, "the bundle")
        reply = RecommenderServiceStub(channel).Rank(RANK)
        assert list(reply.item_ids) == best(wanted, 3)
        assert list(reply.scores) == pytest.approx([wanted[i] for i in reply.item_ids], abs=1e-6)
        child.send_signal(signal.SIGTERM)
        out, err = child.communicate(timeout=30)
        assert child.returncode == 0, err
    assert "ours: bundle features server v1\n" in out
    assert "not installed:\n" in out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_calls_end_and_refuses_new_ones(tmp_path, number):
    world = build_world(tmp_path, serving={"metrics_address": "127.0.0.1:0", "drain_seconds": 30.0})
    publish_bundle(world)
    with process(world) as (child, address, metrics), grpc.insecure_channel(address) as channel:
        stub = RecommenderServiceStub(channel)
        wait_for(lambda: health(channel) == SERVING, "the bundle")
        with locked(world):
            running = stub.Rank.future(RANK)
            begun = 'feast_recsys_stage_seconds_count{rpc="Rank",stage="gather"} 1.0'
            wait_for(lambda: begun in metrics(), "the call to begin")
            child.send_signal(number)
            wait_for(lambda: refused(address), "the port to close")
        assert len(running.result(timeout=30).item_ids) == 3
        assert not running.result().info.degraded_reasons
        _, err = child.communicate(timeout=30)
        assert child.returncode == 0, err


def health(channel) -> int:
    return health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), wait_for_ready=True).status


def refused(address: str) -> bool:
    with grpc.insecure_channel(address) as fresh:
        try:
            RecommenderServiceStub(fresh).Rank(RANK, timeout=0.2)
        except grpc.RpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_the_collector_collects_only_in_its_own_thread(world):
    publish_bundle(world)
    collector = Collector()
    collector.settle()
    collector.start()
    try:
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 10_000
        with not_yet_ready(world) as server:
            assert server.wait_until_ready(30)
            with connected(server) as stub:
                assert len(stub.Rank(RANK).item_ids) == 3
    finally:
        collector.stop()
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
