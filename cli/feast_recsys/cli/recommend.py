"""`feast-recsys recommend`."""

from __future__ import annotations

import click

from feast_recsys.cli.client import (
    INT32,
    Call,
    Eligibility,
    Reranking,
    call_options,
    connect,
    eligibility_options,
    reranking_options,
)
from feast_recsys.cli.location import Location, choose


@click.command()
@click.option(
    "--candidates", type=INT32, default=0, help="Candidates to rank.  [default: the settings', or -k if more]"
)
@call_options
@eligibility_options
@reranking_options
@click.pass_obj
def recommend(location: Location, candidates: int, call: Call, eligibility: Eligibility, reranking: Reranking) -> None:
    """Ask a server for recommendations: retrieve and rank in one call."""
    from feast_recsys.cli import answer, wire
    from feast_recsys.v1.recommender_service_pb2 import RecommendRequest

    settings = location.settings()
    name = choose(settings, call.recommender)
    request = RecommendRequest(
        recommender=name,
        user_id=call.user,
        top_k=call.top_k,
        candidate_count=candidates,
        context=wire.wire_context(call.context),
        filter=wire.wire_filter(eligibility.condition),
        exclude_item_ids=eligibility.exclude,
        sources=eligibility.source,
        bundle_id=call.bundle_id,
        reranking=wire.wire_reranking(reranking),
    )
    if eligibility.exclude_seen is not None:
        request.exclude_seen = eligibility.exclude_seen
    with connect(location, call) as stub:
        reply = stub.Recommend(request, timeout=call.timeout)
    names = answer.titles(location, settings, name, reply.item_ids)
    scores = {"probability": reply.scores, "retrieval_score": reply.retrieval_scores}
    if call.as_json:
        answer.show_json(reply.item_ids, names, scores, reply.info, reply.sources)
    else:
        heading = f"Top {len(reply.item_ids)} for user {call.user}"
        answer.show(heading, reply.item_ids, names, scores, reply.info, reply.sources)
