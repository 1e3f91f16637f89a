"""A server from start to stop: gRPC, health, reflection, metrics, bundles."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import start_http_server

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.features.repo import Repo
from feast_recsys.server.bundles import BundleKeeper
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
COLLECT_SECONDS = 1.0


class Server:
    """One server. `start` it, and `stop` it once.

    Args:
        repo: The repository; its settings say everything else.
        address: Where to listen instead of the settings' address; port 0 takes a free one.
        on_loaded: Called after each bundle that is taken into service.
    """

    def __init__(
        self, repo: Repo, *, address: str | None = None, on_loaded: Callable[[], None] = lambda: None
    ) -> None:
        self._serving = repo.settings.serving
        self._wanted = address or self._serving.address
        self._on_loaded = on_loaded
        self._ready = threading.Event()
        self._health = health.HealthServicer()
        self._address = self._metrics_address = ""
        self._stoppers: list[Callable[[], object]] = []
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

    @property
    def address(self) -> str:
        """Host and port that it listens on; empty before `start`."""
        return self._address

    @property
    def metrics_address(self) -> str:
        """Host and port of the Prometheus endpoint; empty if there is none."""
        return self._metrics_address

    def start(self) -> None:
        """Listens, and begins to look for a bundle. Until there is one, calls are answered UNAVAILABLE.

        Raises:
            InvalidSettings: an address can't be listened on.
        """
        if self._serving.metrics_address is not None:
            self._start_metrics(self._serving.metrics_address)
        threads = ThreadPoolExecutor(self._serving.threads, thread_name_prefix="call")
        interceptor = ServiceInterceptor(self.metrics, self._engine.recommender_name)
        server = grpc.server(threads, interceptors=(interceptor,), options=OPTIONS)
        pb_grpc.add_RecommenderServiceServicer_to_server(RecommenderServicer(self._engine), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            port = server.add_insecure_port(self._wanted)
        except RuntimeError as error:
            self.stop()
            raise InvalidSettings(f"can't listen on {self._wanted}: {error}", field="recsys.serving.address") from error
        self._address = f"{self._wanted.rpartition(':')[0]}:{port}"
        self._reads.start()
        self._keeper.start()
        server.start()
        self._server = server
        self._stoppers += [self._reads.stop, self._keeper.stop, lambda: threads.shutdown(wait=False)]

    def wait_until_ready(self, timeout: float | None = None) -> bool:
        """Waits for the first bundle; whether there is one after at most `timeout` seconds."""
        return self._ready.wait(timeout)

    def stop(self, grace: float | None = None) -> None:
        """Refuses new calls, gives the running ones some seconds (the settings' `drain_seconds`), and ends."""
        self._health.enter_graceful_shutdown()
