from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from support.serving import serving
from support.serving_bundle import Oracle, publish_bundle
from support.serving_stores import RedisProcess
from support.serving_world import World, build_world

from feast_recsys.server.app import Server
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub


@dataclass(frozen=True)
class Service:
    """A world, a server for it, a client, and what the answers should be."""

    world: World
    server: Server
    channel: grpc.Channel
    stub: RecommenderServiceStub
    bundle_id: str
    oracle: Oracle


@pytest.fixture(scope="session", params=["sqlite", "redis", "sqlite, text ids"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One server for all tests that change nothing, on either store, and once with ids that are text."""
    address = request.getfixturevalue("redis_server") if request.param == "redis" else None
    world = build_world(tmp_path_factory.mktemp("world"), redis=address, text="text" in request.param)
    bundle_id = publish_bundle(world)
    with serving(world) as (server, stub), grpc.insecure_channel(server.address) as channel:
        yield Service(world, server, channel, stub, bundle_id, Oracle(world, bundle_id))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisProcess]:
    process = RedisProcess(tmp_path)
    yield process
    process.kill()
