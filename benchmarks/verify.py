"""Nobody is timed before all give the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmarks.contenders import OURS, RANKERS, Contender
from benchmarks.floors import Floors
from benchmarks.load import Loader
from benchmarks.traffic import Traffic, read

from feast_recsys.v1 import recommender_service_pb2 as pb

TOLERANCE = 1e-4
REQUESTS = 5


class Disagreement(RuntimeError):
    """Two contenders answer the same request differently."""


def same_ranks(contenders: Mapping[str, Contender], loader: Loader, traffic: Traffic) -> float:
    """Compares all rankers with the first.

    Returns:
        The largest difference of a score.

    Raises:
        Disagreement: names the contender, the item and both scores.
    """
    rankers = [c for name, c in contenders.items() if name in RANKERS]
    largest = 0.0
    for request in read(traffic.path)[:REQUESTS]:
        expected = _scores(rankers[0], loader, request)
        asked = list(pb.RankRequest.FromString(request).item_ids)
        if sorted(expected) != sorted(asked):
            raise Disagreement(f"{rankers[0].name} scores {len(expected)} of {len(asked)} candidates")
        for ranker in rankers[1:]:
            largest = max(
                largest, _difference(expected, _scores(ranker, loader, request), rankers[0].name, ranker.name)
            )
    return largest


def same_retrieval(contenders: Mapping[str, Contender], loader: Loader, floors: Floors, path: Path) -> float:
    """Compares our Retrieve with the parts put together.

    Returns:
        The largest difference of a score.

    Raises:
        Disagreement: names the item and both scores.
    """
    largest = 0.0
    for request in read(path)[:REQUESTS]:
        reply = pb.RetrieveResponse.FromString(loader.call(contenders[OURS].address, "Retrieve", request))
        ours = dict(zip(reply.item_ids, reply.scores, strict=True))
        largest = max(largest, _difference(floors.retrieve(request), ours, "the parts", OURS))
    return largest


def _scores(contender: Contender, loader: Loader, request: bytes) -> dict[str, float]:
    reply = pb.RankResponse.FromString(loader.call(contender.address, "Rank", request))
    if reply.unknown_item_ids or reply.info.degraded_reasons or reply.info.user_status == pb.USER_STATUS_UNKNOWN:
        raise Disagreement(f"{contender.name} gave less than a full answer: {reply.info} {reply.unknown_item_ids[:5]}")
    if list(reply.scores) != sorted(reply.scores, reverse=True):
        raise Disagreement(f"{contender.name} does not answer best first")
    return dict(zip(reply.item_ids, reply.scores, strict=True))


def _difference(expected: Mapping[str, float], found: Mapping[str, float], one: str, other: str) -> float:
    if set(expected) != set(found):
        raise Disagreement(f"{one} and {other} score different items: {sorted(set(expected) ^ set(found))[:5]}")
    item = max(expected, key=lambda key: abs(expected[key] - found[key]))
    difference = abs(expected[item] - found[item])
    if not difference <= TOLERANCE:
        raise Disagreement(f"item {item} has score {expected[item]} from {one}, {found[item]} from {other}")
    return difference
