"""Generated cases of filtered retrieval: a catalogue whose filters have a known meaning, requests, and what is due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.filters import Comparison, Compound, Filter
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, Metric
from feast_recsys.bundle.snapshot import Snapshot, open_snapshot, write_snapshot
from feast_recsys.server.requests import Eligibility

Mask = npt.NDArray[np.bool_]

SHARES = (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001)
"""Of the items that pass a filter."""

EXCLUSIONS = (0, 1, 10, 100, 1000, 10_000)
"""Items that a request leaves out."""

_TAGS = ("a", "b", "c", "d")
_FIRST_ID = 1000


@dataclass(frozen=True)
class Catalogue:
    """Items whose features are known as plain arrays as well.

    Attributes:
        snapshot: What is served.
        vectors: [n, d] float32, in clusters.
        place: [n] int64, a permutation: `place < m` passes m items that lie anywhere.
        price: [n] float32 in [0, 1).
        new: [n] bool.
        tags: [n, 4] bool: which of the tags an item has.
        metric: What vectors are compared by.
    """

    snapshot: Snapshot
    vectors: Vectors
    place: Array
    price: Array
    new: Mask
    tags: Mask
    metric: Metric = INNER_PRODUCT

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Case:
    """One request, and what may come back.

    Attributes:
        query: [1, d] float32.
        k: Items wanted.
        eligibility: Filter and excluded ids.
        seen: [m] rows of items that the user has seen.
        eligible: [n] bool, found without the code that is checked.
        share: Of the items that the filter was made to let pass.
        exact: [n] float64, the score of every item.
        best: [min(k, eligible items)] rows of the best, in any order.
    """

    query: Vectors
    k: int
    eligibility: Eligibility
    seen: Rows
    eligible: Mask
    share: float
    exact: npt.NDArray[np.float64]
    best: Rows


@dataclass(frozen=True)
class Outcome:
    """What an index made of a case: what is wrong with the answer, empty if nothing, and how much of the best it has.

    `recall` is the share of the best min(k, eligible) items that came back; 1 where there are none.
    """

    wrong: str
    recall: float


def build_catalogue(folder: Path, n: int, dimension: int, random: np.random.Generator) -> Catalogue:
    """Writes and opens a catalogue of n items in an empty folder."""
    centres = random.normal(size=(max(1, n // 200), dimension))
    vectors = centres[random.integers(0, len(centres), n)] + 0.35 * random.normal(size=(n, dimension))
    place, price = random.permutation(n), random.random(n).astype(np.float32)
    new, tags = random.random(n) < 0.5, random.random((n, len(_TAGS))) < 0.4
    ones = np.ones(n, np.uint8)
    offsets = np.concatenate([[0], tags.sum(axis=1).cumsum()])
    names = np.array(_TAGS, object)[np.nonzero(tags)[1]]
    columns = {
        "item:place": Column(DType.INT64, place, ones, ones.view(np.bool_), np.zeros(n, np.int64)),
        "item:price": Column(DType.FLOAT32, price, ones, ones.view(np.bool_), np.zeros(n, np.int64)),
        "item:new": Column(DType.BOOL, new, ones, ones.view(np.bool_), np.zeros(n, np.int64)),
        "item:tags": Column(DType.STRING, names, ones, ones.view(np.bool_), np.zeros(n, np.int64), offsets),
    }
    write_snapshot(folder, np.arange(_FIRST_ID, _FIRST_ID + n), columns)
    return Catalogue(open_snapshot(folder), vectors.astype(np.float32), place, price, new, tags)


def generate(catalogue: Catalogue, random: np.random.Generator) -> Case:
    """A case: its query near an item, its exclusions partly the very items that would be best."""
    n, share = len(catalogue), float(random.choice(SHARES))
    condition, passing = _filter(catalogue, share, random)
    query = query_like(catalogue, random)
    excluded = _excluded(catalogue, query, passing, random)
    seen = random.integers(0, n, int(random.choice([0, 0, 5, 300])))
    eligible = passing.copy()
    eligible[excluded] = False
    eligible[seen] = False
    ids = [str(row + _FIRST_ID) for row in excluded.tolist()]
    ids += ["unknown", str(_FIRST_ID + n)][: int(random.integers(3))]
    k = int(random.choice([1, 10, 100, 1000, int(random.integers(1, 1001))]))
    asked = Eligibility(filter=condition, exclude_item_ids=tuple(ids))
    exact, best = score(catalogue, query), np.flatnonzero(eligible)
    if k < len(best):
        best = best[np.argpartition(-exact[best], k - 1)[:k]]
    return Case(query, k, asked, seen, eligible, share, exact, best)


def query_like(catalogue: Catalogue, random: np.random.Generator) -> Vectors:
    """[1, d] a query near some item."""
    near = catalogue.vectors[random.integers(len(catalogue))]
    query: Vectors = (near + 0.2 * random.normal(size=near.shape)).astype(np.float32)[None]
    return query


def score(catalogue: Catalogue, query: Vectors) -> npt.NDArray[np.float64]:
    """[n] the scores of all items, by the definition of the metric."""
    vectors, one = catalogue.vectors.astype(np.float64), query[0].astype(np.float64)
    scores: npt.NDArray[np.float64] = vectors @ one
    if catalogue.metric == "l2":
        scores = -np.square(vectors - one).sum(axis=1)
    elif catalogue.metric == "cosine":
        scores /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(one)
    return scores


def judge(case: Case, answer: tuple[Rows, Vectors]) -> Outcome:
    """Holds an answer against what is due."""
    rows, scores = answer[0][0], answer[1][0]
    due = len(case.best)
    wrong = _wrong(rows, scores, due, case.eligible, case.exact)
    return Outcome(wrong, len(np.intersect1d(rows, case.best)) / due if due else 1.0)


def _wrong(rows: Rows, scores: Vectors, due: int, eligible: Mask, exact: npt.NDArray[np.float64]) -> str:
    if rows.dtype != np.int64 or scores.dtype != np.float32 or len(rows) != len(scores):
        return f"{len(rows)} rows of {rows.dtype}, {len(scores)} scores of {scores.dtype}"
    if len(rows) != due:
        return f"{len(rows)} items instead of {due}"
    if due and not (rows.min() >= 0 and rows.max() < len(eligible)):
        return "a row that does not exist"
    if not eligible[rows].all():
        return f"{int((~eligible[rows]).sum())} items that must not come back"
    if len(np.unique(rows)) != due:
        return "an item twice"
    if not np.allclose(scores, exact[rows], rtol=1e-4, atol=1e-4):
        return "a score that is not that of the metric"
    if (scores[1:] > scores[:-1]).any():
        return "an order that is not that of the scores"
    return ""


def _filter(catalogue: Catalogue, share: float, random: np.random.Generator) -> tuple[Filter | None, Mask]:
    """A filter of about that share in one of several shapes, and what passes it; none for everything now and then."""
    n, wanted = len(catalogue), max(1, round(share * len(catalogue)))
    place: Filter = Comparison("lt", "item:place", wanted)
    passing = catalogue.place < wanted
    shape = int(random.integers(6))
    if shape == 0 and share == 1.0:
        return None, passing
    if shape == 1:
        return Compound("not", (Comparison("gte", "item:place", wanted),)), passing
    if shape == 2 and wanted <= 500:
        return Comparison("in", "item:place", tuple(range(wanted))), passing
    if shape == 3:
        return Compound("and", (Comparison("eq", "item:new", True), place)), passing & catalogue.new
    if shape == 4:
        tag = int(random.integers(len(_TAGS)))
        either = Compound("or", (Comparison("eq", "item:tags", _TAGS[tag]), Comparison("lt", "item:price", 0.5)))
        return Compound("and", (place, either)), passing & (catalogue.tags[:, tag] | (catalogue.price < 0.5))
    return place, passing & np.ones(n, np.bool_)


def _excluded(catalogue: Catalogue, query: Vectors, passing: Mask, random: np.random.Generator) -> Rows:
    size = min(int(random.choice(EXCLUSIONS)), len(catalogue))
    if random.random() < 0.5:
        return random.integers(0, len(catalogue), size)
    # The best of those that pass, in any order: what an index that looks at too few items would come back without.
    passed = np.flatnonzero(passing)
    scores = score(catalogue, query)[passed]
    size = min(size, len(passed))
    best = passed[np.argpartition(-scores, size - 1)[:size]] if size else passed[:0]
    return random.permutation(best)


def table(lines: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns, the first row a head."""
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
