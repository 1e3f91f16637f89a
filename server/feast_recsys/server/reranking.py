"""How ranked items are arranged: most probable first, unless diversity, caps and pinned items want it otherwise.

Pure functions on arrays of the m ranked candidates. The same arrays give the same arrangement; of equal candidates the
more probable one comes first, then the earlier one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.hints import did_you_mean, shown
from feast_recsys.bundle.index.allowed import Mask
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.reduction import Metric
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.features.reranking_settings import MAX_CAPS
from feast_recsys.server.items import best_first
from feast_recsys.server.requests import Reranking


def check(rules: Reranking, snapshot: Snapshot) -> None:
    """Holds rules against the catalogue.

    Raises:
        InvalidArgument: names the path of the first that has no meaning, from `reranking` on.
    """
    weight = rules.relevance_weight
    if not (math.isfinite(weight) and 0.0 <= weight <= 1.0):
        field = "reranking.relevance_weight"
        raise InvalidArgument(f"{field} is {weight}; it must be between 0 (diverse) and 1 (probable)", field=field)
    if len(rules.caps) > MAX_CAPS:
        raise InvalidArgument(
            f"reranking.caps has {len(rules.caps)} elements; the limit is {MAX_CAPS}", field="reranking.caps"
        )
    for n, cap in enumerate(rules.caps):
        path = f"reranking.caps[{n}]"
        if cap.key not in snapshot.references:
            near, known = did_you_mean(cap.key, snapshot.references), ", ".join(snapshot.references)
            raise InvalidArgument(
                f"{path}.key: no item feature {shown(cap.key)}{near or ';'} there are: {known}", field=f"{path}.key"
            )
        if snapshot.dtype(cap.key) is DType.FLOAT32:
            raise InvalidArgument(
                f"{path}.key: {cap.key} is float32; caps count equal values of texts, whole numbers, truth values or "
                "lists of them",
                field=f"{path}.key",
            )
        if cap.max_items < 1:
            raise InvalidArgument(
                f"{path}.max_items is {cap.max_items}; give at least 1, or block the items", field=f"{path}.max_items"
            )
    blocked = set(rules.blocked_item_ids)
    for n, item in enumerate(rules.pinned_item_ids):
        if item in blocked:
            field = f"reranking.pinned_item_ids[{n}]"
            raise InvalidArgument(f"{field}: item {item!r} is blocked as well; choose one", field=field)


class Cap:
    """At most so many items with the same value, over m candidates.

    Args:
        values: [m] texts, whole numbers or truth values, or lists of them, without nulls.
        valid: [m] bool; rows without a value are not limited.
        most: That many, at least 1.
    """

    def __init__(self, values: pa.Array, valid: Mask, most: int) -> None:
        elements, owners = values, np.arange(len(values))
        if pa.types.is_large_list(values.type):
            elements, owners = values.values, owners.repeat(np.diff(values.offsets))
        coded = elements.dictionary_encode()
        codes, usable = coded.indices.to_numpy(), valid[owners]
        self._left = [most] * len(coded.dictionary)
        self._values: list[list[int]] = [[] for _ in range(len(values))]
        self._positions: list[list[int]] = [[] for _ in range(len(coded.dictionary))]
        for owner, code in zip(owners[usable].tolist(), codes[usable].tolist(), strict=True):
            self._values[owner].append(code)
            self._positions[code].append(owner)

    def place(self, position: int) -> list[int]:
        """Counts a candidate that comes back; returns the positions that would break the cap from now on."""
        gone: list[int] = []
        for code in set(self._values[position]):  # an element that a list repeats counts once
            self._left[code] -= 1
            if not self._left[code]:
                gone += self._positions[code]
        return gone


def directions(vectors: Vectors, *, bias: int) -> Vectors:
    """[m, d - bias] float32: item vectors of unit length, whose products are cosines.

    Args:
        vectors: [m, d] float32.
        bias: How many of the last columns are biases, which say nothing of likeness. Where the rest of a vector is 0,
            it is like nothing.
    """
    plain = vectors[:, : vectors.shape[1] - bias]
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    return np.asarray(plain / np.where(lengths > 0, lengths, 1.0), np.float32)


def likenesses(vectors: Vectors, *, bias: int, metric: Metric) -> tuple[Vectors, Vectors]:
    """Two forms of item vectors; the product of one item's first with another's second is how alike they are.

    For `inner_product` and `cosine` that is their cosine, see `directions`. For `l2`, where directions depend on where
    zero happens to be, it is 1 - |x - y|^2 / 2 R^2, R the largest distance of an item from the mean of all: in [-1, 1]
    too, and the cosine about the mean of items that are all as far from it.

    Args:
        vectors: [m, d] float32, the model's own.
        bias: How many of the last columns are biases.
        metric: The model's.
    """
    if metric != "l2":
        units = directions(vectors, bias=bias)
        return units, units
    if not len(vectors):
        return vectors, vectors
    about = vectors.astype(np.float64)
    about -= about.mean(axis=0)
    squares = np.einsum("ij,ij->i", about, about)[:, None]
    largest = float(squares.max()) or 1.0
    about, halves, ones = about / np.sqrt(largest), squares / (2.0 * largest), np.ones_like(squares)
    first, second = np.hstack([about, 1.0 - halves, ones]), np.hstack([about, ones, -halves])
    return first.astype(np.float32), second.astype(np.float32)


def positions_of(wanted: Rows, rows: Rows) -> list[int]:
    """Where some items are among the candidates, in the order of `wanted`, each once; others are left out."""
    places = dict(zip(rows.tolist(), range(len(rows)), strict=True))
    return list(dict.fromkeys(places[row] for row in wanted.tolist() if row in places))


def arrange(
    scores: Vectors,
    k: int,
    *,
    pinned: Sequence[int] = (),
    caps: Sequence[Cap] = (),
    relevance_weight: float = 1.0,
    vectors: Vectors | None = None,
    others: Vectors | None = None,
) -> Rows:
    """Which candidates come back, and in which order.

    Pinned ones come first. Then, one after the other, comes the candidate with the largest
    `w * probability - (1 - w) * likeness`, where the likeness is the largest one to what was placed before, pinned
    ones included (maximal marginal relevance, Carbonell and Goldstein, 1998). A candidate that would break a cap is
    left out, a pinned one too. O(k m d).

    Args:
        scores: [m] float32 probabilities.
        k: How many are wanted; fewer come back where the caps leave no more.
        pinned: Positions that come first, in this order, each once.
        caps: Over the m candidates, nothing placed yet. They are used up.
        relevance_weight: w, in [0, 1]. With 1 the vectors are not looked at.
        vectors: [m, d] of `directions`, or the first form of `likenesses`; needed for a smaller weight.
        others: [m, d] the second form of `likenesses`; None if it is the same.

    Returns:
        Positions, best first, at most k.
    """
    order = best_first(scores, len(scores))
    if not pinned and not caps and relevance_weight == 1.0:
        return order[:k]
    placing = _Placing(len(scores), k, caps)
    for position in pinned:
        placing.place(position)
    if relevance_weight == 1.0:
        for position in order.tolist():
            if placing.full:
                break
            placing.place(position)
    else:
        assert vectors is not None
        _place_diverse(placing, order, scores, relevance_weight, vectors, vectors if others is None else others)
    return np.array(placing.placed, np.int64)


class _Placing:
    """The candidates that have their place, and those that can't have one any more."""

    def __init__(self, m: int, k: int, caps: Sequence[Cap]) -> None:
        self._k, self._caps = k, caps
        self.placed: list[int] = []
        self.out = bytearray(m)

    @property
    def full(self) -> bool:
        """Whether no more are wanted."""
        return len(self.placed) >= self._k

    def place(self, position: int) -> list[int]:
        """Places a candidate, unless it can't be; returns those that can't be any more."""
        if self.full or self.out[position]:
            return []
        self.placed.append(position)
        gone = [position]
        for cap in self._caps:
            gone += cap.place(position)
        for other in gone:
            self.out[other] = True
        return gone


def _place_diverse(
    placing: _Placing, order: Rows, scores: Vectors, weight: float, vectors: Vectors, others: Vectors
) -> None:
    # In the order of probability, so that the first of equal values is the more probable one.
    others, place_of = others[order], np.empty_like(order)
    place_of[order] = np.arange(len(order))
    weighted = np.float32(1.0 - weight) * vectors[order]
    gains = np.float32(weight) * scores[order]
    gains[np.frombuffer(placing.out, np.bool_)[order]] = -np.inf
    unlike = np.zeros(len(order), np.float32)
    if placing.placed:
        unlike = (weighted @ others[place_of[placing.placed]].T).max(axis=1)
    values = gains - unlike
    while not placing.full and len(order):
        best = int(values.argmax())
        if values[best] == -np.inf:
            return
        first, gone = not placing.placed, placing.place(int(order[best]))
        gains[best if len(gone) == 1 else place_of[gone]] = -np.inf
        alike = weighted @ others[best]
        unlike = alike if first else np.maximum(unlike, alike, out=unlike)
        np.subtract(gains, unlike, out=values)
