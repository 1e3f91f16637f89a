"""What all peers share: a plain grpcio server around one function, announced and ended as `feast-recsys serve` is."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort

from feast_recsys.bundle.columns import Array
from feast_recsys.v1 import recommender_service_pb2 as pb

SERVICE = "feast_recsys.v1.RecommenderService"
THREADS = 4
"""Threads of a peer's server: as fast as any number from 2 to 16, see `python -m benchmarks.experiments threads`."""


def arguments(description: str) -> argparse.ArgumentParser:
    """Options that all peers take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=THREADS)
    return parser


def session(path: Path, *, threads: int = 1, spinning: bool = False) -> ort.InferenceSession:
    """ONNX Runtime with the settings that suit a server best."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def best_first(ids: list[str], scores: Array) -> pb.RankResponse:
    """The answer to a Rank request."""
    order = np.argsort(-scores, kind="stable")
    return pb.RankResponse(item_ids=[ids[at] for at in order.tolist()], scores=scores[order])


def serve(methods: Mapping[str, tuple[Callable[..., Any], Any]], *, threads: int, freeze: bool) -> None:
    """Serves until it is terminated, or whoever started it is gone.

    Args:
        methods: By name: what answers, and the class of the request.
        threads: Of the server.
        freeze: Whether to take all objects out of the garbage collector's sight after start-up.
    """

    def handler(answer: Callable[..., Any], request: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda message, _: answer(message), request.FromString, lambda reply: reply.SerializeToString()
        )

    server = grpc.server(ThreadPoolExecutor(threads))
    handlers = {name: handler(answer, request) for name, (answer, request) in methods.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    if freeze:
        gc.collect()
        gc.freeze()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    print(f"listening on 127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
