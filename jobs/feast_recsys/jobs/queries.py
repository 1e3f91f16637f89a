"""A sample of real queries, to measure an index with."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import RecsysError
from feast_recsys.bundle.signature import Role
from feast_recsys.features.entity_ids import user_ids
from feast_recsys.features.interactions import interacting_users
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.embed import Vectors
from feast_recsys.jobs.encode_users import encode_users, stored_references
from feast_recsys.jobs.exported import ExportedModel

FEWEST = 100
"""Different queries below which nothing is concluded from them."""

# Some users are unknown online, or ask what another one asks.
_SPARE = 1.25


@dataclass(frozen=True)
class Queries:
    """Query vectors of users.

    Attributes:
        vectors: [q, d] float32, the model's own, no two alike.
        asked: Whose queries these are, in a few words; why there are so few, if there are fewer than `FEWEST`.
    """

    vectors: Vectors
    asked: str

    @property
    def enough(self) -> bool:
        """Whether anything can be concluded from them."""
        return len(self.vectors) >= FEWEST


def sample_queries(
    repo: Repo,
    model: ExportedModel,
    count: int,
    as_of: datetime,
    progress: Callable[[int, int], None] | None = None,
) -> Queries:
    """Query vectors of users who exist, the same users from run to run as far as they still do.

    Users come from the interactions that the settings name, or else from the offline store's rows of the features that
    the query encoder takes. Their features are read online, as the server reads them.

    Args:
        repo: The repository.
        model: The retrieval model that asks.
        count: Number of queries wanted.
        as_of: Users known up to this moment.
        progress: Called with the number of users done and their total.

    Returns:
        At most `count` queries; fewer if there are not so many users, and none if they can't be read.
    """
    nothing = np.empty((0, model.signature.dimension), np.float32)
    try:
        users, where = _users(repo, model, as_of)
        chosen = stable_sample(users, int(count * _SPARE))
        vectors, known = encode_users(repo, model, chosen, progress=progress)
    except RecsysError as error:
        return Queries(nothing, f"no queries could be made: {error.message}")
    # By their place, so that the sample stays the same however many are wanted of it.
    different = np.sort(np.unique(vectors[known], axis=0, return_index=True)[1])[:count]
    found = np.ascontiguousarray(vectors[known][different])
    if len(found) < FEWEST:
        text = f"{len(users):,} users in {where}, {int(known.sum()):,} of {len(chosen):,} known online with "
        return Queries(found, f"{text}{len(found)} different queries; {FEWEST} are needed")
    return Queries(found, f"{len(found):,} of {len(users):,} users in {where}")


def stable_sample(ids: Array, count: int) -> Array:
    """So many of some ids, by chance, but the same ones as long as they are there: those whose hash is least."""
    hashes = np.fromiter((zlib.crc32(str(i).encode()) for i in ids.tolist()), np.uint32, len(ids))
    return ids[np.argsort(hashes, kind="stable")[:count]]


def _users(repo: Repo, model: ExportedModel, as_of: datetime) -> tuple[Array, str]:
    """Ids of users, ascending, each once; and where they come from."""
    if repo.settings.interactions is not None and repo.resolve(repo.settings.interactions.path).exists():
        return interacting_users(repo), "recsys.interactions"
    graph = model.graphs[Role.QUERY_ENCODER.value].graph
    services = [graph.feature_service] if graph.feature_service else []
    references = stored_references(graph)
    return user_ids(repo, references, as_of, *services), "the offline store"
