"""What an evaluation might have found, for what is made of it."""

from __future__ import annotations

import numpy as np

from feast_recsys.evaluation.assessment import Assessment, Exposure, SliceQuality
from feast_recsys.evaluation.intervals import Interval
from feast_recsys.evaluation.predictions import reliability
from feast_recsys.evaluation.ranker import RankerQuality, judge


def interval(mean: float) -> Interval:
    """One with bounds .01 to either side."""
    return Interval(mean, mean - 0.01, mean + 0.01, 50)


def assessment(rival: str) -> Assessment:
    """An assessment of films by made-up figures; the rival is level with ours."""
    labels, p = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.9])
    names = {"rank": 0.3, "retrieve": 0.2, rival: 0.3, "rank_all": 0.31}
    metrics = ("ndcg@10", "recall@10", "map@10", "hit_rate@10", "recall@20")
    ranker = RankerQuality(judge(labels, p), 0.7, interval(0.5), interval(0.4), reliability(labels, p, 3))
    return Assessment(
        "films",
        50,
        1000,
        20,
        {n: {m: interval(v) for m in metrics} for n, v in names.items()},
        {n: interval(0.3 - v) for n, v in names.items() if n != "rank"},
        {n: tuple(np.linspace(0.01, v, 20)) for n, v in names.items()},
        {n: Exposure(0.4, 0.8, (0.0, 0.1, 1.0)) for n in names},
        ranker,
        (
            SliceQuality("users", "0 to 4 likes", 9, "ndcg@10", {n: interval(0.1) for n in ("rank", "retrieve")}),
            SliceQuality("items", "tail", 9, "recall@20", {"rank": Interval(np.nan, np.nan, np.nan, 0)}),
        ),
        5.0,
        2.5,
        1.2,
    )
