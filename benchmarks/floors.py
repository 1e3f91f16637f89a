"""The unavoidable parts of a call, each alone: a process of its own on the servers' core, asked for one part at a time.

`Floors` is the side that asks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarks.content import HISTORY, ITEM_VIEW, USER_FEATURES, USER_VIEW
from benchmarks.peers.common import session
from benchmarks.peers.handwritten import UserRead
from benchmarks.processes import START_SECONDS, Child
from benchmarks.traffic import TOP_K, read

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.vectors import open_vectors
from feast_recsys.bundle.runtime import load_model, load_split
from feast_recsys.bundle.signature import Input, Role, Side, Signature
from feast_recsys.bundle.snapshot import open_snapshot
from feast_recsys.bundle.store import SNAPSHOT_FOLDER
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.v1 import recommender_service_pb2 as pb

ONNX, ONNX_SPLIT, READ = "ONNX Runtime, whole graph", "ONNX Runtime, user and cross part", "one online_read"
READ_HISTORY, ENCODER, INDEX = "one online_read, history too", "query encoder", "index search"
RANK_FLOORS, RETRIEVE_FLOORS = (ONNX, ONNX_SPLIT, READ), (READ_HISTORY, ENCODER, INDEX)
VARIANTS = 16  # different requests that a part is timed on, in turn


class Floors:
    """Asks for floors.

    Args:
        logs: Folder of the log.
        stack: Stops the process.
        cores: Where it may run.
        environment: With the address of Redis.
        paths: Configuration, ranking model, retrieval model, bundle.
    """

    def __init__(
        self, logs: Path, stack: ExitStack, cores: Sequence[int], environment: Mapping[str, str], paths: Sequence[Path]
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.floors", *map(str, paths)]
        self._child = Child("floors", command, logs, environment, cores)
        stack.callback(self._child.stop)
        self.names: tuple[str, ...] = tuple(self._child.hear(START_SECONDS)["names"])

    def run(self, name: str, path: Path, seconds: float) -> list[float]:
        """Seconds of each repetition of one part, for the requests of a file."""
        answer = self._child.ask(seconds + 120.0, name=name, path=str(path), seconds=seconds)
        values: list[float] = answer["seconds"]
        return values

    def retrieve(self, request: bytes) -> dict[str, float]:
        """Items and scores of a Retrieve, put together from the parts."""
        answer = self._child.ask(60.0, retrieve=list(request))
        scores: dict[str, float] = answer["scores"]
        return scores


@dataclass(frozen=True)
class SplitFeed:
    """One request to a split ranker.

    Attributes:
        user: File of the user part; None if there is none.
        cross: File of the cross part.
        passed: Names of what goes from the first to the second.
        feed: All inputs of both, what the item part gave among them.
        two_sessions: Runs the user part and then the cross part.
    """

    user: Path | None
    cross: Path
    passed: tuple[str, ...]
    feed: Mapping[str, Array]
    two_sessions: Callable[[], object]


class Parts:
    """The parts, ready to run.

    Args:
        configuration: The repository's `feature_store.yaml`.
        ranking: The exported ranking model.
        retrieval: The exported retrieval model.
        bundle: Snapshot and vectors.
    """

    def __init__(self, configuration: Path, ranking: Path, retrieval: Path, bundle: Path) -> None:
        self._folder = ranking
        self._ranker = Signature.load(ranking).graphs[Role.RANKER]
        self._whole = session(ranking / self._ranker.file)
        self._split = load_split(ranking, self._ranker.split, item=True) if self._ranker.split is not None else None
        signature, graphs = load_model(retrieval)
        self._encoder = graphs[Role.QUERY_ENCODER.value]
        self._snapshot = open_snapshot(bundle / SNAPSHOT_FOLDER)
        [vectors] = (bundle / "vectors").iterdir()
        self._index = ExactIndex(open_vectors(vectors))
        names = [f.name for f in USER_FEATURES]
        self._read = UserRead(configuration, names)
        self._read_history = UserRead(configuration, [*names, HISTORY])
        assert signature.dimension == self._index.dimension

    @property
    def names(self) -> tuple[str, ...]:
        """The parts that there are: without a split, no part of it."""
        return tuple(n for n in (*RANK_FLOORS, *RETRIEVE_FLOORS) if n != ONNX_SPLIT or self._split is not None)

    def work(self, name: str, request: bytes) -> Callable[[], object]:
        """One part of answering one request, everything before it done."""
        if name in RANK_FLOORS:
            return self._rank_work(name, request)
        user = pb.RetrieveRequest.FromString(request).user_id
        if name == READ_HISTORY:
            return lambda: self._read_history(user)
        feed = self._user_feed(user, self._encoder.graph.inputs)
        if name == ENCODER:
            return lambda: self._encoder.run(feed)
        vectors = self._encoder.run(feed)
        return lambda: self._index.search(vectors, TOP_K)

    def retrieve(self, request: bytes) -> dict[str, float]:
        """The whole answer: scores by id."""
        user = pb.RetrieveRequest.FromString(request).user_id
        vectors = self._encoder.run(self._user_feed(user, self._encoder.graph.inputs))
        rows, scores = self._index.search(vectors, TOP_K)
        return dict(zip(self._snapshot.ids_of(rows[0]), scores[0].tolist(), strict=True))

    def rank_feed(self, message: bytes) -> tuple[dict[str, Array], str]:
        """All inputs of the whole ranker for one request, and the name of its output."""
        request, inputs = pb.RankRequest.FromString(message), self._ranker.inputs
        rows = self._snapshot.rows(list(request.item_ids))
        feed = self._user_feed(request.user_id, [i for i in inputs if i.side is Side.USER])
        for spec in inputs:
            if spec.side is Side.ITEM:
                feed[spec.name] = to_tensor(self._snapshot.gather(f"{ITEM_VIEW}:{spec.name}", rows), spec)
        return feed, self._ranker.output

    def split_feed(self, message: bytes) -> SplitFeed | None:
        """What a server runs of a split ranker for one request; None if it is not split."""
        split, described = self._split, self._ranker.split
        if split is None or described is None:
            return None
        feed, _ = self.rank_feed(message)
        count = len(pb.RankRequest.FromString(message).item_ids)
        # What the job did for the whole catalogue, and a server gathers.
        feed |= split.item.run(feed) if split.item is not None else {}
        if described.count:
            feed[described.count] = np.array([count])
        taken = [node.name for node in split.cross.session.get_inputs()]

        def both() -> object:
            passed = {**feed, **split.user.run(feed)} if split.user is not None else feed
            return split.cross.session.run(None, {name: passed[name] for name in taken})

        user = None if described.user is None else self._folder / described.user.file
        passed = () if described.user is None else tuple(output.name for output in described.user.outputs)
        return SplitFeed(user, self._folder / described.cross.file, passed, feed, both)

    def _rank_work(self, name: str, message: bytes) -> Callable[[], object]:
        if name == READ:
            user = pb.RankRequest.FromString(message).user_id
            return lambda: self._read(user)
        if name == ONNX:
            feed, output = self.rank_feed(message)
            return lambda: self._whole.run([output], feed)
        split = self.split_feed(message)
        assert split is not None
        return split.two_sessions

    def _user_feed(self, user: str, inputs: Sequence[Input]) -> dict[str, Array]:
        row = self._read_history(user)
        feed = {}
        for spec in inputs:
            value = row[spec.feature.removeprefix(f"{USER_VIEW}:")]
            if spec.is_list:
                column = Column.of(DType.INT64, [list(value.int64_list_val.val)], is_list=True)
            elif spec.dtype is DType.INT64:
                column = Column.of(DType.INT64, [value.int64_val])
            else:
                column = Column.of(DType.FLOAT32, [value.float_val])
            feed[spec.name] = to_tensor(column, spec)
        return feed


def measure(parts: Parts, name: str, requests: Sequence[bytes], seconds: float) -> list[float]:
    """Seconds of each repetition."""
    works = [parts.work(name, request) for request in requests[:VARIANTS]]
    clock, taken, at = time.perf_counter, [], 0
    for work in works:
        work()
    now = clock()
    stop = now + seconds
    while now < stop:
        work = works[at % len(works)]
        at += 1
        began = clock()
        work()
        now = clock()
        taken.append(now - began)
    return taken


def main() -> None:
    """Answers until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("configuration", "ranking", "retrieval", "bundle"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    parts = Parts(options.configuration, options.ranking, options.retrieval, options.bundle)
    print(json.dumps({"names": parts.names}), flush=True)
    files: dict[str, list[bytes]] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if "retrieve" in command:
            print(json.dumps({"scores": parts.retrieve(bytes(command["retrieve"]))}), flush=True)
            continue
        requests = files.setdefault(command["path"], []) or read(Path(command["path"]))
        files[command["path"]] = requests
        taken = measure(parts, command["name"], requests, command["seconds"])
        print(json.dumps({"seconds": taken}), flush=True)


if __name__ == "__main__":
    main()
