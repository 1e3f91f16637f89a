"""Search of Milvus or Qdrant: an engine finds candidates, and what comes back is checked and scored here.

A bundle keeps the vectors of its items in any case, mapped into memory. An engine's answer is therefore held against
what may come back, scored exactly, and where it has too few items, or no words for the filter, exact search answers
over the rows that pass. So the engine decides on recall and time, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.bundle.filter_plan import Plan
from feast_recsys.bundle.index.allowed import Allowed, Without
from feast_recsys.bundle.index.breaker import Breaker
from feast_recsys.bundle.index.depth import places
from feast_recsys.bundle.index.engine import Collection, Engine
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.remote_filters import folded
from feast_recsys.bundle.index.rescoring import rescored

FEW_ROWS = 30_000
"""Passing rows up to which exact search over them is as quick as any server: gathered and scored in 4 ms, and in .5
once they are kept in one place. A server's graph finds fewer of them besides."""

MOST_WANTED = 16_384
"""Items that an engine is asked for at most: Milvus gives no more."""

# Asked for in addition where a request leaves out some.
_MORE = 16


class _Question(NamedTuple):
    """What an engine is asked.

    Attributes:
        where: What must be true of the items; None for nothing.
        share: Of all items, how many that is true of.
        out: How many of these must not come back all the same. They are dropped here: to name them takes longer.
    """

    where: Plan | None
    share: float
    out: int


@dataclass(frozen=True, eq=False)
class RemoteIndex:
    """An index that an engine searches.

    Attributes:
        engine: Where.
        collection: What it searches.
        vectors: [n, d] float32, mapped: what it was filled with.
        few: Passing rows up to which a filter is left to exact search.
        breaker: Keeps searches from queueing while the engine is down.
    """

    engine: Engine
    collection: Collection
    vectors: Vectors
    few: int = FEW_ROWS
    breaker: Breaker = field(default_factory=Breaker, init=False, repr=False)

    @property
    def dimension(self) -> int:
        """See Index.dimension."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return int(self.vectors.shape[0])

    def vectors_of(self, rows: Rows) -> Vectors:
        """See Index.vectors_of."""
        return np.asarray(self.vectors.take(rows, axis=0))

    def check(self) -> None:
        """Compares the number of items.

        Raises:
            IndexUnavailable: see Engine.
            CorruptArtifact: the collection is not there, or has not n items.
        """
        count, n = self.engine.count(self.collection.name), len(self)
        if count != n:
            holds = f"holds {count:,} items" if count >= 0 else "is not there"
            raise CorruptArtifact(
                f"{self.engine.place}: collection {self.collection.name} {holds}, but the bundle has {n:,}; "
                "materialize anew, or serve another bundle"
            )

    def search(self, queries: Vectors, k: int, allow: Allowed | None = None) -> tuple[Rows, Vectors]:
        """See Index.search.

        Raises:
            IndexUnavailable: see Engine.
        """
        m = min(k, len(self)) if allow is None else allow.up_to(min(k, len(self)))
        question = self._question(allow) if m > 0 and len(queries) else None
        answers = question and self._ask(queries, self._wide(m, question), question)
        if question is None or answers is None:
            return ExactIndex(self.vectors).search(queries, m, allow)
        staying = [self._staying(answer, allow) for answer in answers]
        short = [n for n, rows in enumerate(staying) if len(rows) < m]
        if short and m + question.out > self._wide(m, question):
            # Who leaves out the very best may have left out all that came.
            more = self._ask(queries[short], m + question.out, question)
            for n, answer in zip(short, more or (), strict=False):
                staying[n] = self._staying(answer, allow)
        found, scores = np.empty((len(queries), m), np.int64), np.empty((len(queries), m), np.float32)
        for n, (query, rows) in enumerate(zip(queries, staying, strict=True)):
            found[n], scores[n] = self._answer(query, rows, m, allow)
        return found, scores

    def _wide(self, m: int, question: _Question) -> int:
        """How many to ask for: a few more than m where what must not come back lies anywhere."""
        return m if not question.out else places(m, 1.0, question.out / (question.share * len(self)))[1] + _MORE

    def _ask(self, queries: Vectors, wide: int, question: _Question) -> Sequence[Rows] | None:
        where, share, limit = question.where, question.share, min(wide, len(self))
        if limit > MOST_WANTED:
            return None
        return self.breaker.call(lambda: self.engine.search(self.collection, queries, limit, where, share))

    def _question(self, allow: Allowed | None) -> _Question | None:
        """What to ask the engine; None where exact search is quicker, or nothing says the same."""
        if allow is None:
            return _Question(None, 1.0, 0)
        if allow.most <= self.few:
            return None
        out = len(np.unique(allow.excluded)) if isinstance(allow, Without) else 0
        passing = allow.filter
        if passing is None:
            return _Question(None, 1.0, out)
        condition = folded(passing.condition) if passing.condition is not None else None
        if condition is True:
            return _Question(None, 1.0, out)
        if condition is None or condition is False:
            # Rows of some other origin, which no engine knows; where few are missing, they are dropped here.
            return _Question(None, 1.0, out + len(passing) - passing.count)
        return _Question(condition, passing.count / len(self), out)

    def _answer(
        self, query: npt.NDArray[np.float32], rows: Rows, m: int, allow: Allowed | None
    ) -> tuple[Rows, Vectors]:
        if len(rows) >= m:
            return rescored(self.vectors, query, rows, m)
        found, scores = ExactIndex(self.vectors).search(query[None], m, allow)
        return found[0], scores[0]

    def _staying(self, answer: Rows, allow: Allowed | None) -> Rows:
        """What of an answer is in the catalogue, and may come back."""
        rows = np.unique(answer)
        rows = rows[(rows >= 0) & (rows < len(self))]
        return rows if allow is None else rows[allow.mask.take(rows)]
