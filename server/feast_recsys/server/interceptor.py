"""What every call of the service has in common: errors become statuses, and calls are counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from feast_recsys.bundle.errors import InvalidArgument, RecsysError
from feast_recsys.bundle.filters import MAX_DEPTH
from feast_recsys.server.metrics import Metrics
from feast_recsys.v1 import recommender_service_pb2 as pb

logger = logging.getLogger(__name__)

DOMAIN = "feast_recsys"
RETRY_SECONDS = 1
SERVICE = pb.DESCRIPTOR.services_by_name["RecommenderService"].full_name

# A status travels in headers, twice, and gRPC refuses more than 8 KiB of these.
_MESSAGE_BYTES = 700
_FIELD_BYTES = 200

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ServiceInterceptor(grpc.ServerInterceptor):
    """Answers RecsysError with a rich status, any other exception with INTERNAL and a line in the log.

    Args:
        metrics: Where calls are counted.
        recommender_name: The recommender that a request's text means, "" for none: labels must not be the caller's.
    """

    def __init__(self, metrics: Metrics, recommender_name: Callable[[str], str]) -> None:
        self._metrics, self._recommender_name = metrics, recommender_name
        self._wrapped: dict[str, Handler] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the methods of our service, once each; lets health and reflection through."""
        method = handler_call_details.method
        if not method.startswith(f"/{SERVICE}/"):
            return continuation(handler_call_details)
        if method not in self._wrapped:
            handler = continuation(handler_call_details)
            if handler is None or handler.unary_unary is None or handler.request_deserializer is None:
                return handler
            self._wrapped[method] = grpc.unary_unary_rpc_method_handler(
                self._wrap(method.rpartition("/")[2], handler.unary_unary),
                _tolerant(handler.request_deserializer),
                handler.response_serializer,
            )
        return self._wrapped[method]

    def _wrap(self, rpc: str, behaviour: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            started, code, name = time.perf_counter(), "OK", ""
            try:
                if isinstance(request, DecodeError):
                    raise InvalidArgument(
                        f"the request can't be decoded: {request}; is its filter nested more than {MAX_DEPTH} deep?"
                    )
                name = request.recommender
                return behaviour(request, context)
            except RecsysError as error:
                code, status = error.code, to_status(error)
            except Exception:
                logger.exception("%s failed", rpc)
                code = "INTERNAL"
                status = to_status(RecsysError("internal error; the server's log has the details"))
            finally:
                self._metrics.request(rpc, self._recommender_name(name), code, time.perf_counter() - started)
            context.abort_with_status(rpc_status.to_status(status))

        return call


def to_status(error: RecsysError) -> status_pb2.Status:
    """The google.rpc.Status of an error: always ErrorInfo; BadRequest and RetryInfo where they apply."""
    message, field = _cut(error.message, _MESSAGE_BYTES), _cut(error.field, _FIELD_BYTES)
    metadata = {key: _cut(value, _FIELD_BYTES) for key, value in error.metadata.items()}
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.code == "INVALID_ARGUMENT":
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.code == "UNAVAILABLE":
        details.append(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=RETRY_SECONDS)))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=code_pb2.Code.Value(error.code), message=message, details=packed)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Hands a DecodeError on as the request: gRPC itself would answer INTERNAL, as if the server had failed."""

    def decode(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return error

    return decode


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[:limit].decode(errors="ignore") + " ..."
