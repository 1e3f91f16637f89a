"""What may come back in a comparison of filtered searches: filters, kept as serving keeps them, and exclusions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.retrieval.worlds import Truth, World, lower, truth_of

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.filters import Comparison
from feast_recsys.bundle.index.allowed import Allowed
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.library import faiss
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.bundle.snapshot import Snapshot, open_snapshot, write_snapshot
from feast_recsys.server.eligibility import without

SHARES = (1.0, 0.9, 0.5, 0.1, 0.01, 0.001)
EXCLUSIONS = (100, 1000, 10_000)
ANYWHERE, FAR = "anywhere", "far"
RANDOM, BEST = "random", "best"

_CACHE_BYTES = 128 << 20  # `filter_cache_mib` as it is by default
_GROUP = 200  # items of a group that passes or fails as one
_GROUPS, _ROUNDS = 2000, 10
_TRIES = 5
_BLOCK = 8


@dataclass(frozen=True)
class Case:
    """What may come back.

    Attributes:
        title: In a few words.
        kept: A filter, as the cache of a server has it; None for all items.
        excluded: For each query, rows that its request leaves out; None for none.
        truth: What exact search finds.
        passing: Number of items that pass.
        making: Microseconds to make what an index is given: the filter, which happens once, or the exclusions, from
            ids, which each request pays. Only the latter is part of the time of a search, but for the ids.
    """

    title: str
    kept: Allowed | None
    excluded: Sequence[Rows] | None
    truth: Truth
    passing: int
    making: float

    def allow(self, number: int, n: int) -> Allowed | None:
        """What one query may be answered with, made as a server makes it for each request."""
        return self.kept if self.excluded is None else without(self.kept, self.excluded[number], n)


def cases(world: World, k: int, folder: Path) -> Iterator[Case]:
    """All cases, made one after the other: filters, then exclusions of less than half of the items.

    Args:
        world: Items, and the queries that are asked.
        k: Number of items wanted.
        folder: Where the catalogue goes.
    """
    n = len(world.items)
    snapshot = _catalogue(world, folder)
    filters = FilterCache(snapshot, _CACHE_BYTES)
    for where in (ANYWHERE, FAR):
        for share in SHARES:
            if where == ANYWHERE or share < 1.0:
                yield _filter(world, k, filters, snapshot, where, share)
    sizes = [size for size in EXCLUSIONS if size <= n // 2]
    deep = _deepest(world, min(n, max(sizes, default=0) + 2 * k))
    for which in (RANDOM, BEST):
        for size in sizes:
            yield _exclusions(world, k, snapshot, deep, which, size)


def far_first(world: World) -> npt.NDArray[np.int64]:
    """[n] the place of each item, group by group, those first whose group is far from every query that is asked."""
    n, d = world.items.shape
    groups = int(np.clip(n // _GROUP, 1, _GROUPS))
    # Of another seed than those of any index.
    means = faiss().Kmeans(d, groups, niter=_ROUNDS, seed=77, max_points_per_centroid=64, min_points_per_centroid=1)
    means.train(world.items)
    _, group = means.index.search(world.items, 1)
    nearest = (np.asarray(means.centroids) @ world.asked.T).max(axis=1)
    rank = np.empty(groups, np.int64)
    rank[np.argsort(nearest, kind="stable")] = np.arange(groups)
    place = np.empty(n, np.int64)
    place[np.argsort(rank[group[:, 0]], kind="stable")] = np.arange(n)
    return place


def _catalogue(world: World, folder: Path) -> Snapshot:
    """A snapshot with a column for each kind of filter: `item:anywhere < m` passes m items."""
    n, ones = len(world.items), np.ones(len(world.items), np.uint8)
    places = {ANYWHERE: np.random.default_rng(5).permutation(n), FAR: far_first(world)}
    columns = {
        f"item:{name}": Column(DType.INT64, place, ones, ones.view(np.bool_), np.zeros(n, np.int64))
        for name, place in places.items()
    }
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_snapshot(folder, np.arange(n), columns)
    return open_snapshot(folder)


def _filter(world: World, k: int, filters: FilterCache, snapshot: Snapshot, where: str, share: float) -> Case:
    wanted = max(1, round(share * len(world.items)))
    condition = Comparison("lt", f"item:{where}", wanted)
    times = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        FilterCache(snapshot, _CACHE_BYTES).allowed(condition)
        times.append(1e6 * (time.perf_counter() - began))
    kept, _ = filters.allowed(condition)
    kept, _ = filters.allowed(condition)
    title = f"{100 * share:g} % pass" + (f", {where}" if share < 1.0 else "")
    return Case(title, kept, None, truth_of(world, world.asked, k, kept.rows), kept.count, float(np.median(times)))


def _exclusions(world: World, k: int, snapshot: Snapshot, deep: Rows, which: str, size: int) -> Case:
    n, random = len(world.items), np.random.default_rng(size)
    excluded, due = [], np.empty((len(world.asked), k), np.int64)
    for number, best in enumerate(deep):
        rows = best[:size] if which == BEST else random.choice(n, size, replace=False)
        excluded.append(random.permutation(rows))
        left = best[~np.isin(best, rows)]
        due[number] = left[:k]
    scores = np.stack([world.items.take(rows, axis=0) @ q for rows, q in zip(due, world.asked, strict=True)])
    times = []
    for rows in excluded[:_TRIES]:
        ids = [str(row) for row in rows.tolist()]
        began = time.perf_counter()
        without(None, snapshot.rows(ids), n)
        times.append(1e6 * (time.perf_counter() - began))
    title = f"{size:,} excluded, " + ("the best" if which == BEST else "any")
    return Case(title, None, excluded, Truth(due, lower(scores)), n - size, float(np.median(times)))


def _deepest(world: World, depth: int) -> Rows:
    """[q, depth] the best rows for each query that is asked, best first."""
    found, index = np.empty((len(world.asked), depth), np.int64), ExactIndex(world.items)
    for start in range(0, len(found), _BLOCK):
        found[start : start + _BLOCK] = index.search(world.asked[start : start + _BLOCK], depth)[0]
    return found
