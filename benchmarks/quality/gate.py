"""The gate before any study: what the simplest rows give on public data is known to five digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from benchmarks.quality.data import Split, census, five_star, gowalla
from benchmarks.quality.study import SEEDS

from feast_recsys.evaluation.full_ranking import Scores, means, measure, rank_users
from feast_recsys.models.data.histories import Histories

TOLERANCE = 5e-5


@dataclass(frozen=True)
class Check:
    """One figure."""

    name: str
    expected: float
    found: float

    @property
    def passes(self) -> bool:
        """Whether they agree to the digits that are known."""
        return abs(self.found - self.expected) <= TOLERANCE


@dataclass(frozen=True)
class Popular:
    """Everybody gets the items that most users have."""

    counts: Scores

    def score(self, histories: Histories, chosen: npt.NDArray[np.int64], /) -> Scores:
        """See Scorer."""
        return np.broadcast_to(self.counts, (len(chosen), len(self.counts)))


def check(data: Path) -> list[Check]:
    """Popularity on Gowalla (train and validation seen) and on five-star ratings, the larger class of the census."""
    places = popular(gowalla(data / "gowalla"), (20, 50))
    stars = [popular(five_star(data / "ml1m-five-star", seed), (20, 100)) for seed in SEEDS]
    people = census(data / "adult")

    def mean(name: str) -> float:
        return float(np.mean([found[name] for found in stars]))

    return [
        Check("Gowalla popularity recall@20", 0.04163, places["recall@20"]),
        Check("Gowalla popularity ndcg@20", 0.03169, places["ndcg@20"]),
        Check("Gowalla popularity recall@50", 0.06237, places["recall@50"]),
        Check("Gowalla popularity hit_rate@20", 0.20383, places["hit_rate@20"]),
        Check("five-star popularity recall@20, seeds 0-4", 0.1867, mean("recall@20")),
        Check("five-star popularity map@20, seeds 0-4", 0.0583, mean("map@20")),
        Check("five-star popularity recall@100, seeds 0-4", 0.4244, mean("recall@100")),
        Check("census larger class, test", 0.7638, float(1 - people.test_labels.mean())),
    ]


def popular(split: Split, cuts: tuple[int, ...]) -> dict[str, float]:
    """The metrics of popularity on the test part."""
    counts = np.bincount(split.both.items, minlength=split.both.catalogue).astype(np.float32)
    return means(measure(rank_users(Popular(counts), split.both, max(cuts)), split.test, cuts))
