"""A server from start to stop: gRPC, health, reflection, metrics, bundles."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.server.bundles import BundleKeeper
from feast_recsys.server.engine import Engine
from feast_recsys.server.exposition import PageServer, listen, with_port
from feast_recsys.server.interceptor import SERVICE, ServiceInterceptor
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.seat import Seat
from feast_recsys.server.servicer import RecommenderServicer
from feast_recsys.server.state import Shelf
from feast_recsys.v1 import recommender_service_pb2_grpc as pb_grpc

MESSAGE_BYTES = 16 * 2**20
"""Largest request and reply; the numbers of items have limits of their own in the settings."""
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
)


class Server:
    """One server: `start` it once, then `stop` it.

    Args:
        repo: The repository; its settings say everything else.
        address: Where to listen instead of the settings' address; port 0 takes a free one.
        on_loaded: Called after each bundle that is taken into service, in a thread of the server.
        seat: Its place among the workers that share the port, which must be held for them; None if it is alone. With a
            seat it counts for the common page and has none of its own.
    """

    def __init__(
        self,
        repo: Repo,
        *,
        address: str | None = None,
        on_loaded: Callable[[], None] | None = None,
        seat: Seat | None = None,
    ) -> None:
        self._serving = repo.settings.serving
        self._wanted = address or self._serving.address
        self._on_loaded, self._seat = on_loaded, seat
        self._ready = threading.Event()
        self._started = ExitStack()
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self.address = ""
        self.metrics_address = ""
        self.metrics = Metrics(seat.counts if seat is not None else None)
        shelf = Shelf()
        self._reads = StoreReads(
            threads=self._serving.threads,
            timeout=self._serving.store_timeout_ms / 1000,
            policy=self._serving.store_policy,
            metrics=self.metrics,
        )
        self._engine = Engine(shelf, self._reads, self._serving, self.metrics)
        self._keeper = BundleKeeper(repo, shelf, self._reads, self.metrics, self._loaded, seat)

    def start(self) -> None:
        """Listens, and begins to look for a bundle. Until there is one, calls are answered UNAVAILABLE.

        Afterwards `address` and `metrics_address` are the ones in use, with the port that was free.

        Raises:
            InvalidSettings: an address can't be listened on.
        """
        with ExitStack() as undo:
            self.metrics.open()
            if self._serving.metrics_address is not None and self._seat is None:
                self.metrics_address = self._serve_metrics(self._serving.metrics_address, undo)
            server = self._build(undo)
            self._reads.start()
            undo.callback(self._reads.stop)
            if self._seat is not None:
                # A worker that replaces another takes the bundle first, and no calls that it can't answer yet.
                self._keeper.look()
            self.address = _bind(server, self._wanted)
            self._keeper.start()
            undo.callback(self._keeper.stop)
            server.start()
            self._server = server
            self._started = undo.pop_all()

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Waits for the first bundle, at most `timeout` seconds; whether there is one."""
        return self._ready.wait(timeout)

    def stop(self, grace: float | None = None) -> None:
        """Refuses new calls, lets the running ones end, and closes everything.

        Args:
            grace: Seconds for the running calls; the settings' `drain_seconds` if None.
        """
        if self._server is None:
            return
        self._health.enter_graceful_shutdown()
        self._server.stop(self._serving.drain_seconds if grace is None else grace).wait()
        self._started.close()

    def wait(self) -> None:
        """Waits until the server has stopped."""
        if self._server is not None:
            self._server.wait_for_termination()

    def _build(self, undo: ExitStack) -> grpc.Server:
        threads = ThreadPoolExecutor(self._serving.threads, thread_name_prefix="call")
        undo.callback(threads.shutdown, wait=False)
        interceptor = ServiceInterceptor(self.metrics, self._engine.recommender_name)
        # Shared without need, a second server on the same port starts without a word and takes half of the calls.
        shared = ("grpc.so_reuseport", int(self._seat is not None))
        server = grpc.server(threads, interceptors=[interceptor], options=(*OPTIONS, shared))
        pb_grpc.add_RecommenderServiceServicer_to_server(RecommenderServicer(self._engine), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._tell_health(False)
        return server

    def _serve_metrics(self, address: str, undo: ExitStack) -> str:
        listener = listen(address)
        page = PageServer(listener, self.metrics.registry)
        page.start()
        undo.callback(page.stop)
        return with_port(address, listener)

    def _loaded(self) -> None:
        self._tell_health(True)
        if self._on_loaded is not None:
            self._on_loaded()
        self._ready.set()

    def _tell_health(self, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            self._health.set(name, response.SERVING if serving else response.NOT_SERVING)


def _bind(server: grpc.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        field = "recsys.serving.address"
        raise InvalidSettings(f"{field}: can't listen on {address!r}: {error}", field=field) from error
    return f"{address.rpartition(':')[0]}:{port}"
