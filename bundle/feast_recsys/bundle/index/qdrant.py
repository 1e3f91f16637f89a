"""Qdrant, as a server or as its client's local mode, by its own client."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import IndexUnavailable, InvalidSettings
from feast_recsys.bundle.filter_plan import Plan
from feast_recsys.bundle.index.engine import Collection, breadth, values_of
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.remote_filters import qdrant_filter

logger = logging.getLogger(__name__)

# One call of a job, waiting until an index is built, and between looks at it.
_CALL_SECONDS, _BUILD_SECONDS, _PAUSE_SECONDS = 120.0, 6 * 3600.0, 0.2

_INDEXED = {DType.INT64: "integer", DType.FLOAT32: "float", DType.BOOL: "bool", DType.STRING: "keyword"}


class QdrantEngine:
    """See Engine.

    Args:
        library: The package `qdrant_client`.
        place: For messages, without a secret.
        client: For jobs.
        searching: For searches: it gives up sooner.
        local: Whether both are the local mode, which compares a query with every item.
    """

    def __init__(self, library: ModuleType, place: str, client: Any, searching: Any, *, local: bool = False) -> None:
        self.place = place
        self._library, self._client, self._searching, self._local = library, client, searching, local

    def reach(self) -> None:
        """Asks the server whether it is there, and whether it answers us; gives up as soon as a search."""
        with self._watched("connect"):
            self._searching.get_collections()

    def create(self, collection: Collection) -> None:
        """See Engine.create."""
        models, build = self._library.models, collection.spec.build
        with self._watched("create a collection"):
            self._client.create_collection(
                collection.name,
                vectors_config=models.VectorParams(size=collection.dimension, distance=models.Distance.DOT),
                hnsw_config=models.HnswConfigDiff(m=int(build["m"]), ef_construct=int(build["building"])),
            )
            if not self._local:
                # Before the items, so that the graph is built with links for filters.
                for field in collection.fields.values():
                    kind = models.PayloadSchemaType(_INDEXED[field.dtype])
                    self._client.create_payload_index(collection.name, field.name, kind, wait=True)

    def upsert(self, collection: Collection, rows: Rows, vectors: Vectors, columns: Mapping[str, Column]) -> None:
        """See Engine.upsert."""
        fields = collection.fields
        stored = {field.name: values_of(columns[reference], field) for reference, field in fields.items()}
        payloads = [
            {name: values[n] for name, values in stored.items() if values[n] is not None} for n in range(len(rows))
        ]
        batch = self._library.models.Batch(ids=rows.tolist(), vectors=vectors.tolist(), payloads=payloads)
        with self._watched("write items"):
            self._client.upsert(collection.name, batch, wait=True)

    def finish(self, collection: Collection) -> None:
        """See Engine.finish."""
        until = time.monotonic() + _BUILD_SECONDS
        with self._watched("build an index"):
            while self._client.get_collection(collection.name).status != self._library.models.CollectionStatus.GREEN:
                if time.monotonic() > until:
                    raise IndexUnavailable(f"{self.place} has not built its index after {_BUILD_SECONDS:,.0f} s")
                time.sleep(_PAUSE_SECONDS)

    def count(self, name: str) -> int:
        """See Engine.count."""
        with self._watched("count items"):
            if not self._client.collection_exists(name):
                return -1
            return int(self._client.count(name, exact=True).count)

    def search(
        self, collection: Collection, queries: Vectors, k: int, where: Plan | None, share: float
    ) -> Sequence[Rows] | None:
        """See Engine.search."""
        models, document = self._library.models, None
        if where is not None:
            document = qdrant_filter(where, collection.fields)
            if document is None:
                return None
        passing = models.Filter(**document) if document is not None else None
        # Its graph has links among what passes, so that nothing is lost by a narrow filter.
        graph = None if self._local else models.SearchParams(hnsw_ef=breadth(collection, k))
        requests = [
            models.QueryRequest(query=query, filter=passing, limit=k, params=graph) for query in queries.tolist()
        ]
        with self._watched("search"):
            found = self._searching.query_batch_points(collection.name, requests)
        return [np.array([point.id for point in answer.points], np.int64) for answer in found]

    def point(self, alias: str, name: str) -> None:
        """See Engine.point."""
        models = self._library.models
        create = models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
        delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
        there = self.aliased(alias) is not None
        with self._watched("switch an alias"):
            self._client.update_collection_aliases([delete, create] if there else [create])

    def aliased(self, alias: str) -> str | None:
        """See Engine.aliased."""
        with self._watched("look an alias up"):
            found = self._client.get_aliases().aliases
        return next((str(a.collection_name) for a in found if a.alias_name == alias), None)

    def names(self, prefix: str) -> list[str]:
        """See Engine.names."""
        with self._watched("list collections"):
            found = self._client.get_collections().collections
        return sorted(c.name for c in found if c.name.startswith(prefix))

    def drop(self, name: str) -> None:
        """See Engine.drop."""
        with self._watched("drop a collection"):
            if self._client.collection_exists(name):
                self._client.delete_collection(name)

    def close(self) -> None:
        """See Engine.close."""
        self._client.close()
        self._searching.close()

    @contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        with _watched(self._library, self.place, doing):
            yield


def qdrant_server(address: str, timeout_seconds: float) -> QdrantEngine:
    """See `remote.connect`."""
    library, place, secret = _library(), f"Qdrant at {address}", os.environ.get("QDRANT_API_KEY") or None

    def client(seconds: float) -> Any:
        # The port is part of the address: what it says counts, and else what its scheme means.
        # It rounds seconds up to whole ones, so they are put into each request.
        def hurry(request: Any) -> None:
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), seconds)

        return library.QdrantClient(
            url=address, port=None, api_key=secret, check_compatibility=False, event_hooks={"request": [hurry]}
        )

    engine = QdrantEngine(library, place, client(_CALL_SECONDS), client(timeout_seconds))
    try:
        engine.reach()
    except IndexUnavailable:
        engine.close()
        raise
    return engine


def embedded_qdrant() -> QdrantEngine:
    """The local mode, in memory and empty; it compares a query with every item.

    Raises:
        InvalidSettings: the client is not installed; names the extra.
    """
    library = _library()
    client = library.QdrantClient(":memory:")
    return QdrantEngine(library, "Qdrant in this process", client, client, local=True)


@contextmanager
def _watched(library: ModuleType, place: str, doing: str) -> Iterator[None]:
    try:
        yield
    except library.http.exceptions.ApiException as error:
        logger.warning("%s can't %s", place, doing, exc_info=error)
        raise IndexUnavailable(f"{place} can't {doing}") from error


def _library() -> ModuleType:
    try:
        import qdrant_client as library
    except ImportError as error:
        raise InvalidSettings(
            "index kind 'qdrant' needs its client; install feast-recsys[qdrant], or choose another kind", field="index"
        ) from error
    module: ModuleType = library
    return module
