"""The page that Prometheus reads: the numbers of one process, or the sums over several."""

from __future__ import annotations

import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from http.server import ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.server.families import BUNDLE_AGE, BUNDLE_AS_OF, BUNDLE_INFO, FAMILIES
from feast_recsys.server.tally import BUCKETS, Entry, Family, read_entries

_BOUNDS = (*map(floatToGoString, BUCKETS), "+Inf")

Values = dict[str, dict[tuple[str, ...], tuple[float, ...]]]


class Page(Collector):
    """Turns entries into Prometheus' own terms.

    Args:
        read: Gives the entries as they are now. Those of equal name and labels are summed; of gauges the largest
            counts.
    """

    def __init__(self, read: Callable[[], Iterable[Entry]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """One metric for each family that has numbers."""
        merged = _merge(self._read())
        for name, values in merged.items():
            yield _metric(FAMILIES[name], values)
        as_of = merged.get(BUNDLE_AS_OF.name, {}).get((), (0.0,))[0]
        if BUNDLE_AS_OF.name in merged:
            yield _metric(BUNDLE_AGE, {(): (time.time() - as_of if as_of else 0.0,)})


def read_folder(folder: Path) -> Iterator[Entry]:
    """The entries of every process that counts, or counted, in a folder."""
    for path in sorted(folder.glob("*.keys")):
        yield from read_entries(path.with_suffix(""))


def listen(address: str) -> socket.socket:
    """A listening socket for the page.

    Raises:
        InvalidSettings: the address can't be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        family, _, _, _, name = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((str(name[0]), int(port)), family=family)
    except (OSError, ValueError, OverflowError) as error:
        field = "recsys.serving.metrics_address"
        raise InvalidSettings(f"{field}: can't listen on {address!r}: {error}", field=field) from error


def with_port(address: str, listener: socket.socket) -> str:
    """The address with the port that the socket took."""
    return f"{address.rpartition(':')[0]}:{listener.getsockname()[1]}"


class PageServer:
    """Answers HTTP requests with a registry's page, in threads of its own.

    Args:
        listener: A listening socket; closed at the end.
        registry: What to show.
    """

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        self._listener, self._handler = listener, MetricsHandler.factory(registry)
        self._server: ThreadingHTTPServer | None = None
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        server = ThreadingHTTPServer(self._listener.getsockname()[:2], self._handler, bind_and_activate=False)
        server.socket.close()
        server.socket = self._listener
        self._server = server
        self._thread.start()

    def stop(self) -> None:
        """Closes the socket."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def _serve(self) -> None:
        assert self._server is not None
        self._server.serve_forever(poll_interval=0.1)


def _merge(entries: Iterable[Entry]) -> Values:
    merged: Values = defaultdict(dict)
    for name, labels, values in entries:
        before = merged[name].get(labels)
        if before is not None:
            join = max if FAMILIES[name].kind == "gauge" else float.__add__
            values = tuple(map(join, before, values))
        merged[name][labels] = values
    if BUNDLE_INFO.name in merged:  # bundles that were in service have 0
        merged[BUNDLE_INFO.name] = {labels: values for labels, values in merged[BUNDLE_INFO.name].items() if values[0]}
    return merged


def _metric(family: Family, values: dict[tuple[str, ...], tuple[float, ...]]) -> Metric:
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.text, labels=family.labels)
        for labels, cells in values.items():
            counts = accumulate(cells[:-1])
            histogram.add_metric(labels, list(zip(_BOUNDS, counts, strict=True)), cells[-1])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    single = kind(family.name, family.text, labels=family.labels)
    for labels, cells in values.items():
        single.add_metric(labels, cells[0])
    return single
