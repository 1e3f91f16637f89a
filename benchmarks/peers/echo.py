"""The bare echo: the same messages, decoded and encoded, with nothing in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.content import FIRST_ITEM
from benchmarks.peers.common import arguments, serve

from feast_recsys.v1 import recommender_service_pb2 as pb

MOST = 2000
SCORES = [at / MOST for at in range(MOST)]
IDS = [str(FIRST_ITEM + at) for at in range(MOST)]


def rank(request: pb.RankRequest) -> pb.RankResponse:
    """As many items and scores as were asked for."""
    ids = list(request.item_ids)
    return pb.RankResponse(item_ids=ids, scores=SCORES[: len(ids)])


def retrieve(request: pb.RetrieveRequest) -> pb.RetrieveResponse:
    """As many items and scores as were asked for."""
    return pb.RetrieveResponse(item_ids=IDS[: request.top_k], scores=SCORES[: request.top_k])


METHODS: dict[str, tuple[Callable[..., Any], Any]] = {
    "Rank": (rank, pb.RankRequest),
    "Retrieve": (retrieve, pb.RetrieveRequest),
}


def main() -> None:
    """Runs the peer."""
    options = arguments("The bare echo.").parse_args()
    methods: dict[str, tuple[Callable[..., Any], Any]] = {
        "Rank": (rank, pb.RankRequest),
        "Retrieve": (retrieve, pb.RetrieveRequest),
    }
    serve(methods, threads=options.threads, freeze=True)


if __name__ == "__main__":
    main()
