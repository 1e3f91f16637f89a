"""Between messages and the engine's values: field by field, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filters import Comparison, Compound, Filter, check_depth
from feast_recsys.server.requests import (
    BatchRetrieveQuery,
    Cap,
    ContextValue,
    Eligibility,
    Info,
    Ranked,
    RankQuery,
    Recommended,
    RecommendQuery,
    Reranking,
    Retrieved,
    RetrieveQuery,
    UserStatus,
)
from feast_recsys.v1 import recommender_service_pb2 as pb

MAX_FILTERS = 1000
"""Comparisons and compounds of one request together; IN does the work of a thousand EQ."""

_COMPARISONS = {
    number: name.removeprefix("COMPARISON_TYPE_").lower() for name, number in pb.ComparisonType.items() if number
}
_COMPOUNDS = {number: name.removeprefix("COMPOUND_TYPE_").lower() for name, number in pb.CompoundType.items() if number}

_USER_STATUSES = {
    UserStatus.UNSPECIFIED: pb.USER_STATUS_UNSPECIFIED,
    UserStatus.KNOWN: pb.USER_STATUS_KNOWN,
    UserStatus.UNKNOWN: pb.USER_STATUS_UNKNOWN,
}


def retrieve_query(request: pb.RetrieveRequest) -> RetrieveQuery:
    """Decodes a request.

    Raises:
        InvalidArgument: a value can't be what the field says; `field` is its path.
    """
    return RetrieveQuery(
        recommender=request.recommender,
        user_id=request.user_id,
        entity_keys=dict(request.entity_keys),
        top_k=request.top_k,
        context=_context(request.context),
        bundle_id=request.bundle_id,
        eligibility=_eligibility(request),
        seed_item_ids=tuple(request.seed_item_ids),
        sources=tuple(request.sources),
    )


def batch_retrieve_query(request: pb.BatchRetrieveRequest) -> BatchRetrieveQuery:
    """Decodes a request; see `retrieve_query`."""
    each = RetrieveQuery(
        recommender=request.recommender,
        user_id="",
        entity_keys=dict(request.entity_keys),
        top_k=request.top_k,
        context=_context(request.context),
        bundle_id=request.bundle_id,
        eligibility=_eligibility(request),
        sources=tuple(request.sources),
    )
    return BatchRetrieveQuery(user_ids=tuple(request.user_ids), each=each)


def rank_query(request: pb.RankRequest) -> RankQuery:
    """Decodes a request; see `retrieve_query`."""
    return RankQuery(
        recommender=request.recommender,
        user_id=request.user_id,
        entity_keys=dict(request.entity_keys),
        top_k=request.top_k,
        context=_context(request.context),
        bundle_id=request.bundle_id,
        item_ids=tuple(request.item_ids[:]),  # a slice is made in one go, an iterator asks for each
        candidate_features={name: _column(c, name) for name, c in request.candidate_features.items()},
        reranking=_reranking(request),
    )


def recommend_query(request: pb.RecommendRequest) -> RecommendQuery:
    """Decodes a request; see `retrieve_query`."""
    return RecommendQuery(
        recommender=request.recommender,
        user_id=request.user_id,
        entity_keys=dict(request.entity_keys),
        top_k=request.top_k,
        candidate_count=request.candidate_count,
        context=_context(request.context),
        bundle_id=request.bundle_id,
        eligibility=_eligibility(request),
        reranking=_reranking(request),
        sources=tuple(request.sources),
    )


def retrieve_response(result: Retrieved) -> pb.RetrieveResponse:
    """Encodes an answer."""
    return pb.RetrieveResponse(
        item_ids=result.item_ids,
        scores=result.scores.tolist(),
        info=_info(result.info),
        unknown_item_ids=result.unknown_item_ids,
        sources=result.sources,
    )


def batch_retrieve_response(results: Sequence[Retrieved]) -> pb.BatchRetrieveResponse:
    """Encodes the answers."""
    return pb.BatchRetrieveResponse(responses=[retrieve_response(result) for result in results])


def rank_response(result: Ranked) -> pb.RankResponse:
    """Encodes an answer."""
    return pb.RankResponse(
        item_ids=result.item_ids,
        scores=result.scores.tolist(),
        unknown_item_ids=result.unknown_item_ids,
        info=_info(result.info),
    )


def recommend_response(result: Recommended) -> pb.RecommendResponse:
    """Encodes an answer."""
    return pb.RecommendResponse(
        item_ids=result.item_ids,
        scores=result.scores.tolist(),
        retrieval_scores=result.retrieval_scores.tolist(),
        info=_info(result.info),
        sources=result.sources,
    )


def _eligibility(request: pb.RetrieveRequest | pb.BatchRetrieveRequest | pb.RecommendRequest) -> Eligibility:
    return Eligibility(
        filter=_Filters().root(request.filter) if request.HasField("filter") else None,
        exclude_item_ids=tuple(request.exclude_item_ids[:]),
        exclude_seen=request.exclude_seen if request.HasField("exclude_seen") else None,
    )


def _reranking(request: pb.RankRequest | pb.RecommendRequest) -> Reranking | None:
    if not request.HasField("reranking"):
        return None
    rules = request.reranking
    return Reranking(
        relevance_weight=rules.relevance_weight if rules.HasField("relevance_weight") else 1.0,
        caps=tuple(Cap(cap.key, cap.max_items) for cap in rules.caps),
        pinned_item_ids=tuple(rules.pinned_item_ids),
        blocked_item_ids=tuple(rules.blocked_item_ids),
    )


def _context(context: Mapping[str, pb.Value]) -> dict[str, ContextValue]:
    return {name: _value(value, f"context[{name}]") for name, value in context.items()}


def _value(value: pb.Value, path: str) -> ContextValue:
    kind = value.WhichOneof("kind")
    if kind is None:
        return None
    content = getattr(value, kind)
    decoded: ContextValue = tuple(content.values) if kind.endswith("_list") else content
    elements = decoded if isinstance(decoded, tuple) else (decoded,)
    if kind.startswith("double") and not all(isinstance(e, float) and math.isfinite(e) for e in elements):
        raise InvalidArgument(f"{path} must be finite", field=path)
    return decoded


def _column(column: pb.FeatureColumn, name: str) -> Array:
    kind = column.WhichOneof("kind")
    if kind == "float_values":
        return np.array(column.float_values.values, np.float32)
    if kind == "int64_values":
        return np.array(column.int64_values.values, np.int64)
    if kind == "string_values":
        return np.array(column.string_values.values, object)
    if kind == "bool_values":
        return np.array(column.bool_values.values, np.bool_)
    path = f"candidate_features[{name}]"
    raise InvalidArgument(f"{path} has no values; set one of its kinds", field=path)


class _Filters:
    """Decodes the filters of one request, and counts them."""

    def __init__(self) -> None:
        self._count = 0

    def root(self, message: pb.Filter) -> Filter | None:
        """The whole filter; None for an unset one."""
        return self._decode(message, "filter", 0) if message.WhichOneof("kind") else None

    def _decode(self, message: pb.Filter, path: str, depth: int) -> Filter:
        self._count += 1
        check_depth(depth, path)
        if self._count > MAX_FILTERS:
            raise InvalidArgument(f"filter has more than {MAX_FILTERS} parts; use IN for alternatives", field="filter")
        kind = message.WhichOneof("kind")
        if kind == "comparison":
            leaf, path = message.comparison, f"{path}.comparison"
            return Comparison(_type(leaf.type, _COMPARISONS, path), leaf.key, _value(leaf.value, f"{path}.value"))
        if kind == "compound":
            branch, path = message.compound, f"{path}.compound"
            parts = (self._decode(part, f"{path}.filters[{n}]", depth + 1) for n, part in enumerate(branch.filters))
            return Compound(_type(branch.type, _COMPOUNDS, path), tuple(parts))
        raise InvalidArgument(f"{path} is unset; set its comparison or its compound", field=path)


def _type(number: int, names: Mapping[int, str], path: str) -> str:
    if number not in names:
        known = ", ".join(name.upper() for name in names.values())
        raise InvalidArgument(f"{path}.type is not set, or not known here; known are {known}", field=f"{path}.type")
    return names[number]


def _info(info: Info) -> pb.ResponseInfo:
    message = pb.ResponseInfo(
        bundle_id=info.bundle_id,
        user_status=_USER_STATUSES[info.user_status],
        degraded_reasons=info.degraded_reasons,
    )
    message.as_of.seconds = info.as_of
    return message
