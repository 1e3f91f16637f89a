"""Milvus, as a server or as Milvus Lite inside the process, by its own client."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import IndexUnavailable, InvalidSettings
from feast_recsys.bundle.filter_plan import Plan
from feast_recsys.bundle.index.engine import LONGEST_LIST, LONGEST_TEXT, Collection, Field, breadth, values_of
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.remote_filters import ROW, milvus_expression

logger = logging.getLogger(__name__)

FILE = "milvus.db"
"""Milvus Lite's folder inside an index's."""

VECTOR = "vector"

# Connecting, at least; one call of a job; and waiting until an index is built.
_CONNECT_SECONDS, _CALL_SECONDS, _BUILD_SECONDS = 3.0, 120.0, 6 * 3600.0

# Milvus Lite hangs up on clients that ask every ten seconds whether it is there, as they do.
_NO_PINGS = {"grpc.keepalive_time_ms": 2**31 - 1}


class MilvusEngine:
    """See Engine.

    Args:
        client: A MilvusClient.
        library: Its package.
        place: For messages, without a secret.
        timeout_seconds: How long one search may take; None for as long as it takes.
        local: Path of the files of Milvus Lite; None for a server.
    """

    def __init__(
        self, client: Any, library: ModuleType, place: str, timeout_seconds: float | None, local: Path | None = None
    ) -> None:
        self.place = place
        self._client, self._library, self._timeout, self._local = client, library, timeout_seconds, local

    def create(self, collection: Collection) -> None:
        """See Engine.create."""
        types = self._library.DataType
        schema = self._library.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field(ROW, types.INT64, is_primary=True)
        schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=collection.dimension)
        for field in collection.fields.values():
            self._add(schema, field)
        with self._watched("create a collection"):
            self._client.create_collection(
                collection.name, schema=schema, consistency_level="Eventually", timeout=_CALL_SECONDS
            )

    def upsert(self, collection: Collection, rows: Rows, vectors: Vectors, columns: Mapping[str, Column]) -> None:
        """See Engine.upsert."""
        stored: dict[str, Sequence[Any]] = {ROW: rows.tolist(), VECTOR: list(vectors)}
        for reference, field in collection.fields.items():
            values = values_of(columns[reference], field)
            empty: Any = [] if field.is_list else field.dtype.zero
            stored[field.name] = [empty if value is None else value for value in values]
            if _has_presence(field):
                stored[field.present] = [value is not None for value in values]
        items = [dict(zip(stored, values, strict=True)) for values in zip(*stored.values(), strict=True)]
        with self._watched("write items"):
            self._client.upsert(collection.name, items, timeout=_CALL_SECONDS)

    def finish(self, collection: Collection) -> None:
        """See Engine.finish."""
        build, parameters = collection.spec.build, self._library.MilvusClient.prepare_index_params()
        # Milvus Lite compares a query with every item: its graph finds few of those that pass a narrow filter.
        graph = {"M": int(build["m"]), "efConstruction": int(build["building"])} if self._local is None else {}
        parameters.add_index(VECTOR, index_type="HNSW" if graph else "FLAT", metric_type="IP", params=graph)
        with self._watched("build an index"):
            self._client.flush(collection.name, timeout=_BUILD_SECONDS)
            self._client.create_index(collection.name, parameters, timeout=_BUILD_SECONDS)
            self._client.load_collection(collection.name, timeout=_BUILD_SECONDS)

    def count(self, name: str) -> int:
        """See Engine.count."""
        with self._watched("count items"):
            if not self._client.has_collection(name, timeout=_CALL_SECONDS):
                return -1
            # Strong: what every earlier write left, so that searches, which do not wait, see it as well.
            found = self._client.query(
                name, filter="", output_fields=["count(*)"], consistency_level="Strong", timeout=_CALL_SECONDS
            )
        return int(found[0]["count(*)"])

    def search(
        self, collection: Collection, queries: Vectors, k: int, where: Plan | None, share: float
    ) -> Sequence[Rows] | None:
        """See Engine.search."""
        expression = "" if where is None else milvus_expression(where, collection.fields)
        if expression is None:
            return None
        # Its graph is walked as if there were no filter, and what passes is counted.
        graph = {"ef": breadth(collection, k / share)} if self._local is None else {}
        with self._watched("search"):
            found = self._client.search(
                collection.name,
                list(queries),
                expression,
                k,
                search_params={"metric_type": "IP", "params": graph},
                anns_field=VECTOR,
                timeout=self._timeout,
            )
        return [np.array(hits.ids, np.int64) for hits in found]

    def point(self, alias: str, name: str) -> None:
        """See Engine.point."""
        with self._watched("switch an alias"):
            there = alias in self._aliases()
            (self._client.alter_alias if there else self._client.create_alias)(name, alias, timeout=_CALL_SECONDS)

    def aliased(self, alias: str) -> str | None:
        """See Engine.aliased."""
        with self._watched("look an alias up"):
            if alias not in self._aliases():
                return None
            return str(self._client.describe_alias(alias, timeout=_CALL_SECONDS)["collection_name"])

    def names(self, prefix: str) -> list[str]:
        """See Engine.names."""
        with self._watched("list collections"):
            return sorted(
                name for name in self._client.list_collections(timeout=_CALL_SECONDS) if name.startswith(prefix)
            )

    def drop(self, name: str) -> None:
        """See Engine.drop."""
        with self._watched("drop a collection"):
            if self._client.has_collection(name, timeout=_CALL_SECONDS):
                for alias in self._aliases(name):
                    self._client.drop_alias(alias, timeout=_CALL_SECONDS)
                self._client.drop_collection(name, timeout=_CALL_SECONDS)

    def close(self) -> None:
        """See Engine.close."""
        self._client.close()
        if self._local is not None:
            from milvus_lite import server_manager_instance

            server_manager_instance.release_server(str(self._local))

    def _aliases(self, name: str = "") -> list[str]:
        found = self._client.list_aliases(name, timeout=_CALL_SECONDS)
        return list(found["aliases"])

    def _add(self, schema: Any, field: Field) -> None:
        types = self._library.DataType
        # Doubles, so that an operand is read as what was stored.
        kind = {
            DType.INT64: types.INT64,
            DType.FLOAT32: types.DOUBLE,
            DType.BOOL: types.BOOL,
            DType.STRING: types.VARCHAR,
        }[field.dtype]
        limits = {"max_length": LONGEST_TEXT} if field.dtype is DType.STRING else {}
        if field.is_list:
            schema.add_field(field.name, types.ARRAY, element_type=kind, max_capacity=LONGEST_LIST, **limits)
        else:
            schema.add_field(field.name, kind, **limits)
        if _has_presence(field):
            schema.add_field(field.present, types.BOOL)

    @contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        with _watched(self._library, self.place, doing):
            yield


def milvus_server(address: str, timeout_seconds: float) -> MilvusEngine:
    """See `remote.connect`."""
    library, place = _library(), f"Milvus at {address}"
    with _watched(library, place, "connect"):
        client = library.MilvusClient(
            uri=address,
            token=os.environ.get("MILVUS_TOKEN", ""),
            dedicated=True,
            timeout=max(timeout_seconds, _CONNECT_SECONDS),
        )
    return MilvusEngine(client, library, place, timeout_seconds)


def embedded_milvus(folder: Path) -> MilvusEngine:
    """Milvus Lite over files in a folder, which it makes, locks and writes to.

    Raises:
        InvalidSettings: the client or Milvus Lite is not installed; names the extra.
        IndexUnavailable: the files can't be opened; names the folder.
    """
    library, place, path = _library(embedded=True), f"Milvus Lite in {folder}", folder / FILE
    with _watched(library, place, "open"):
        client = library.MilvusClient(uri=str(path), dedicated=True, grpc_options=_NO_PINGS)
        for name in client.list_collections():
            client.load_collection(name)
    return MilvusEngine(client, library, place, None, path)


def _has_presence(field: Field) -> bool:
    return field.nulls and not field.is_list


@contextmanager
def _watched(library: ModuleType, place: str, doing: str) -> Iterator[None]:
    rpc = library.decorators.grpc  # its errors come as they are where time is up or the caller is refused
    try:
        yield
    except (library.MilvusException, rpc.RpcError, rpc.FutureTimeoutError) as error:
        logger.warning("%s can't %s", place, doing, exc_info=error)
        raise IndexUnavailable(f"{place} can't {doing}") from error


def _library(*, embedded: bool = False) -> ModuleType:
    try:
        import pymilvus as library

        if embedded:
            import_module("milvus_lite")  # the client starts it
    except ImportError as error:
        raise InvalidSettings(
            "index kind 'milvus' needs its client; install feast-recsys[milvus], or choose another kind", field="index"
        ) from error
    module: ModuleType = library
    return module
