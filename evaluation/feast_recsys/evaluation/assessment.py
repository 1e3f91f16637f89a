"""A recommender looked at from all sides: every metric, stage by stage, beside baselines, on parts of the test.

The protocol is that of `evaluate_recommender`: a test user asks once, before the first of their test events. Here the
lists are kept whole, so that everything follows from the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.progress import SILENT, Reporter
from feast_recsys.evaluation.baselines import choose_baselines, likes_before_test
from feast_recsys.evaluation.exposure import coverage, exposures, gini, lorenz
from feast_recsys.evaluation.full_ranking import Scores, measure, rank_users
from feast_recsys.evaluation.intervals import Interval, bootstrap_interval, paired_interval
from feast_recsys.evaluation.ranker import RankerQuality, judge_ranker, order_of, rank, tensors_of
from feast_recsys.evaluation.relevance import Hits, Mask, Relevant, Rows, Values
from feast_recsys.evaluation.slices import item_slices, recall_within, user_slices
from feast_recsys.models.data.events import Part
from feast_recsys.models.data.histories import Histories, from_lists
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.ranking.candidates import RankingSet, ranked_sources, retrieved_set
from feast_recsys.models.ranking.sources import is_own
from feast_recsys.models.retrieval.scoring import best, is_liked, score_catalogue
from feast_recsys.models.training.checkpoint import Checkpoint

CUTS = (5, 10, 20, 50)
SHOWN = 10  # length of a list that a person sees
WHOLE = 3_000_000  # most pairs of user and item that the ranker scores to rank the whole catalogue

EXTRA = ("popular_rank", "rank_all")  # what the stages cost: no rivals
LABELS = {
    "rank": "Retrieve + Rank",
    "retrieve": "Retrieve's own order",
    "rank_all": "Rank over all items",
    "popular_rank": "popular + Rank",
}


@dataclass(frozen=True)
class SliceQuality:
    """A metric on a part of the test.

    Attributes:
        kind: "users" or "items".
        name: Which part.
        size: Number of users, or of relevant items.
        metric: Its name.
        values: By contender.
    """

    kind: str
    name: str
    size: int
    metric: str
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class Exposure:
    """How evenly the lists of SHOWN items show the catalogue; see `exposure`."""

    coverage: float
    gini: float
    lorenz: tuple[float, ...]


@dataclass(frozen=True)
class Assessment:
    """What was measured. Intervals are 95 % bootstrap intervals over users; contenders by name, ours first.

    Attributes:
        recommender: Its name.
        users, items, candidates: Test users, size of the catalogue, candidates that Retrieve hands to Rank.
        metrics: By contender and metric.
        gains: By the name of the other: mean difference in NDCG@10 of our last stage, user by user.
        curves: By contender, Recall@k for k from 1 on.
        exposure: By contender.
        ranker: None if the recommender only retrieves.
        slices: NDCG@10 by part of the users, Recall@20 by part of the relevant items.
        liked, reached, shown: Relevant items a user, on average: all, among the candidates, among the first 10 shown.
    """

    recommender: str
    users: int
    items: int
    candidates: int
    metrics: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Interval]
    curves: Mapping[str, tuple[float, ...]]
    exposure: Mapping[str, Exposure]
    ranker: RankerQuality | None
    slices: tuple[SliceQuality, ...]
    liked: float
    reached: float
    shown: float

    @property
    def ours(self) -> str:
        """The name of our last stage."""
        return next(iter(self.metrics))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that is not defined is null."""
        document: dict[str, Any] = plain(asdict(self))
        return document


def label(contender: str) -> str:
    """What a contender is called in tables."""
    return LABELS.get(contender, contender)


