"""The local mode of Qdrant's client behind the few REST calls that an index makes, read by the client's own models.

It stands in for the transport, not for Qdrant: no graph is built, and nothing is refused that only a server refuses.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from qdrant_client import QdrantClient, models


class QdrantServer:
    """Runs in threads of this process while the body does.

    Args:
        api_key: What requests must bring; empty for nothing.

    Attributes:
        address: Where clients find it.
        local: What answers.
        indexed: Payload indexes that were made: collection, field, type.
    """

    def __init__(self, api_key: str = "") -> None:
        self.local, self.indexed = QdrantClient(":memory:"), list[tuple[str, str, str]]()
        self._lock = threading.Lock()
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if api_key and self.headers.get("api-key") != api_key:
                    self._reply(401, {"status": {"error": "no"}})
                    return
                with served._lock:
                    result = served._answer(self.command, self.path.partition("?")[0], body)
                self._reply(200, {"result": result, "status": "ok", "time": 0.0})

            do_GET = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

            def _reply(self, code: int, document: Any) -> None:
                text = json.dumps(document).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> QdrantServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, verb: str, path: str, body: bytes) -> Any:
        for known, pattern, answer in self._calls():
            found = re.fullmatch(pattern, path)
            if known == verb and found:
                result = answer(*found.groups(), body)
                return result.model_dump(mode="json") if hasattr(result, "model_dump") else result
        raise LookupError(f"{verb} {path}")

    def _calls(self) -> list[tuple[str, str, Callable[..., Any]]]:
        name = "/collections/([^/]+)"
        return [
            ("GET", "/collections", lambda body: self.local.get_collections()),
            ("GET", "/aliases", lambda body: self.local.get_aliases()),
            ("POST", "/collections/aliases", self._alias),
            ("GET", f"{name}/exists", lambda name, body: {"exists": self.local.collection_exists(name)}),
            ("GET", name, lambda name, body: self.local.get_collection(name)),
            ("PUT", name, self._create),
            ("DELETE", name, lambda name, body: self.local.delete_collection(name)),
            ("PUT", f"{name}/index", self._index),
            ("PUT", f"{name}/points", self._upsert),
            ("POST", f"{name}/points/count", lambda name, body: self.local.count(name)),
            ("POST", f"{name}/points/query/batch", self._query),
        ]

    def _alias(self, body: bytes) -> bool:
        asked = models.ChangeAliasesOperation.model_validate_json(body)
        return self.local.update_collection_aliases(asked.actions)

    def _create(self, name: str, body: bytes) -> bool:
        asked = models.CreateCollection.model_validate_json(body)
        assert asked.hnsw_config is not None
        return self.local.create_collection(name, asked.vectors)

    def _index(self, name: str, body: bytes) -> Any:
        asked = models.CreateFieldIndex.model_validate_json(body)
        self.indexed.append((name, asked.field_name, str(asked.field_schema.value)))
        return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)

    def _upsert(self, name: str, body: bytes) -> Any:
        return self.local.upsert(name, models.PointsBatch.model_validate_json(body).batch)

    def _query(self, name: str, body: bytes) -> Any:
        searches = models.QueryRequestBatch.model_validate_json(body).searches
        for search in searches:
            assert search.params.hnsw_ef >= search.limit
            search.params = None  # of a graph
        return [answer.model_dump(mode="json") for answer in self.local.query_batch_points(name, searches)]
