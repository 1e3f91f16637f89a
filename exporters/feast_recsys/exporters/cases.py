"""Raw feature values on which an exported graph is held against its torch module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.signature import Graph, Input, Scalar
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.inputs import single_row

BATCHES = (1, 2, 7, 50)
LENGTHS = (1, 2)  # and max_length
FEW = 7  # rows of the cases that look at one value
MANY = 512  # rows of the cases that walk through a vocabulary
KEYS = 4096  # keys tried of a larger vocabulary
SINGLE_KEYS = 32  # keys tried where each takes a call of its own

_STRINGS = ("", " ", "\x00", "nan", "0", "ключ", "日本語", "🎬", "e\u0301", "a" * 10_000)
_INTS = (0, -1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
_EXTREMES: Mapping[DType, tuple[Scalar, ...]] = {
    DType.FLOAT32: (0.0, -0.0, 1e-45, 1e-30, -1e-30, 0.5, 1.0, -1.0, 1e3, -1e3, 1e6, -1e6, 1e9, -1e9),
    DType.INT64: (0, 1, -1, 2**24 + 1, 2**31, -(2**31)),
    DType.BOOL: (False, True),
}
# Where float32 or int64 end, a module may overflow; it must do so in both runtimes alike.
_LIMITS: Mapping[DType, tuple[Scalar, ...]] = {
    DType.FLOAT32: (float(np.finfo(np.float32).max), float(np.finfo(np.float32).min)),
    DType.INT64: (2**53 + 1, 2**63 - 1, -(2**63)),
    DType.BOOL: (),
}


@dataclass(frozen=True)
class Case:
    """Inputs of one call.

    Attributes:
        name: What it tries, for people; names the feature that it is about.
        feed: Raw values by input name: [batch] or [batch, length], batch 1 where the role has it so.
        rows: Rows that the output must have.
        feature: The Feast reference that it is about; empty if it is about none.
        limit: Whether values stand at the end of their type's range, where a module may overflow.
    """

    name: str
    feed: Mapping[str, Array]
    rows: int
    feature: str = ""
    limit: bool = False


class Sampler:
    """Draws raw values for the inputs of one graph.

    Args:
        graph: The inputs.
        vocabularies: By the names that the inputs give.
        seed: Same seed, same values.
        probes: Further values to try, by Feast reference: bucket bounds, for instance.
    """

    def __init__(
        self,
        graph: Graph,
        vocabularies: Mapping[str, Vocabulary],
        seed: int,
        probes: Mapping[str, Sequence[Scalar]] | None = None,
    ) -> None:
        self._graph = graph
        self._random = np.random.default_rng(seed)
        self._probes = probes or {}
        self._known: dict[str, Array] = {}
        self._unknown: dict[str, Array] = {}
        for spec in graph.inputs:
            if spec.vocabulary is not None:
                keys = vocabularies[spec.vocabulary].keys
                self._known[spec.name] = _array(spec, keys)
                self._unknown[spec.name] = _array(spec, _unknown_keys(spec, keys))

    def feed(self, batch: int, length: int) -> dict[str, Array]:
        """Random inputs: lists of mixed lengths, the longest of `length` or the input's `max_length`."""
        return {spec.name: self._draw(spec, batch, length) for spec in self._graph.inputs}

    def trace_feed(self, batch: int) -> dict[str, Array]:
        """Random inputs for tracing: lists of different lengths, at least 2 where `max_length` allows."""
        return {spec.name: self._draw(spec, batch, 2 + n) for n, spec in enumerate(self._graph.inputs)}

    def cases(self) -> Iterator[Case]:
        """All cases of the graph."""
        # What is about one feature alone comes first, all else at its default, so that a failure names the culprit.
        yield from self._absent()
        for spec in self._graph.inputs:
            if spec.vocabulary is None:
                yield from self._numbers(spec)
        numbers = [s for s in self._graph.inputs if s.vocabulary is None and s.dtype is not DType.BOOL]
        for value in (0, 1, -1, 10**6, -(10**6), 10**9, -(10**9)) if numbers else ():
            feed = self.feed(FEW, 3)
            feed |= {s.name: np.full_like(feed[s.name], value) for s in numbers}
            yield Case(f"all numbers {value}", feed, FEW)
        yield from self._sizes()
        for spec in self._graph.inputs:
            if spec.vocabulary is not None:
                yield from self._keys(spec)

    def _sizes(self) -> Iterator[Case]:
        longest = max((s.max_length or 0 for s in self._graph.inputs), default=0)
        lengths = sorted({min(n, longest) for n in (*LENGTHS, longest)})
        for batch in BATCHES:
            for length in lengths:
                lists = f", lists of {length}" if longest else ""
                yield Case(f"batch {batch}{lists}", self.feed(batch, length), batch)

    def _absent(self) -> Iterator[Case]:
        for batch in BATCHES:
            yield Case(f"batch {batch} of defaults and empty lists", self._defaults(batch), batch)
        for spec in self._graph.inputs:
            if spec.max_length is None:
                continue
            for length in sorted({1, min(2, spec.max_length), spec.max_length}):
                feed = self.feed(FEW, 3)
                feed[spec.name] = _full(spec, self._shape(spec, FEW, length), spec.pad)
                yield Case(f"{spec.feature} empty, padded to {length}", feed, FEW, spec.feature)

    def _defaults(self, batch: int) -> dict[str, Array]:
        return {
            spec.name: _full(spec, self._shape(spec, batch, 1), spec.pad if spec.is_list else spec.default)
            for spec in self._graph.inputs
        }

    def _keys(self, spec: Input) -> Iterator[Case]:
        single = single_row(self._graph.role, spec)
        known = self._known[spec.name]
        if len(known) > (most := SINGLE_KEYS if single else KEYS):
            inner = self._random.choice(np.arange(1, len(known) - 1), most - 2, replace=False)
            known = known[np.sort(np.concatenate([[0, len(known) - 1], inner]))]
        for what, keys in (("known", known), ("unknown", self._unknown[spec.name])):
            step = 1 if single else MANY
            for start in range(0, len(keys), step):
                part = keys[start : start + step]
                rows = FEW if single else len(part)
                feed = self.feed(rows, 3)
                feed[spec.name] = part.reshape(-1, 1) if spec.is_list else part
                yield Case(f"{what} keys of {spec.feature} from {str(part[0])[:40]!r} on", feed, rows, spec.feature)

    def _numbers(self, spec: Input) -> Iterator[Case]:
        ordinary = (*_EXTREMES[spec.dtype], *self._probes.get(spec.feature, ()))
        for limit, values in ((False, ordinary), (True, _LIMITS[spec.dtype])):
            for value in values:
                feed = self._defaults(FEW)
                feed[spec.name] = _full(spec, self._shape(spec, FEW, 3), value)
                yield Case(f"{spec.feature} = {value!r}", feed, FEW, spec.feature, limit)

    def _draw(self, spec: Input, batch: int, length: int) -> Array:
        shape = self._shape(spec, batch, length)
        values = self._scalars(spec, int(np.prod(shape))).reshape(shape)
        if spec.is_list:
            lengths = self._random.integers(0, shape[1] + 1, shape[0])
            lengths[0] = shape[1]
            values[np.arange(shape[1]) >= lengths[:, None]] = spec.pad
        return values

    def _scalars(self, spec: Input, n: int) -> Array:
        random = self._random
        if spec.vocabulary is not None:
            known, unknown = self._known[spec.name], self._unknown[spec.name]
            values: Array = unknown[random.integers(0, len(unknown), n)]
            if len(known):
                values = np.where(random.random(n) < 0.75, known[random.integers(0, len(known), n)], values)
            return values
        if spec.dtype is DType.BOOL:
            return random.random(n) < 0.5
        if spec.dtype is DType.INT64:
            return random.integers(0, 1000, n)
        values = (random.normal(size=n) * random.choice([1.0, 10.0, 100.0], n)).astype(np.float32)
        values[random.random(n) < 0.1] = np.float32(spec.default)
        return values

    def _shape(self, spec: Input, batch: int, length: int) -> tuple[int, ...]:
        rows = 1 if single_row(self._graph.role, spec) else batch
        return (rows,) if spec.max_length is None else (rows, min(length, spec.max_length))


def _array(spec: Input, values: Sequence[Scalar]) -> Array:
    array = np.empty(len(values), spec.dtype.numpy)
    array[:] = values
    return array


def _full(spec: Input, shape: tuple[int, ...], value: Scalar) -> Array:
    return np.full(shape, value, spec.dtype.numpy)


def _unknown_keys(spec: Input, keys: Sequence[str] | Sequence[int]) -> list[Scalar]:
    """Values that are not in the vocabulary, some of them nearly."""
    taken = set(keys)
    if spec.dtype is DType.INT64:
        near = [int(key) + step for key in keys[:20] for step in (-1, 1)]
        candidates: list[Scalar] = [*_INTS, *near]
    else:
        candidates = list(_STRINGS)
        for key in map(str, keys[:20]):
            candidates += [f"{key} ", f" {key}", key.swapcase(), f"{key}\u0301"]
    fits = [v for v in candidates if v not in taken and (isinstance(v, str) or -(2**63) <= v < 2**63)]
    return list(dict.fromkeys(fits))