def assess(
    recommender: str,
    data: TrainingData,
    retrieval: Checkpoint,
    ranking: Checkpoint | None,
    *,
    baselines: bool = True,
    seed: int = 0,
    progress: Reporter = SILENT,
) -> Assessment:
    """Measures a trained recommender on the test users of its data.

    Args:
        recommender: Its name.
        data: What the models were trained on.
        retrieval, ranking: The trained models; no ranking if the recommender only retrieves.
        baselines: Whether to compare with popularity, item-kNN, EASE, ALS and BPR, chosen on validation.
        seed: Of the bootstrap.
        progress: Hears of the steps.
    """
    k = min(data.settings.candidates, data.items)
    lists, extra, ranker = _our_lists(data, retrieval, ranking, k, seed, progress)
    liked, met = histories_before(data)
    if baselines:
        progress.start("compare with baselines")
        chosen = choose_baselines(data, seed, progress)
        known = likes_before_test(data)
        for number, (name, fit) in enumerate(chosen.items()):
            lists[name] = rank_users(fit(known), liked, k, seen=met)
            progress.progress(number + 1, len(chosen))
        progress.done(", ".join(chosen))
    progress.start("metrics and intervals")
    lists |= extra
    found = _summary(recommender, data, lists, liked.lengths, ranker, k, seed)
    progress.done(f"{len(lists)} contenders, {found.users} test users")
    return found


def histories_before(data: TrainingData) -> tuple[Histories, Histories]:
    """For each test query: the items liked, and those met at all, before it. Oldest first, each once."""
    events, queries, liked, met = data.events, data.test, [], []
    for user, time in zip(queries.users.tolist(), queries.times.tolist(), strict=True):
        start = int(events.starts[user])
        end = start + len(events.seen(user, time))
        met.append(_distinct(events.items[start:end]))
        liked.append(_distinct(events.items[start:end][events.positive[start:end]]))
    return from_lists(liked, data.items), from_lists(met, data.items)


def _our_lists(
    data: TrainingData, retrieval: Checkpoint, ranking: Checkpoint | None, k: int, seed: int, progress: Reporter
) -> tuple[dict[str, Rows], dict[str, Rows], RankerQuality | None]:
    """Lists of the stages; lists that tell what the stages cost; the ranker's quality."""
    progress.start("retrieve and rank")
    queries, items = data.test, data.items
    whole = ranking is not None and len(queries) * items <= WHOLE
    likes = likes_in_training(data).astype(np.float32)
    sets: dict[str, tuple[Rows, Scores]] = {}

    def put(name: str, rows: Rows, chosen: Rows, scores: Scores) -> None:
        if name not in sets:
            shape = (len(queries), chosen.shape[1])
            sets[name] = np.full(shape, -1, np.int64), np.zeros(shape, np.float32)
        own = np.take_along_axis(scores, np.maximum(chosen, 0), axis=1)
        sets[name][0][rows], sets[name][1][rows] = chosen, np.where(chosen >= 0, own, np.float32(0))

    tensors, listed = tensors_of(data, retrieval), ranked_sources(data) if ranking is not None else ()
    metric = retrieval.signature.metric
    for rows, block in score_catalogue(retrieval.modules, tensors, data, queries, metric):
        put("retrieve", rows, best(block, k).items, block)
        if ranking is not None:
            put("popular_rank", rows, best(np.where(block > -np.inf, likes, np.float32(-np.inf)), k).items, block)
        if whole:
            put("rank_all", rows, best(block, items).items, block)
    if ranking is None:
        progress.done(f"{len(queries)} test users")
        return {"retrieve": sets["retrieve"][0]}, {}, None
    ordered, quality = {}, None
    merged = None
    if listed:
        # What Retrieve hands to Rank comes from all sources; the other lists ask the model alone.
        bias = retrieval.signature.bias
        merged = retrieved_set(retrieval.modules, tensors, data, queries, k, bias=bias, metric=metric)
        sets["retrieve"] = merged.items, merged.scores
    own = next((at for at, source in enumerate(listed) if is_own(source, data.settings)), 0)
    for number, (name, (chosen, scores)) in enumerate(sets.items()):
        sources = np.full(chosen.shape, own, np.int64) if listed else None
        candidates = RankingSet(queries, chosen, scores, is_liked(chosen, queries), sources)
        if name == "retrieve" and merged is not None:
            candidates = merged
        probabilities = rank(data, ranking, candidates)
        order = order_of(candidates, probabilities)[:, :k]
        ordered["rank" if name == "retrieve" else name] = np.take_along_axis(chosen, order, axis=1)
        if name == "retrieve":
            quality = judge_ranker(data, ranking, candidates, probabilities, min(SHOWN, k), seed)
        progress.progress(number + 1, len(sets))
    progress.done(f"{len(queries)} test users")
    return {"rank": ordered.pop("rank"), "retrieve": sets["retrieve"][0]}, ordered, quality


