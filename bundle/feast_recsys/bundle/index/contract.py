"""What every index must keep to, as checks that any implementation can run, with exact search as the oracle.

    from feast_recsys.bundle.index.contract import check

    check(lambda vectors: MyIndex(vectors))

The index looks for the largest inner product. It is held to the other metrics as a bundle makes it serve them, by
vectors and queries of `reduction`. No test framework is needed. `violation` looks at a single answer, for tests that
generate their own cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed, all_but
from feast_recsys.bundle.index.by_metric import by_metric, search_vectors
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, METRICS, Metric

# Rounding of an inner product, as a share of both lengths: sums in another order differ by less.
_ROUNDING = 1e-5
_THREADS = 4

# Small catalogues that tell metrics apart.
_BY_ALL = ("no items", "zero vectors among others", "one item far longer than others")


class ContractViolated(AssertionError):
    """Raised when an index does not do what Index says; the message names the case."""


@dataclass(frozen=True)
class Case:
    """One catalogue, and what is asked.

    Attributes:
        name: In words.
        vectors: [n, d] float32.
        queries: [B, d] float32.
        k: Items wanted.
        allow: What may come back; None for all.
        metric: What scores are.
    """

    name: str
    vectors: Vectors
    queries: Vectors
    k: int
    allow: Allowed | None = None
    metric: Metric = INNER_PRODUCT


def check(
    build: Callable[[Vectors], Index], *, recall: float = 0.9, items: int = 1_000, dimension: int = 16, seed: int = 0
) -> None:
    """Holds an index against exact search, in corner cases and among clustered vectors, by every metric.

    Args:
        build: Makes an index of [n, d] float32 vectors; n may be 0.
        recall: Mean share of the best items that it must find in each case, filtered or not.
        items: Size of the larger catalogues.
        dimension: Width of their vectors.
        seed: Of everything that is random.

    Raises:
        ContractViolated: with the case and what is wrong about it.
    """
    for vectors, cases in _catalogues(items, dimension, seed):
        metric = cases[0].metric
        made = search_vectors(vectors, metric)
        index = by_metric(build(made.vectors), vectors, metric, made.centre)
        _check_items(index, vectors)
        for case in cases:
            _check_case(index, case, recall)
        _check_threads(index, cases)


def violation(answer: tuple[Rows, Vectors], case: Case) -> str:
    """What is wrong about an answer other than too few of the best items; empty if nothing.

    Rows and scores must have the shapes and types of Index.search, the rows be different, allowed ones, and the scores
    those of the metric in descending order, the lower row first among equals.
    """
    rows, scores = answer
    n, allowed = len(case.vectors), _mask(case)
    shape = (len(case.queries), min(case.k, int(allowed.sum())))
    if rows.shape != shape or scores.shape != shape:
        return f"rows {rows.shape} and scores {scores.shape} instead of {shape}"
    if rows.dtype != np.int64 or scores.dtype != np.float32:
        return f"rows of {rows.dtype} and scores of {scores.dtype} instead of int64 and float32"
    if not rows.size:
        return ""
    if rows.min() < 0 or rows.max() >= n:
        return f"rows from {rows.min()} to {rows.max()}, where there are {n} items"
    if not allowed[rows].all():
        return f"row {rows[~allowed[rows]][0]} must not come back"
    if (np.diff(np.sort(rows, axis=1), axis=1) == 0).any():
        return "a row comes twice"
    if not np.isfinite(scores).all():
        return "a score is not finite"
    exact, rounding = (np.take_along_axis(full, rows, axis=1) for full in (_scores(case), _rounding(case)))
    if (np.abs(scores - exact) > rounding).any():
        name = case.metric.replace("_", " ")
        return f"a score is off its {name} by {np.abs(scores - exact).max():g}"
    if (scores[:, 1:] > scores[:, :-1]).any():
        return "a better score comes after a worse one"
    if ((scores[:, 1:] == scores[:, :-1]) & (rows[:, 1:] < rows[:, :-1])).any():
        return "among equal scores a higher row comes before a lower one"
    return ""


def share_found(answer: tuple[Rows, Vectors], case: Case) -> float:
    """Mean share of the best items in an answer, in which nothing else is wrong; 1 where nothing may come back.

    An item counts that is as good as the worst of them, whichever of several equal ones came back.
    """
    rows, _ = answer
    if not rows.size:
        return 1.0
    scores = _scores(case)
    best = np.sort(np.where(_mask(case), scores, -np.inf), axis=1)[:, -rows.shape[1], None]
    good = np.take_along_axis(scores + _rounding(case), rows, axis=1) >= best
    return float(good.mean())


def _check_items(index: Index, vectors: Vectors) -> None:
    n, d = vectors.shape
    if (len(index), index.dimension) != (n, d):
        raise ContractViolated(f"an index of {n} vectors of {d} numbers says {len(index)} and {index.dimension}")
    rows = np.arange(n, dtype=np.int64)[::-3]
    if not np.array_equal(index.vectors_of(rows), vectors[rows]):
        raise ContractViolated(f"vectors_of does not give the {n} vectors back")


def _check_case(index: Index, case: Case, recall: float) -> None:
    queries = case.queries.copy()
    answer = index.search(queries, case.k, case.allow)
    wrong = violation(answer, case)
    if wrong:
        raise ContractViolated(f"{case.name}, k = {case.k}: {wrong}")
    if not np.array_equal(queries, case.queries):
        raise ContractViolated(f"{case.name}: a search changes the queries")
    found = share_found(answer, case)
    if found < recall:
        raise ContractViolated(f"{case.name}, k = {case.k}: {found:.3f} of the best items found, not {recall}")
    for n in range(len(queries)):
        _, scores = index.search(queries[n : n + 1], case.k, case.allow)
        # Not the same rows: products are rounded otherwise where many are made at once.
        if not np.allclose(scores[0], answer[1][n], rtol=_ROUNDING, atol=_rounding(case)[n].max(initial=0.0)):
            raise ContractViolated(f"{case.name}, k = {case.k}: query {n} is answered otherwise alone than with others")


def _check_threads(index: Index, cases: list[Case]) -> None:
    """Searches at the same time give what they give one after the other."""
    alone = [index.search(case.queries, case.k, case.allow)[0] for case in cases]
    with ThreadPoolExecutor(_THREADS) as pool:
        together = pool.map(lambda case: index.search(case.queries, case.k, case.allow)[0], cases * _THREADS)
    for case, rows, expected in zip(cases * _THREADS, together, alone * _THREADS, strict=True):
        if not np.array_equal(rows, expected):
            raise ContractViolated(f"{case.name}, k = {case.k}: answered otherwise while other threads search")


def _catalogues(items: int, dimension: int, seed: int) -> Iterator[tuple[Vectors, list[Case]]]:
    """Vectors, and what to ask of them."""
    random = np.random.default_rng(seed)
    asked = _normal(random, 3, 4)
    small: list[tuple[str, Vectors]] = [
        ("no items", np.empty((0, 4), np.float32)),
        ("one item", _normal(random, 1, 4)),
        ("seven items", _normal(random, 7, 4)),
        ("the same item a hundred times", np.repeat(_normal(random, 1, 4), 100, axis=0)),
        ("zero vectors", np.zeros((50, 4), np.float32)),
        ("zero vectors among others", np.concatenate([np.zeros((20, 4), np.float32), _normal(random, 80, 4)])),
        ("one item far longer than others", np.concatenate([_normal(random, 60, 4), 1e3 * _normal(random, 1, 4)])),
    ]
    others = [metric for metric in METRICS if metric != INNER_PRODUCT]
    for name, vectors in small:
        nothing = Allowed(np.zeros(len(vectors), np.bool_))
        some = Allowed(random.random(len(vectors)) < 0.3)
        cases = [Case(name, vectors, asked, k) for k in (1, 5, 200)]
        cases += [Case(f"{name}, three in ten allowed", vectors, asked, 5, some)]
        cases += [Case(f"{name}, nothing allowed", vectors, asked, 5, nothing)]
        cases += [Case(f"{name}, no queries", vectors, asked[:0], 5)]
        yield vectors, cases
        for metric in others if name in _BY_ALL else ():
            yield vectors, [replace(case, name=f"{name}, by {metric}", metric=metric) for case in cases]
    for name, vectors, queries in _large(items, dimension, random):
        yield vectors, list(_cases(name, vectors, queries, random))
    vectors, queries = _apart(items, dimension, random)
    for metric in others:
        # A third of what is asked by inner product: few and all items, a filter, exclusions.
        large = list(_cases(f"clusters of different lengths, by {metric}", vectors, queries, random))[::3]
        yield vectors, [replace(case, metric=metric) for case in large]


def _large(items: int, dimension: int, random: np.random.Generator) -> Iterator[tuple[str, Vectors, Vectors]]:
    centres = _normal(random, max(items // 50, 1), dimension)
    at = random.integers(0, len(centres), items)
    vectors = centres[at] + np.float32(0.3) * _normal(random, items, dimension)
    queries = centres[random.integers(0, len(centres), 8)] + np.float32(0.3) * _normal(random, 8, dimension)
    yield "clusters", vectors, queries
    biased, ones = vectors.copy(), queries.copy()
    biased[:, -1], ones[:, -1] = np.float32(2.0) * random.standard_normal(items, np.float32), 1.0
    yield "clusters with a bias column", biased, ones


def _apart(items: int, dimension: int, random: np.random.Generator) -> tuple[Vectors, Vectors]:
    """Clusters in which inner product, cosine and distance each find other items; one item and one query are zero."""
    _, vectors, queries = next(_large(items, dimension, random))
    vectors = vectors * random.lognormal(0.0, 0.5, (items, 1)).astype(np.float32)
    vectors[random.integers(0, items)] = queries[-1] = 0.0
    return vectors, queries


def _cases(name: str, vectors: Vectors, queries: Vectors, random: np.random.Generator) -> Iterator[Case]:
    n = len(vectors)
    for k in (1, 10, 100, n + 1):
        yield Case(name, vectors, queries, k)
    for share in (0.5, 0.1, 0.01, 0.001):
        yield Case(f"{name}, {share:.1%} allowed", vectors, queries, 20, Allowed(random.random(n) < share))
    side = vectors[:, 0] > 0
    yield Case(f"{name}, one side of space allowed", vectors, queries, 20, Allowed(side))
    for number in (1, n // 20, n // 2):
        excluded = random.integers(0, n, number)
        yield Case(f"{name}, {number} excluded", vectors, queries, 20, all_but(excluded, n))
        best = ExactIndex(vectors).search(queries[:1], number)[0][0]
        yield Case(f"{name}, the best {number} excluded", vectors, queries[:1], 20, all_but(best, n))
        yield Case(f"{name}, a side and {number} excluded", vectors, queries, 20, Allowed(side).without(excluded))


def _mask(case: Case) -> npt.NDArray[np.bool_]:
    return np.ones(len(case.vectors), np.bool_) if case.allow is None else case.allow.mask


def _scores(case: Case) -> npt.NDArray[np.float64]:
    """[B, n] scores as the metric's definition has them."""
    queries, vectors = case.queries.astype(np.float64), case.vectors.astype(np.float64)
    if case.metric == "l2":
        return np.asarray(-np.square(queries[:, None, :] - vectors).sum(axis=2))
    products = queries @ vectors.T
    lengths = np.outer(*_lengths(case))
    return np.asarray(products / np.where(lengths > 0, lengths, 1.0) if case.metric == "cosine" else products)


def _rounding(case: Case) -> npt.NDArray[np.float64]:
    """[B, n] how far from a score a sum in float32 may be, and how far apart items may be that it takes for equal."""
    queries, vectors = _lengths(case)
    if case.metric == "cosine":
        return np.full((len(queries), len(vectors)), _ROUNDING)
    if case.metric == "l2":
        return np.asarray(_ROUNDING * np.add.outer(queries, vectors) ** 2)
    return np.asarray(_ROUNDING * np.outer(queries, vectors))


def _lengths(case: Case) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    queries, vectors = (np.linalg.norm(x.astype(np.float64), axis=1) for x in (case.queries, case.vectors))
    return queries, vectors


def _normal(random: np.random.Generator, n: int, d: int) -> Vectors:
    return random.standard_normal((n, d), np.float32)
