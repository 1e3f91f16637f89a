"""Our own server with another transport or another number of threads than its settings say, for experiments."""

from __future__ import annotations

import argparse
import asyncio
import gc
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc

from feast_recsys.features.repo import Repo, open_repo
from feast_recsys.server import codec
from feast_recsys.server.app import Server
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.engine import Engine
from feast_recsys.v1 import recommender_service_pb2 as pb

SERVICE = "feast_recsys.v1.RecommenderService"
TRANSPORTS = ("sync", "aio", "aio with threads")


def main() -> None:
    """Runs the server."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--transport", choices=TRANSPORTS, default="sync")
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    server = Server(with_threads(open_repo(options.configuration.parent, options.configuration), options.threads))
    server.start()
    server.wait_until_ready(60)
    gc.collect()
    gc.freeze()
    gc.disable()  # as `feast-recsys serve` has it; its collections in the background are too rare to matter here
    if options.transport == "sync":
        print(f"listening on {server.address}", flush=True)
        server.wait()
    else:
        pool = ThreadPoolExecutor(options.threads) if options.transport == "aio with threads" else None
        asyncio.run(serve_aio(engine_of(server), pool))


def with_threads(repo: Repo, threads: int) -> Repo:
    """The repository with another setting."""
    serving = repo.settings.serving.model_copy(update={"threads": threads})
    return replace(repo, settings=repo.settings.model_copy(update={"serving": serving}))


def engine_of(server: Server) -> Engine:
    """The engine of a started server, which no public way leads to."""
    return server._engine


def answer(engine: Engine, request: pb.RankRequest) -> pb.RankResponse:
    """What the servicer does: decode, call, encode."""
    return codec.rank_response(engine.rank(codec.rank_query(request), Deadline()))


async def serve_aio(engine: Engine, pool: ThreadPoolExecutor | None) -> None:
    """Serves Rank with `grpc.aio`: in the loop itself, or in threads."""
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        _rank(engine, pool), pb.RankRequest.FromString, pb.RankResponse.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Rank": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


def _rank(
    engine: Engine, pool: ThreadPoolExecutor | None
) -> Callable[[pb.RankRequest, object], Awaitable[pb.RankResponse]]:
    async def inline(request: pb.RankRequest, _: object) -> pb.RankResponse:
        return answer(engine, request)

    async def threaded(request: pb.RankRequest, _: object) -> pb.RankResponse:
        return await asyncio.get_running_loop().run_in_executor(pool, answer, engine, request)

    return inline if pool is None else threaded


if __name__ == "__main__":
    main()
