"""Milvus Lite as a server on a port of this machine, which any client takes for Milvus."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from milvus_lite.adapter.grpc.server import start_server_in_thread


class MilvusServer:
    """Runs in threads of this process while the body does.

    Attributes:
        address: Where clients find it; the same after a restart.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = int(free.getsockname()[1])
        self.address = f"http://127.0.0.1:{self._port}"
        self._running: tuple[Any, Any] | None = None

    def start(self) -> None:
        server, database, _ = start_server_in_thread(str(self._folder), "127.0.0.1", self._port)
        self._running = server, database
        for name in database.list_collections():  # Milvus itself remembers what was loaded
            database.get_collection(name).load()

    def stop(self) -> None:
        if self._running is not None:
            server, database = self._running
            server.stop(0).wait()
            database.close()
            self._running = None

    def __enter__(self) -> MilvusServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
