"""Rankers at work: in parts where the items are the catalogue's own, whole where a request knows better."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.item_columns import from_rows
from feast_recsys.bundle.runtime import LoadedSplit
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.split import Passed, Split
from feast_recsys.server.batching import Batcher
from feast_recsys.server.deadline import Deadline
from feast_recsys.server.stage import Stage

BATCH_CANDIDATES = {"cpu": 0, "cuda": 8192}
"""What `recsys.serving.batch_candidates` is by default, by device; measured in docs/performance.md."""


@dataclass(frozen=True)
class Parts:
    """A split ranker with what its item part gave for the whole catalogue.

    Attributes:
        split: What goes from where to where.
        loaded: User part and cross part.
        columns: What the item part gave, [n, width] each, in the order of its outputs.
        computed: Features that the item part has taken already: what it gave does not hold for other values of them.
        hoisted: Inputs that only the item part takes, so that a call gathers none of their values.
        raw: Inputs of candidates that the cross part takes as they are.
        complete: [n] bool, the items for which no default stands in for a hoisted value; None if that is all of them.
    """

    split: Split
    loaded: LoadedSplit
    columns: tuple[Array, ...]
    computed: frozenset[str]
    hoisted: tuple[Input, ...]
    raw: tuple[Input, ...]
    complete: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Candidates:
    """What one caller wants ranked by the parts.

    Attributes:
        user: User and context tensors, batch 1, by input name.
        rows: [m] rows of the snapshot.
        raw: Tensors of m rows of `Parts.raw`, by input name.
    """

    user: Mapping[str, Array]
    rows: Rows
    raw: Mapping[str, Array]


class Ranker:
    """One ranker, ready to answer.

    Args:
        whole: The whole graph: the reference, and what serves where a request overrides a hoisted feature.
        parts: The same in parts; None where nothing was hoisted.
        batch: Most candidates of several callers in one run of the cross part; 0 runs each caller's alone.
    """

    def __init__(self, whole: Stage, parts: Parts | None, batch: int = 0) -> None:
        self.whole, self.parts = whole, parts
        self._batcher: Batcher[Candidates, Vectors] | None = None
        if parts is not None and batch and stackable(parts.split):
            self._batcher = Batcher(self._run_stacked, lambda c: len(c.rows), batch)

    def run_whole(self, tensors: Mapping[str, Array]) -> Vectors:
        """[m] probabilities from all inputs by name."""
        return self.whole.graph.run(tensors)

    def run_parts(self, candidates: Candidates, deadline: Deadline) -> Vectors:
        """[m] probabilities from the parts, together with other callers' where that is on.

        Raises:
            DeadlineExceeded: the time was up before the candidates' turn.
        """
        if self._batcher is not None:
            return self._batcher.submit(candidates, deadline)
        assert self.parts is not None
        return _run(self.parts, candidates)

    def _run_stacked(self, batch: Sequence[Candidates]) -> list[Vectors]:
        assert self.parts is not None
        if len(batch) == 1:
            return [_run(self.parts, batch[0])]
        return run_stacked(self.parts, batch)


def _run(parts: Parts, candidates: Candidates) -> Vectors:
    feed = dict(candidates.raw)
    if parts.loaded.user is not None:
        feed |= parts.loaded.user.run(candidates.user)
    for name in parts.split.cross.inputs:
        if name in candidates.user:
            feed[name] = candidates.user[name]
    _add_items(feed, parts, candidates.rows)
    return parts.loaded.cross.score(feed)


def stackable(split: Split) -> bool:
    """Whether callers' candidates may share a run: proved at export, and no list's length comes into the way."""
    outputs = split.user.outputs if split.user is not None else ()
    return split.stackable and all(size is not None for passed in outputs for size in passed.shape)


def run_stacked(parts: Parts, batch: Sequence[Candidates]) -> list[Vectors]:
    """The candidates of several callers in one run of the cross part, and to each its own scores.

    See `bundle.split.Split.stackable`.

    Args:
        parts: Of a ranker whose split is `stackable`.
        batch: What each caller wants ranked.
    """
    counts = [len(candidates.rows) for candidates in batch]
    feed: dict[str, Array] = {}
    if parts.loaded.user is not None:
        handed = [parts.loaded.user.run(candidates.user) for candidates in batch]
        for passed in parts.loaded.user.part.outputs:
            assert passed.stack is not None
            repeated = [np.repeat(t[passed.name], n, passed.stack) for t, n in zip(handed, counts, strict=True)]
            feed[passed.name] = np.concatenate(repeated, passed.stack)
    for spec in parts.raw:
        feed[spec.name] = _concatenate([candidates.raw[spec.name] for candidates in batch], spec)
    _add_items(feed, parts, np.concatenate([candidates.rows for candidates in batch]))
    scores = parts.loaded.cross.score(feed)
    return np.split(scores, np.cumsum(counts)[:-1])


def _add_items(feed: dict[str, Array], parts: Parts, rows: Rows) -> None:
    outputs: tuple[Passed, ...] = parts.split.item.outputs if parts.split.item is not None else ()
    for passed, column in zip(outputs, parts.columns, strict=True):
        feed[passed.name] = from_rows(column, rows, passed)
    if parts.split.count:
        feed[parts.split.count] = np.array([len(rows)], np.int64)


def _concatenate(tensors: Sequence[Array], spec: Input) -> Array:
    """Rows of several callers; lists are padded to the longest."""
    if spec.max_length is None:
        return np.concatenate(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    wide = [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=spec.pad) for t in tensors]
    return np.concatenate(wide)
