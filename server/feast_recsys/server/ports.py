"""A port that workers share, and nobody else."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

from feast_recsys.bundle.errors import InvalidSettings

_FIELD = "recsys.serving.address"
_WILDCARDS = ("0.0.0.0", "::")


class HeldPort:
    """Keeps a port for workers that listen with SO_REUSEPORT.

    Sockets that share a port are all of one user, but may be of another server: it would take its part of the calls
    without a word. So the port must be free for a socket that shares it with nobody; then it is taken by one that
    shares it, but never listens. Whoever wants the port for themselves fails from then on.

    Args:
        address: HOST:PORT; port 0 takes a free one.
    """

    def __init__(self, address: str) -> None:
        self._wanted = address
        self._sockets = ExitStack()
        self.address = ""

    def take(self) -> None:
        """Takes the port; afterwards `address` is what workers are to listen on.

        Raises:
            InvalidSettings: the address is none, or can't be listened on.
        """
        host, _, port = self._wanted.rpartition(":")
        try:
            number = int(port)
            with ExitStack() as undo:
                for family, name in _resolve(host.strip("[]"), number):
                    if number:
                        _probe(family, name, number)
                    holder = undo.enter_context(_socket(family, socket.SO_REUSEPORT))
                    holder.bind((name, number))
                    number = holder.getsockname()[1]
                self._sockets = undo.pop_all()
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidSettings(f"{_FIELD}: can't listen on {self._wanted!r}: {error}", field=_FIELD) from error
        self.address = f"{host}:{number}"

    def close(self) -> None:
        """Gives the port up; workers that listen go on."""
        self._sockets.close()


def _resolve(host: str, port: int) -> list[tuple[int, str]]:
    """Family and numeric address of each address that gRPC would listen on."""
    if host in _WILDCARDS:  # to gRPC both mean all addresses of both families, where the machine has both
        with suppress(OSError), _socket(socket.AF_INET6, socket.SO_REUSEADDR) as probe:
            probe.bind(("::", 0))
            return [(socket.AF_INET6, "::")]
        return [(socket.AF_INET, "0.0.0.0")]
    if not host:
        raise ValueError("it names no host")
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((int(family), str(name[0])) for family, _, _, _, name in found))


def _probe(family: int, name: str, port: int) -> None:
    # SO_REUSEADDR lets it pass over connections of a server that has just ended.
    with _socket(family, socket.SO_REUSEADDR) as probe:
        probe.bind((name, port))
        probe.listen(1)


def _socket(family: int, option: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made
