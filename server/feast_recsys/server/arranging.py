"""What a call does with its ranked items by the rules of `reranking`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import Column, DType, FieldStatus
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.snapshot import UNKNOWN_ROW
from feast_recsys.server.call import Call
from feast_recsys.server.eligibility import without
from feast_recsys.server.items import best_first, complete, concatenate
from feast_recsys.server.requests import BY_PROBABILITY, Reranking
from feast_recsys.server.reranking import Cap, arrange, likenesses, positions_of


def with_pinned(
    call: Call, rules: Reranking, rows: Rows, nearness: Vectors, allow: Allowed | None, exclude_seen: bool
) -> tuple[Rows, Column]:
    """Retrieved items and the eligible pinned ones, among which they are ranked.

    Args:
        call: The call; its user has been read.
        rules: What is pinned.
        rows: [m] what was retrieved.
        nearness: [m] its retrieval scores.
        allow: What the request lets come back; None for everything.
        exclude_seen: Whether what the user has seen is not eligible.

    Returns:
        Their rows, retrieved ones first, and their retrieval scores, null for those that were not retrieved.
    """
    retrieved, snapshot = complete(DType.FLOAT32, nearness), call.snapshot
    if not rules.pinned_item_ids:
        return rows, retrieved
    if exclude_seen:
        allow = without(allow, call.seen(0), len(snapshot))
    pinned = snapshot.rows(tuple(dict.fromkeys(rules.pinned_item_ids)))
    pinned = pinned[(pinned != UNKNOWN_ROW) & ~np.isin(pinned, rows)]
    if allow is not None:
        pinned = pinned[allow.mask[pinned]]
    absent = Column.absent(DType.FLOAT32, len(pinned), status=FieldStatus.NULL_VALUE)
    return np.concatenate([rows, pinned]), concatenate(retrieved, absent)


def arranged(call: Call, rules: Reranking, rows: Rows, scores: Vectors, k: int) -> Rows:
    """Positions of the ranked items in the order in which they come back, at most k."""
    if rules == BY_PROBABILITY:
        return best_first(scores, k)
    snapshot, vectors, others = call.snapshot, None, None
    if rules.relevance_weight < 1.0:
        served = call.served
        vectors, others = likenesses(served.index.vectors_of(rows), bias=served.bias, metric=served.metric)
    order = arrange(
        scores,
        k,
        pinned=positions_of(snapshot.rows(rules.pinned_item_ids), rows),
        caps=[
            Cap(snapshot.arrow(cap.key).take(pa.array(rows)), snapshot.valid(cap.key)[rows], cap.max_items)
            for cap in rules.caps
        ],
        relevance_weight=rules.relevance_weight,
        vectors=vectors,
        others=others,
    )
    call.stages.done("rerank")
    return order
