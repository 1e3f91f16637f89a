"""The service: decode, call the engine, encode. Errors and times are the interceptor's."""

from __future__ import annotations

import math

import grpc

from feast_recsys.server import codec
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.engine import Engine
from feast_recsys.v1 import recommender_service_pb2 as pb
from feast_recsys.v1 import recommender_service_pb2_grpc as pb_grpc


class RecommenderServicer(pb_grpc.RecommenderServiceServicer):
    """Puts an engine on the wire."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def Retrieve(self, request: pb.RetrieveRequest, context: grpc.ServicerContext) -> pb.RetrieveResponse:  # noqa: N802
        """See the proto."""
        query = codec.retrieve_query(request)
        result = self._engine.retrieve(query, _deadline(context))
        return codec.retrieve_response(result)

    def BatchRetrieve(  # noqa: N802
        self, request: pb.BatchRetrieveRequest, context: grpc.ServicerContext
    ) -> pb.BatchRetrieveResponse:
        """See the proto."""
        query = codec.batch_retrieve_query(request)
        results = self._engine.batch_retrieve(query, _deadline(context))
        return codec.batch_retrieve_response(results)

    def Rank(self, request: pb.RankRequest, context: grpc.ServicerContext) -> pb.RankResponse:  # noqa: N802
        """See the proto."""
        query = codec.rank_query(request)
        result = self._engine.rank(query, _deadline(context))
        return codec.rank_response(result)

    def Recommend(self, request: pb.RecommendRequest, context: grpc.ServicerContext) -> pb.RecommendResponse:  # noqa: N802
        """See the proto."""
        query = codec.recommend_query(request)
        result = self._engine.recommend(query, _deadline(context))
        return codec.recommend_response(result)


def _deadline(context: grpc.ServicerContext) -> Deadline:
    remaining = context.time_remaining()
    limited = remaining is not None and math.isfinite(remaining)
    return Deadline.within(remaining if limited else None, context.is_active)
