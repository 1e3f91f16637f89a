"""A TCP proxy that withholds answers, cuts them in half, and closes connections."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class TcpProxy:
    """Forwards to a server, and holds its answers back while told to.

    Attributes:
        accepted: Number of connections so far.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = threading.Event()
        self._open.set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._limit: int | None = None
        self.accepted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def hold(self, after: int = 0) -> None:
        """Lets so many more bytes of answers pass, and keeps what follows."""
        self._limit = after
        self._open.clear()

    def release(self) -> None:
        """Sends what was held back, and what comes."""
        self._limit = None
        self._open.set()

    def cut(self) -> None:
        """Closes all connections."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.release()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                server = socket.create_connection(self._target)
                self._pairs.append((client, server))
                threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and not self._open.is_set():
                    passing, data = data[: self._limit], data[self._limit or 0 :]
                    sink.sendall(passing)
                    self._open.wait()
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.close()
