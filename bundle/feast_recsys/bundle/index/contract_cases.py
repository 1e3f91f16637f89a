"""What the contract asks of an index: catalogues, and cases that know what a right answer is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.index.allowed import Allowed, Mask, Without, all_but
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Vectors
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, METRICS, Metric

ROUNDING = 1e-5
"""Of an inner product, as a share of both lengths: sums in another order differ by less."""

# Small catalogues that tell metrics apart.
_BY_ALL = ("no items", "zero vectors among others", "one item far longer than others")

# Of a catalogue of which requests leave out most: its size and what they leave out, in larger catalogues.
_MANY, _LEFT_OUT = 11, 10


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
        mask: [n] bool, what may come back: a copy from before any search, which can't change it.
    """

    name: str
    vectors: Vectors
    queries: Vectors
    k: int
    allow: Allowed | None = None
    metric: Metric = INNER_PRODUCT
    mask: Mask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", _passing(self.allow, len(self.vectors)))

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """[B, n] as the metric's definition has them."""
        queries, vectors = self.queries.astype(np.float64), self.vectors.astype(np.float64)
        if self.metric == "l2":
            return np.asarray(-np.square(queries[:, None, :] - vectors).sum(axis=2))
        products = queries @ vectors.T
        lengths = np.outer(*self._lengths)
        return np.asarray(products / np.where(lengths > 0, lengths, 1.0) if self.metric == "cosine" else products)

    @cached_property
    def rounding(self) -> npt.NDArray[np.float64]:
        """[B, n] how far from a score a sum in float32 may be, and how far apart items that it takes for equal."""
        queries, vectors = self._lengths
        if self.metric == "cosine":
            return np.full((len(queries), len(vectors)), ROUNDING)
        if self.metric == "l2":
            return np.asarray(ROUNDING * np.add.outer(queries, vectors) ** 2)
        return np.asarray(ROUNDING * np.outer(queries, vectors))

    @cached_property
    def _lengths(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        queries, vectors = (np.linalg.norm(x.astype(np.float64), axis=1) for x in (self.queries, self.vectors))
        return queries, vectors

    def filter_changed(self) -> bool:
        """Whether `allow`, or a form of it that is kept, is no longer what it was when the case was made."""
        if self.allow is None:
            return False
        if not np.array_equal(_passing(self.allow, len(self.mask)), self.mask):
            return True
        kept = {id(each): each for each in (self.allow, self.allow.filter) if each is not None}
        return any(_inconsistent(each) for each in kept.values())


def catalogues(items: int, dimension: int, seed: int) -> Iterator[tuple[Vectors, list[Case]]]:
    """Vectors, and what to ask of them by one metric; see `contract.check` for the arguments."""
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
    # In a plane, where even a graph of so many items is built quickly.
    vectors = _normal(random, _MANY * items, 2) @ _normal(random, 2, 4)
    yield vectors, list(_left_out(vectors, _LEFT_OUT * items, random))


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


def _left_out(vectors: Vectors, number: int, random: np.random.Generator) -> Iterator[Case]:
    """Most of many items excluded: more than a list that comes with a request, or a deeper search, may hold."""
    n, queries = len(vectors), _normal(random, 2, vectors.shape[1])
    name = f"{n} items"
    any_order = random.permutation(n)
    yield Case(f"{name}, {number} excluded", vectors, queries, 20, all_but(any_order[:number], n))
    best = ExactIndex(vectors).search(queries[:1], number)[0][0]
    yield Case(f"{name}, the best {number} excluded", vectors, queries[:1], 20, all_but(best, n))
    side = Allowed(vectors[:, 0] > 0)
    yield Case(f"{name}, a side and {number} excluded", vectors, queries, 20, side.without(any_order[:number]))
    twice = np.concatenate([any_order[:-7], any_order[:number]])
    yield Case(f"{name}, all but 7 excluded, most of them twice", vectors, queries, 20, all_but(twice, n))


def _passing(allow: Allowed | None, n: int) -> Mask:
    """[n] bool, of its own: what may come back, not from any form that is kept but from what it was made of."""
    if isinstance(allow, Without):
        mask = _passing(allow.base, n)
        mask[allow.excluded] = False
        return mask
    return np.ones(n, np.bool_) if allow is None else allow.mask.copy()


def _inconsistent(allow: Allowed) -> bool:
    """Whether a form in which an index has had a filter is not what it was made of."""
    right = Allowed(_passing(allow, len(allow)))
    forms = ((allow.mask, right.mask), (allow.rows, right.rows), (allow.blocked, right.blocked))
    return not (
        allow.count == right.count
        and all(np.array_equal(form, expected) for form, expected in forms)
        and np.array_equal(allow.bits, right.bits)
    )


def _normal(random: np.random.Generator, n: int, d: int) -> Vectors:
    return random.standard_normal((n, d), np.float32)
