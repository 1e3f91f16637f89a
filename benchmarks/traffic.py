"""The requests of the benchmark, serialised beforehand: drawn from a seed, the same for every contender."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.content import pool, user_ids

from feast_recsys.v1 import recommender_service_pb2 as pb

if TYPE_CHECKING:  # the load generator stays small
    from benchmarks.world import World

COUNT = 512
TOP_K = 50
"""Items that Retrieve is asked for."""
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Traffic:
    """Requests of one kind.

    Attributes:
        method: `Rank` or `Retrieve`.
        candidates: Items of each Rank; `top_k` of each Retrieve.
        path: File with the serialised requests.
    """

    method: str
    candidates: int
    path: Path

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method}({self.candidates})"


def rank_traffic(world: World, candidates: int) -> Traffic:
    """Requests for random users and distinct random items of the pool, in random order."""
    random = np.random.default_rng([6, candidates])
    users = random.choice(user_ids(world.size.users), COUNT)
    items = pool(min(world.size.catalogues), world.size.pool)
    messages = [
        pb.RankRequest(user_id=str(user), item_ids=map(str, random.choice(items, candidates, replace=False)))
        for user in users
    ]
    return _write(world, "Rank", candidates, messages)


def retrieve_traffic(world: World) -> Traffic:
    """Requests for random users."""
    users = np.random.default_rng(7).choice(user_ids(world.size.users), COUNT)
    return _write(world, "Retrieve", TOP_K, [pb.RetrieveRequest(user_id=str(user), top_k=TOP_K) for user in users])


def read(path: Path) -> list[bytes]:
    """The requests of a file."""
    content, at, requests = path.read_bytes(), 0, []
    while at < len(content):
        [length] = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        requests.append(content[at : at + length])
        at += length
    return requests


def _write(
    world: World, method: str, candidates: int, messages: Sequence[pb.RankRequest | pb.RetrieveRequest]
) -> Traffic:
    folder = world.work / "requests"
    folder.mkdir(exist_ok=True)
    path = folder / f"{method}-{candidates}.bin"
    serialized = [message.SerializeToString() for message in messages]
    path.write_bytes(b"".join(_LENGTH.pack(len(text)) + text for text in serialized))
    return Traffic(method, candidates, path)
