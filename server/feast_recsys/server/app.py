"""A server from start to stop: gRPC, health, reflection, metrics, bundles."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.server.bundles import BundleKeeper
from feast_recsys.server.collector import Collector
from feast_recsys.server.engine import Engine
from feast_recsys.server.interceptor import SERVICE, ServiceInterceptor
from feast_recsys.server.metrics import Metrics
from feast_recsys.server.reads import StoreReads
from feast_recsys.server.servicer import RecommenderServicer
from feast_recsys.server.state import Shelf
from feast_recsys.v1 import recommender_service_pb2_grpc as pb_grpc

logger = logging.getLogger(__name__)

MESSAGE_BYTES = 16 * 2**20
"""Largest request and reply; the numbers of items have limits of their own in the settings."""
OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    # Otherwise a second server on the same port starts without a word and takes half of the calls.
    ("grpc.so_reuseport", 0),
)


class Server:
    """One server: `start` it once, then `stop` it.

    Args:
        repo: The repository; its settings say everything else.
        address: Where to listen instead of the settings' address; port 0 takes a free one.
        on_loaded: Called after each bundle that is taken into service, in a thread of the server.
    """

    def __init__(self, repo: Repo, *, address: str | None = None, on_loaded: Callable[[], None] | None = None) -> None:
        self._serving = repo.settings.serving
        self._wanted = address or self._serving.address
        self._on_loaded = on_loaded
        self._ready = threading.Event()
        self._started = ExitStack()
        self._health = health.HealthServicer()
        self._server: grpc.Server | None = None
        self.address = ""
        self.metrics_address = ""
        self.metrics = Metrics()
        shelf = Shelf()
        self._reads = StoreReads(
            threads=self._serving.threads,
            timeout=self._serving.store_timeout_ms / 1000,
            policy=self._serving.store_policy,
            metrics=self.metrics,
        )
        self._engine = Engine(shelf, self._reads, self._serving, self.metrics)
        self._keeper = BundleKeeper(repo, shelf, self._reads, self.metrics, self._loaded)

    def start(self) -> None:
        """Listens, and begins to look for a bundle. Until there is one, calls are answered UNAVAILABLE.

        Afterwards `address` and `metrics_address` are the ones in use, with the port that was free.

        Raises:
            InvalidSettings: an address can't be listened on.
        """
        with ExitStack() as undo:
            if self._serving.metrics_address is not None:
                self.metrics_address = self._serve_metrics(self._serving.metrics_address, undo)
            server = self._build(undo)
            self.address = _bind(server, self._wanted)
            self._reads.start()
            undo.callback(self._reads.stop)
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
        server = grpc.server(threads, interceptors=[interceptor], options=OPTIONS)
        pb_grpc.add_RecommenderServiceServicer_to_server(RecommenderServicer(self._engine), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._tell_health(False)
        return server

    def _serve_metrics(self, address: str, undo: ExitStack) -> str:
        host, _, port = address.rpartition(":")
        try:
            httpd, thread = start_http_server(int(port), host.strip("[]"), self.metrics.registry)
        except (OSError, ValueError) as error:
            field = "recsys.serving.metrics_address"
            raise InvalidSettings(f"{field}: can't listen on {address!r}: {error}", field=field) from error
        undo.callback(thread.join)
        undo.callback(httpd.server_close)
        undo.callback(httpd.shutdown)
        return f"{host}:{httpd.server_port}"

    def _loaded(self) -> None:
        self._tell_health(True)
        if self._on_loaded is not None:
            self._on_loaded()
        self._ready.set()

    def _tell_health(self, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        for name in ("", SERVICE):
            self._health.set(name, response.SERVING if serving else response.NOT_SERVING)


def serve(repo: Repo, *, address: str | None = None, announce: Callable[[str], None] = logger.info) -> None:
    """Serves until SIGTERM or SIGINT, then drains. For a process of its own: it takes over signals and collector.

    Args:
        repo: The repository.
        address: Where to listen instead of the settings' address.
        announce: Told where metrics are and where the server listens, a line each, once it does.

    Raises:
        InvalidSettings: an address can't be listened on.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    collector = Collector()
    server = Server(repo, address=address, on_loaded=collector.settle)
    server.start()
    if server.metrics_address:
        announce(f"metrics at http://{server.metrics_address}/metrics")
    announce(f"listening on {server.address}")
    collector.start()
    stopping.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
    logger.info("draining for at most %g s", repo.settings.serving.drain_seconds)
    server.stop()
    collector.stop()


def _bind(server: grpc.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        field = "recsys.serving.address"
        raise InvalidSettings(f"{field}: can't listen on {address!r}: {error}", field=field) from error
    return f"{address.rpartition(':')[0]}:{port}"
