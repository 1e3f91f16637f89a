"""Candidates for the ranker to learn from: retrieved, popular and random items, with what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from feast_recsys.bundle.progress import Reporter
from feast_recsys.bundle.signature import Role
from feast_recsys.models.data.events import Ints, Part
from feast_recsys.models.data.queries import Queries
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import Floats, ModelTensors
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
    """

    queries: Queries
    items: Ints
    scores: Floats
    labels: npt.NDArray[np.bool_]

    @property
    def real(self) -> npt.NDArray[np.bool_]:
        """[q, c]: where there is an item."""
        return self.items >= 0


def retrieved_set(
    encoders: Mapping[Role, nn.Module], tensors: ModelTensors, data: TrainingData, queries: Queries, k: int
) -> RankingSet:
    """The k best items of each query, as Retrieve hands them to Rank."""
    found = retrieve(encoders, tensors, data, queries, k)
    scores = np.where(found.items >= 0, found.scores, np.float32(0))
    return RankingSet(queries, found.items, scores, is_liked(found.items, queries))


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
    for fold in range(config.folds):
        asked = np.flatnonzero(fold_of[data.ranking.users] == fold)
        if not len(asked) or (fold_of[data.training.users] == fold).all():
            continue
        # Folds are trained by this process alone, and keep no state: they are short beside what comes after.
        part = Run(run.seed + 1 + fold, run.device, run.precision, progress=_Part(run.progress, fold, config.folds))
        encoders = refit(retrieval, tensors, data, np.flatnonzero(fold_of != fold), part)
        for rows, block in score_catalogue(encoders, tensors, data, data.ranking.take(asked)):
            chosen = asked[rows]
            items[chosen] = choose_candidates(block, popularity, config, width, random)
            own = np.take_along_axis(block, np.maximum(items[chosen], 0), axis=1)
            scores[chosen] = np.where(items[chosen] >= 0, own, np.float32(0))
    return RankingSet(data.ranking, items, scores, is_liked(items, data.ranking))


def choose_candidates(
    scores: Floats, popularity: npt.NDArray[np.float64], config: WideDeepConfig, width: int, random: np.random.Generator
) -> Ints:
    """[m, width] candidates, each once in a row, -1 where there are fewer."""
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
            near[n][near[n] >= 0],
            random.permutation(next_best)[: k // 3],
            fresh[np.searchsorted(share.cumsum(), random.random(config.popular)).clip(max=len(fresh) - 1)],
            fresh[random.integers(0, len(fresh), config.random)],
        ]
        together = np.concatenate(drawn)
        _, first = np.unique(together, return_index=True)
        kept = together[np.sort(first)]
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
