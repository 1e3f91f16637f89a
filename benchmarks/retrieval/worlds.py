"""Items and queries that everything is compared on, and what exact search finds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.retrieval.data import clustered

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors

Shares = npt.NDArray[np.float64]

_MADE = re.compile(r"clustered-(\d+)")
_BLOCK = 16
_SLACK = 1e-6  # the order of summation differs from library to library


@dataclass(frozen=True)
class World:
    """Items and queries.

    Attributes:
        name: Of the data.
        items: [n, d] float32.
        tuning: [t, d] float32, the queries that parameters are chosen with.
        asked: [m, d] float32, other queries: those that are reported.
    """

    name: str
    items: Vectors
    tuning: Vectors
    asked: Vectors


@dataclass(frozen=True)
class Truth:
    """What exact search finds.

    Attributes:
        rows: [q, m] int64, best first.
        least: [q] float32: an item of this score is among the m best, or as good as one that is.
    """

    rows: Rows
    least: Vectors

    def share(self, number: int, found: Rows, scores: Vectors) -> float:
        """Of the m best for a query, how many were found; another item of the same score counts as well.

        Args:
            number: Of the query.
            found: Different rows, -1 for none.
            scores: Their exact scores.
        """
        if not self.rows.shape[1]:
            return 1.0
        hits = int(np.count_nonzero((found >= 0) & (scores >= self.least[number])))
        return float(min(hits / self.rows.shape[1], 1.0))


def load(data: str, cache: Path, *, tuning: int, asked: int) -> tuple[World, Path]:
    """Makes or reads a world, and puts its arrays where builds find them.

    Args:
        data: `clustered-N`, or a file `NAME.npz` with `items` and `queries`; `movielens` is the one that the command
            `vectors` has left in the cache.
        cache: Folder of everything that is kept.
        tuning, asked: Numbers of queries; where there are fewer, half of them each.

    Returns:
        The world, and the folder for its builds.

    Raises:
        InvalidArgument: no such data.
        CorruptArtifact: the file holds no such arrays.
    """
    made = _MADE.fullmatch(data)
    if made:
        vectors = clustered(int(made[1]), queries=tuning + asked)
        name, items, queries = data, vectors.items, vectors.queries
    else:
        path = cache / "movielens.npz" if data == "movielens" else Path(data)
        if not path.is_file():
            raise InvalidArgument(
                f"no data {data!r}: say clustered-100000, a file with items and queries, or movielens after "
                "`python -m benchmarks.retrieval vectors`",
                field="data",
            )
        name, (items, queries) = path.stem, _read(path)
    cut = min(tuning, len(queries) // 2)
    world = World(name, items, queries[:cut], queries[cut : cut + asked])
    folder = cache / name
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder, world)
    return world, folder


def truth_of(world: World, queries: Vectors, k: int, rows: Rows | None = None) -> Truth:
    """Exact answers.

    Args:
        world: The items.
        queries: [q, d].
        k: Number of items wanted.
        rows: Those that may come back, ascending; None for all.
    """
    vectors = world.items if rows is None else world.items.take(rows, axis=0)
    index, m = ExactIndex(vectors), min(k, len(vectors))
    found, least = np.empty((len(queries), m), np.int64), np.empty(len(queries), np.float32)
    for start in range(0, len(queries), _BLOCK):
        part = slice(start, start + _BLOCK)
        best, scores = index.search(queries[part], m)
        found[part] = best if rows is None else rows[best]
        least[part] = lower(scores) if m else 0.0
    return Truth(found, least)


def lower(scores: Vectors) -> Vectors:
    """[q] the least of scores [q, m], and a little less."""
    return np.asarray(scores.min(axis=1) - _SLACK * np.abs(scores).max(axis=1), np.float32)


def shares(world: World, truth: Truth, queries: Vectors, search: Callable[[int], Rows]) -> Shares:
    """[q] the share that a search finds of each query's best."""
    found = (search(number) for number in range(len(queries)))
    return np.array([share_of(world, truth, queries, n, rows) for n, rows in enumerate(found)], np.float64)


def share_of(world: World, truth: Truth, queries: Vectors, number: int, rows: Rows) -> float:
    """The share of one query's best among some rows."""
    rows = np.unique(rows[rows >= 0])
    return truth.share(number, rows, world.items.take(rows, axis=0) @ queries[number])


def _read(path: Path) -> tuple[Vectors, Vectors]:
    with np.load(path, allow_pickle=False) as arrays:
        if not {"items", "queries"} <= set(arrays):
            raise CorruptArtifact(f"{path} must hold the arrays items and queries")
        items, queries = (np.ascontiguousarray(arrays[name], np.float32) for name in ("items", "queries"))
    if items.ndim != 2 or queries.ndim != 2 or items.shape[1] != queries.shape[1] or len(queries) < 2:
        raise CorruptArtifact(f"{path}: items {items.shape} and queries {queries.shape} must be two matrices, as wide")
    return items, queries


def _keep(folder: Path, world: World) -> None:
    """Writes the arrays; throws away what was built of others."""
    path = folder / "items.npy"
    if path.is_file():
        before = np.load(path, mmap_mode="r")
        if before.shape == world.items.shape and np.array_equal(before, world.items):
            np.save(folder / "tuning.npy", world.tuning)
            return
    for record in [*folder.glob("*/build.json"), *folder.glob("choice.json")]:
        record.unlink()
    np.save(path, world.items)
    np.save(folder / "tuning.npy", world.tuning)
