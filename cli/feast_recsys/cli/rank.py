"""`feast-recsys rank`."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from feast_recsys.cli.client import Call, Reranking, call_options, connect, reranking_options
from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from feast_recsys.v1.recommender_service_pb2 import RankRequest as Request


@click.command()
@click.argument("items", nargs=-1, required=True, metavar="ITEM_ID...")
@call_options
@reranking_options
@click.pass_obj
def rank(location: Location, items: tuple[str, ...], call: Call, reranking: Reranking) -> None:
    """Ask a server to rank candidates; `-` reads what `retrieve --json` printed.

    \b
    feast-recsys rank --user 42 50 172 181
    feast-recsys retrieve --user 42 --json | feast-recsys rank --user 42 -
    """
    from feast_recsys.cli import answer, wire
    from feast_recsys.v1.recommender_service_pb2 import RankRequest

    settings = location.settings()
    name = choose(settings, call.recommender)
    request = RankRequest(
        recommender=name,
        user_id=call.user,
        top_k=call.top_k,
        context=wire.wire_context(call.context),
        bundle_id=call.bundle_id,
        reranking=wire.wire_reranking(reranking),
    )
    if items == ("-",):
        _add_retrieved(request)
    else:
        request.item_ids.extend(items)
    with connect(location, call) as stub:
        reply = stub.Rank(request, timeout=call.timeout)
    names = answer.titles(location, settings, name, reply.item_ids)
    scores = {"probability": reply.scores}
    if call.as_json:
        answer.show_json(reply.item_ids, names, scores, reply.info, unknown_item_ids=list(reply.unknown_item_ids))
        return
    answer.show(f"{len(reply.item_ids)} ranked for user {call.user}", reply.item_ids, names, scores, reply.info)
    answer.show_unknown(reply.unknown_item_ids)


def _add_retrieved(request: Request) -> None:
    """Fills the request with what `retrieve --json` printed: items, their scores, the bundle."""
    try:
        answer = json.load(sys.stdin)
        request.item_ids.extend(item["item_id"] for item in answer["items"])
        scores = [float(item["score"]) for item in answer["items"]]
        bundle_id = answer["bundle_id"]
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"standard input is not what `retrieve --json` prints: {error!r}") from None
    request.candidate_features["retrieval_score"].float_values.values.extend(scores)
    request.bundle_id = request.bundle_id or bundle_id
