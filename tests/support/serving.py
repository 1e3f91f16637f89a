"""A server in this process, and a client of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from support.serving_world import World

from feast_recsys.server.app import Server
from feast_recsys.v1.recommender_service_pb2_grpc import RecommenderServiceStub


@dataclass(frozen=True)
class Failure:
    """An error as the client sees it."""

    code: str
    message: str
    reason: str
    metadata: Mapping[str, str]
    fields: tuple[str, ...]
    retry: bool


def failure(call: Callable[[Any], Message], request: Message, **options: Any) -> Failure:
    """Makes a call that must fail, and reads the rich status."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request, **options)
    status = rpc_status.from_call(raised.value)
    assert status is not None, f"{raised.value.code()} without a rich status: {raised.value.details()}"
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    [has_info], [has_retry] = ([any(d.Unpack(m) for d in status.details)] for m in (info, retry))
    assert has_info
    assert info.domain == "feast_recsys"
    for detail in status.details:
        detail.Unpack(bad)
    fields = tuple(v.field for v in bad.field_violations)
    return Failure(raised.value.code().name, status.message, info.reason, dict(info.metadata), fields, has_retry)


@contextmanager
def serving(world: World, **options: Any) -> Iterator[tuple[Server, RecommenderServiceStub]]:
    """A server on a free port of this machine, ready, and a client of it."""
    server = Server(world.repo, **options)
    server.start()
    try:
        assert server.wait_until_ready(30)
        with connected(server) as stub:
            yield server, stub
    finally:
        server.stop(0)


@contextmanager
def connected(server: Server) -> Iterator[RecommenderServiceStub]:
    """A client of a server."""
    with grpc.insecure_channel(server.address) as channel:
        yield RecommenderServiceStub(channel)


@contextmanager
def not_yet_ready(world: World) -> Iterator[Server]:
    """A server that was started, and waits for a bundle that it can serve."""
    server = Server(world.repo)
    server.start()
    try:
        yield server
    finally:
        server.stop(0)


def counted(server: Server, name: str, **labels: str) -> float:
    """A counter of a server; 0 where nothing was counted."""
    return server.metrics.registry.get_sample_value(f"feast_recsys_{name}", labels) or 0.0


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Waits until something that must happen has happened."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)