def _summary(
    recommender: str, data: TrainingData, lists: Mapping[str, Rows], before: Rows, ranker: RankerQuality | None,
    k: int, seed: int,
) -> Assessment:  # fmt: skip
    relevant = Relevant(data.test.offsets, data.test.items)
    cuts = sorted({min(cut, k) for cut in (*CUTS, k)})
    cut, wide = min(SHOWN, k), min(20, k)
    per_user = {name: measure(ranked, relevant, cuts) for name, ranked in lists.items()}
    ours = next(iter(lists))
    main = {name: values[f"ndcg@{cut}"] for name, values in per_user.items()}
    full = [name for name in lists if name not in EXTRA]
    slices = [
        _slice(
            "users", part.name, int(part.members.sum()), f"ndcg@{cut}", part.members, {n: main[n] for n in full}, seed
        )
        for part in user_slices(before)
    ]
    for part in item_slices(relevant, likes_in_training(data)):
        values = {name: recall_within(lists[name], relevant, part, wide) for name in full}
        everybody = np.ones(len(relevant), np.bool_)
        size = int(part.members.sum())
        slices.append(_slice("items", part.name, size, f"recall@{wide}", everybody, values, seed))
    hits = Hits.of(lists[ours], relevant, k).found
    return Assessment(
        recommender,
        len(relevant),
        data.items,
        k,
        {n: {m: bootstrap_interval(v, seed=seed) for m, v in values.items()} for n, values in per_user.items()},
        {n: paired_interval(main[ours], v, seed=seed) for n, v in main.items() if n != ours},
        {n: _curve(ranked, relevant, k) for n, ranked in lists.items()},
        {n: _exposure(ranked, data.items, cut) for n, ranked in lists.items()},
        ranker,
        tuple(slices),
        float(relevant.counts.mean()),
        float(hits.sum(axis=1).mean()),
        float(hits[:, :cut].sum(axis=1).mean()),
    )


def _slice(
    kind: str, name: str, size: int, metric: str, members: Mask, values: Mapping[str, Values], seed: int
) -> SliceQuality:
    intervals = {n: bootstrap_interval(v[members], seed=seed) for n, v in values.items()}
    return SliceQuality(kind, name, size, metric, intervals)


def _curve(ranked: Rows, relevant: Relevant, k: int) -> tuple[float, ...]:
    shares = np.cumsum(Hits.of(ranked, relevant, k).found, axis=1) / relevant.counts[:, None]
    return tuple(shares.mean(axis=0).tolist())


def _exposure(ranked: Rows, items: int, cut: int) -> Exposure:
    counts = exposures(ranked, items, cut)
    return Exposure(coverage(counts), gini(counts), tuple(lorenz(counts).tolist()))


def likes_in_training(data: TrainingData) -> Rows:
    """[n] int64: likes of each item among all events that are not test."""
    chosen = (data.events.parts != Part.TEST) & data.events.positive
    return np.bincount(data.events.items[chosen], minlength=data.items).astype(np.int64)


def _distinct(items: Rows) -> Rows:
    """Each item once, where it stands last."""
    _, last = np.unique(items[::-1], return_index=True)
    return items[::-1][np.sort(last)][::-1]


def plain(value: Any) -> Any:
    """Plain JSON types of a nested value; a number that is not finite is None."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
