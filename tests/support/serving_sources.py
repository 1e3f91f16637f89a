"""A world whose recommenders list sources, and what these should give, source by source and merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from support import graphs
from support.serving_bundle import Oracle, soften
from support.serving_world import AS_OF, DIMENSION, HISTORY, ITEMS, SEEN, World, build_world, key, ranker_inputs

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.vocabulary import Vocabulary

DAY = 86_400
DAYS = 7
QUOTAS = {"personal": 5, "fresh": 2, "trending": 2, "newest": 2, "alike": 1}

# By item: seconds before the bundle's time at which somebody liked it.
LIKES: dict[int, list[float]] = {
    3: [0.5 * DAY, 1 * DAY, 2 * DAY],
    11: [1 * DAY, 3 * DAY, 6.9 * DAY],
    12: [1 * DAY, 1 * DAY],
    25: [2 * DAY, 8 * DAY, 9 * DAY, 10 * DAY],
    26: [8 * DAY, 9 * DAY],
    27: [7 * DAY],
    28: [-1 * DAY, -1 * DAY, 0],
}
COLD_BELOW = 2

ADULT = {"type": "eq", "key": "catalogue:adult", "value": True}
NONE_PASSES = {"type": "gt", "key": "catalogue:year", "value": 1000}

_SOURCES = [
    {"name": "personal", "quota": 5},
    {"name": "fresh", "model": "content", "only": "cold", "cold_below": COLD_BELOW, "quota": 2},
    {"name": "trending", "kind": "popular", "days": DAYS, "quota": 2},
    {"name": "newest", "kind": "recent", "by": "catalogue:price", "quota": 2},
    {"name": "alike", "kind": "similar", "model": "content", "seeds": 2, "quota": 1},
]
RECOMMENDERS: dict[str, Any] = {
    "mixed": {
        "seen": ["seen:items", "history:items"], "candidates": 12, "top_k": 5, "fallback": "trending",
        "retrieval": {"history": "history:items"}, "sources": _SOURCES,
    },
    "narrow": {
        "ranking": None, "candidates": 6,
        "sources": [
            {"name": "old", "kind": "popular", "days": 0.25, "quota": 3},
            {"name": "none", "kind": "recent", "by": "catalogue:price", "filter": NONE_PASSES},
            {"name": "adult", "kind": "recent", "by": "catalogue:price", "filter": ADULT, "quota": 1},
        ],
    },
    "grownup": {
        "ranking": None,
        "sources": [{"name": "adult", "kind": "similar", "history": "history:items", "filter": ADULT}],
    },
    "plain": {"ranking": None, "candidates": 7},
}  # fmt: skip


def build_sources_world(folder: Path, *, redis: str | None = None, recommenders: Any = None) -> World:
    """The world of `serving_world`, with likes, and with a ranker that takes the source of each candidate."""
    likes = [(item, ago) for item, moments in LIKES.items() for ago in moments]
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(
        {
            "user_id": [1] * len(likes),
            "item_id": [item for item, _ in likes],
            "event_timestamp": pd.to_datetime([AS_OF - ago for _, ago in likes], unit="s", utc=True),
        }
    ).to_parquet(folder / "likes.parquet")
    world = build_world(
        folder,
        redis=redis,
        recommenders=recommenders or RECOMMENDERS,
        serving={"max_batch": 16},
        settings={"interactions": {"path": "likes.parquet"}},
    )
    inputs = (
        *ranker_inputs(False),
        Input("source", "request:retrieval_source", Side.ITEM, DType.STRING, default="", vocabulary="sources.json"),
    )
    known = {**world.vocabularies(), "sources.json": Vocabulary((*QUOTAS, "retrieval"))}
    return replace(world, split=False, ranker=(inputs, soften(graphs.graph(inputs, known, DIMENSION, ranker=True))))


@dataclass(frozen=True)
class Sources:
    """What every source of `mixed` has for a user: all its items with their scores, best first."""

    oracle: Oracle

    def of(self, user: str, out: Sequence[str] = ()) -> dict[str, list[tuple[str, float]]]:
        """By source; `out` may not come back."""
        row = self.oracle.user(user)
        content = self.oracle.retrieval_scores(row, "content")
        all_likes = {str(item): sum(ago >= 0 for ago in moments) for item, moments in LIKES.items()}
        lately = {str(item): sum(0 <= ago < DAYS * DAY for ago in moments) for item, moments in LIKES.items()}
        prices = {str(n): n / 8 for n in range(1, ITEMS + 1) if n != 6}
        found = {
            "personal": self.oracle.retrieval_scores(row),
            "fresh": {i: s for i, s in content.items() if all_likes.get(i, 0) < COLD_BELOW},
            "trending": {i: float(lately[i]) for i in self.oracle.ids if lately.get(i)},
            "newest": prices,
            "alike": self.alike([str(i) for i in (row["history:items"] or [])][:2]),
        }
        return {
            name: [(i, scores[i]) for i in sorted(scores, key=lambda i: -scores[i]) if i not in out]
            for name, scores in found.items()
        }

    def alike(self, seeds: Sequence[str]) -> dict[str, float]:
        """By the vectors of `content`; nothing without seeds."""
        if not seeds:
            return {}
        vectors = np.load(self.oracle.folder / "content.npy")
        return self._alike(vectors, seeds)

    def similar(self, seeds: Sequence[str]) -> dict[str, float]:
        """By the recommender's own vectors."""
        return self._alike(self.oracle.vectors, seeds)

    def _alike(self, vectors: npt.NDArray[np.float32], seeds: Sequence[str]) -> dict[str, float]:
        chosen = [vectors[self.oracle.ids.index(seed)] for seed in seeds]
        query = np.mean([v / np.linalg.norm(v) for v in chosen], axis=0)
        scores = dict(zip(self.oracle.ids, (vectors @ query).tolist(), strict=True))
        return {i: s for i, s in scores.items() if i not in seeds}


def merged(
    found: Mapping[str, Sequence[tuple[str, float]]], quotas: Mapping[str, int], k: int, fill: Sequence[str] = ()
) -> list[tuple[str, float, str]]:
    """Item, score and source of each candidate, one after the other as the documentation says."""
    total = sum(quotas.values())
    exact = {name: Fraction(k * quota, total) for name, quota in quotas.items()}
    parts = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: parts[name] - exact[name])[: k - sum(parts.values())]:
        parts[name] += 1
    taken: set[str] = set()
    placed = []
    for turn, name in enumerate(quotas):
        mine = [pair for pair in found[name] if pair[0] not in taken][: parts[name]]
        taken |= {item for item, _ in mine}
        placed += [
            (Fraction(2 * at + 1, 2 * parts[name]), turn, item, score, name) for at, (item, score) in enumerate(mine)
        ]
    answer = [(item, score, name) for _, _, item, score, name in sorted(placed, key=lambda p: p[:2])]
    for name in fill or quotas:
        for item, score in found[name]:
            if len(answer) < k and item not in taken:
                taken.add(item)
                answer.append((item, score, name))
    return answer


def seen_by(user: int) -> list[str]:
    """What `mixed` leaves out for a user."""
    return [str(key(n, False)) for n in (*SEEN.get(user, []), *HISTORY.get(user, []))]
