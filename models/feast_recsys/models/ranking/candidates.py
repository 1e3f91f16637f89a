"""Candidates for the ranker to learn from: retrieved, popular and random items, with what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from feast_recsys.bundle.index.reduction import INNER_PRODUCT, Metric
from feast_recsys.bundle.progress import Reporter
from feast_recsys.bundle.signature import Role
from feast_recsys.features.source_settings import Source
from feast_recsys.models.data.events import Ints, Part
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import Floats, ModelTensors
from feast_recsys.models.ranking.sources import PastSources, is_own, sources_of
from feast_recsys.models.ranking.wide_deep import WideDeepConfig
from feast_recsys.models.retrieval.scoring import best, is_liked, retrieve, score_catalogue
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run


@dataclass(frozen=True)
class RankingSet:
    """Candidates of q queries.

    Attributes:
        queries: Who asked, and when.
        items: [q, c] positions in `Events.item_ids`; -1 fills up.
        scores: [q, c] float32, the retrieval scores; 0 where there is no item.
        labels: [q, c] bool, whether the user came to like the item.
        sources: [q, c] where each came from, as a position in `sources_of`. None if all come from the recommender's own
            model.
    """

    queries: Queries
    items: Ints
    scores: Floats
    labels: npt.NDArray[np.bool_]
    sources: Ints | None = None

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """[q, c]: where there is an item."""
        return self.items >= 0


def retrieved_set(
    encoders: Mapping[Role, nn.Module],
    tensors: ModelTensors,
    data: TrainingData,
    queries: Queries,
    k: int,
    *,
    bias: int = 0,
    metric: Metric = INNER_PRODUCT,
) -> RankingSet:
    """The k candidates of each query, as Retrieve hands them to Rank.

    Args:
        encoders: Of the recommender's retrieval model.
        tensors: Their inputs.
        data: Training data. With `sources` in its settings candidates come from all of them.
        queries: Who asks, and when.
        k: Number of candidates.
        bias: How many of the last columns of item vectors are biases; see `Signature.bias`.
        metric: What the vectors are compared by; see `Signature.metric`.
    """
    if not ranked_sources(data):
        found = retrieve(encoders, tensors, data, queries, k, metric)
        scores = np.where(found.items >= 0, found.scores, np.float32(0))
        return RankingSet(queries, found.items, scores, is_liked(found.items, queries))
    shape, past = (len(queries), min(k, data.items)), PastSources(data, encoders, tensors, bias, metric)
    items, scores, sources = np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.int64)
    for rows, block in score_catalogue(encoders, tensors, data, queries, metric):
        for row, merged in zip(rows.tolist(), past.candidates(queries, rows, block, shape[1]), strict=True):
            first = slice(len(merged))
            items[row, first], scores[row, first] = merged.rows, merged.scores
            sources[row, first] = merged.sources
    return RankingSet(queries, items, scores, is_liked(items, queries), sources)


def ranked_sources(data: TrainingData) -> tuple[Source, ...]:
    """The sources whose candidates the ranker of some training data meets; empty without a ranker, or for one."""
    return sources_of(data.settings) if data.settings.ranking is not None else ()


def training_set(
    data: TrainingData,
    retrieval: Checkpoint,
    tensors: ModelTensors,
    config: WideDeepConfig,
    run: Run,
) -> RankingSet:
    """Candidates for training, with retrieval scores as honest as those of serving.

    A two-tower scores the likes that it was trained on too well, and a ranker that learns from such scores
    trusts them too much. So the users are dealt into folds, and those of a fold are scored by encoders trained on
    the other folds. Encoders know users by their features only, so they serve users whom they never met.

    Which items become candidates never depends on what the user came to like: adding the likes that retrieval
    missed would teach that low scores are good.

    With several sources the first candidates are what these give together, each with the score that it has there. All
    further ones come from the own model.

    Args:
        data: Training data.
        retrieval: The trained retrieval model, for its settings.
        tensors: Inputs of its encoders.
        config: Of the ranker.
        run: Its seed is that of folds, encoders and draws; encoders are trained on its device.
    """
    random = np.random.default_rng(run.seed)
    fold_of = random.permutation(len(data.events.user_ids)) % config.folds
    events = data.events
    likes = events.items[(events.parts == Part.TRAIN) & events.positive]
    popularity = np.bincount(likes, minlength=data.items).astype(np.float64) + 0.01
    width = config.candidates + config.candidates // 3 + config.popular + config.random
    items = np.full((len(data.ranking), width), -1, np.int64)
    scores = np.zeros((len(data.ranking), width), np.float32)
    listed = ranked_sources(data)
    own_model = next((at for at, source in enumerate(listed) if is_own(source, data.settings)), 0)
    sources = np.full(items.shape, own_model, np.int64) if listed else None
    for fold in range(config.folds):
        asked = np.flatnonzero(fold_of[data.ranking.users] == fold)
        if not len(asked) or (fold_of[data.training.users] == fold).all():
            continue
        # Folds are trained by this process alone, and keep no state: they are short beside what comes after.
        part = Run(run.seed + 1 + fold, run.device, run.precision, progress=_Part(run.progress, fold, config.folds))
        encoders = refit(retrieval, tensors, data, np.flatnonzero(fold_of != fold), part)
        metric = retrieval.signature.metric
        for rows, block in score_catalogue(encoders, tensors, data, data.ranking.take(asked), metric):
            chosen = asked[rows]
            merged = None
            if sources is not None:
                past = PastSources(data, encoders, tensors, retrieval.signature.bias, metric)
                merged = past.candidates(data.ranking, chosen, block, config.candidates)
            first = [one.rows for one in merged] if merged is not None else None
            items[chosen] = choose_candidates(block, popularity, config, width, random, first)
            own = np.take_along_axis(block, np.maximum(items[chosen], 0), axis=1)
            scores[chosen] = np.where(items[chosen] >= 0, own, np.float32(0))
            for row, one in zip(chosen.tolist(), merged or (), strict=merged is not None):
                assert sources is not None
                scores[row, : len(one)], sources[row, : len(one)] = one.scores, one.sources
    return RankingSet(data.ranking, items, scores, is_liked(items, data.ranking), sources)


def choose_candidates(
    scores: Floats,
    popularity: npt.NDArray[np.float64],
    config: WideDeepConfig,
    width: int,
    random: np.random.Generator,
    first: Sequence[Ints] | None = None,
) -> Ints:
    """[m, width] candidates, each once in a row, -1 where there are fewer.

    Those of `first` come first, at most `config.candidates` a row; None for the best by score.
    """
    k = config.candidates
    found = best(scores, 3 * k).items
    near, below = found[:, :k], found[:, k:]
    chosen = np.full((len(scores), width), -1, np.int64)
    for n in range(len(scores)):
        fresh = np.flatnonzero(scores[n] > -np.inf)
        if not len(fresh):
            continue
        next_best = below[n][below[n] >= 0]
        share = popularity[fresh] / popularity[fresh].sum()
        drawn = [
            near[n][near[n] >= 0] if first is None else first[n],
            random.permutation(next_best)[: k // 3],
            fresh[np.searchsorted(share.cumsum(), random.random(config.popular)).clip(max=len(fresh) - 1)],
            fresh[random.integers(0, len(fresh), config.random)],
        ]
        together = np.concatenate(drawn)
        _, at = np.unique(together, return_index=True)
        kept = together[np.sort(at)]
        chosen[n, : len(kept)] = kept
    return chosen


class _Part(Reporter):
    """Maps the progress of one of several equal parts to that of the whole."""

    def __init__(self, whole: Reporter, part: int, parts: int) -> None:
        self._whole, self._part, self._parts = whole, part, parts

    def start(self, step: str) -> None:
        """The whole is one step."""

    def progress(self, done: int, total: int) -> None:
        """So much of this part is done."""
        self._whole.progress(self._part * total + done, self._parts * total)

    def done(self, outcome: str) -> None:
        """The whole is one step."""
