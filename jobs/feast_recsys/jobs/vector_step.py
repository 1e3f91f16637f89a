"""Item vectors brought up to date in Feast: what differs is written and read back, the rest is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.features.repo import EntityKey, Repo
from feast_recsys.jobs.audit import sampled
from feast_recsys.jobs.embed import Rows, Vectors
from feast_recsys.jobs.feast_values import Answer
from feast_recsys.jobs.previous import Previous
from feast_recsys.jobs.write_vectors import VectorView, differing, stored_vectors, write_vectors


class Written(NamedTuple):
    """How many rows were written, and how many of these read back."""

    written: int
    read_back: int


@dataclass(frozen=True)
class VectorStep:
    """One feature view and the vectors that it is to have.

    Attributes:
        repo: The repository.
        target: The view.
        key: Of items.
        ids: [n] all items.
        vectors: [n, d] by recommender.
        seed: Decides which rows are sampled.
    """

    repo: Repo
    target: VectorView
    key: EntityKey
    ids: Array
    vectors: Mapping[str, Vectors]
    seed: int

    def run(self, previous: Previous | None, progress: Callable[[int, int], None] | None = None) -> Written:
        """Writes the vectors that the last bundle does not have, or all of them where Feast has lost some.

        Args:
            previous: The last bundle; None writes all.
            progress: Called with the number of rows written and of those to write.

        Raises:
            JobFailed: a store refuses rows, can't be read, or gives other vectors back than were written.
        """
        rows, moments = self._missing(previous)
        if not len(rows):
            return Written(0, 0)
        sample = sampled(rows, self.seed)
        moments += self._moments(self._stored(sample))
        write_vectors(
            self.repo, self.target, self.key, self.ids, self.vectors, after=max(moments, default=0.0),
            keep=self.repo.settings.keep_bundles, rows=rows, progress=progress,
        )  # fmt: skip
        self._read_back(sample)
        return Written(len(rows), len(sample))

    def _missing(self, previous: Previous | None) -> tuple[Rows, list[float]]:
        """The rows to write, and event times of some that are stored."""
        every = np.arange(len(self.ids))
        if previous is None:
            return every, []
        changes = [previous.changed(name, self.ids, self.vectors[name]) for name in self.target.features]
        changed = np.unique(np.concatenate(changes))
        others = sampled(np.setdiff1d(every, changed), self.seed)
        stored = self._stored(others)
        lost = any(differing(stored[name], self.vectors[name], others) for name in self.target.features)
        return (every if lost else changed), self._moments(stored)

    def _stored(self, rows: Rows) -> dict[str, Answer]:
        return stored_vectors(self.repo, self.target, self.key, self.ids[rows].tolist())

    def _moments(self, stored: Mapping[str, Answer]) -> list[float]:
        return [moment for answer in stored.values() for moment in answer.moments]

    def _read_back(self, rows: Rows) -> None:
        stored = self._stored(rows)
        for recommender, reference in self.target.references.items():
            wrong = differing(stored[recommender], self.vectors[recommender], rows)
            if wrong:
                raise JobFailed(
                    f"{reference} was written, but reads back otherwise for {len(wrong)} of {len(rows)} items, such as "
                    f"{self.ids[wrong[0]]}; check the online store, and that its clock and this one agree",
                    field=reference,
                )
