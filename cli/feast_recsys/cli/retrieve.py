"""`feast-recsys retrieve`."""

from __future__ import annotations

import click

from feast_recsys.cli.client import Call, Eligibility, connect, eligibility_options, item_call_options
from feast_recsys.cli.location import Location, choose


@click.command()
@item_call_options
@click.option("-l", "--like", multiple=True, metavar="ID", help="Items like this one, whoever asks; may be repeated.")
@eligibility_options
@click.pass_obj
def retrieve(location: Location, call: Call, eligibility: Eligibility, like: tuple[str, ...]) -> None:
    """Ask a server for candidates, best first: for a user, or like some items."""
    from feast_recsys.cli import answer, wire
    from feast_recsys.v1.recommender_service_pb2 import RetrieveRequest

    if not (call.user or like):
        raise click.UsageError("whose candidates? give --user, --like, or both")
    settings = location.settings()
    name = choose(settings, call.recommender)
    request = RetrieveRequest(
        recommender=name,
        user_id=call.user,
        top_k=call.top_k,
        context=wire.wire_context(call.context),
        filter=wire.wire_filter(eligibility.condition),
        exclude_item_ids=eligibility.exclude,
        sources=eligibility.source,
        bundle_id=call.bundle_id,
        seed_item_ids=like,
    )
    if eligibility.exclude_seen is not None:
        request.exclude_seen = eligibility.exclude_seen
    with connect(location, call) as stub:
        reply = stub.Retrieve(request, timeout=call.timeout)
    names = answer.titles(location, settings, name, reply.item_ids)
    scores = {"score": reply.scores}
    unknown = list(reply.unknown_item_ids)
    if call.as_json:
        answer.show_json(reply.item_ids, names, scores, reply.info, reply.sources, unknown_item_ids=unknown)
        return
    whose = f"like {', '.join(like)}" if like else f"for user {call.user}"
    heading = f"{len(reply.item_ids)} candidates {whose}"
    answer.show(heading, reply.item_ids, names, scores, reply.info, reply.sources)
    answer.show_unknown(unknown)
