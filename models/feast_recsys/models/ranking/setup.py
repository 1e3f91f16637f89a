"""What a ranker is trained on: candidates with their labels, inputs, and the plain JSON that rebuilds the module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.data.events import Events
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.inputs.fitter import InputFitter, quantiles
from feast_recsys.models.inputs.tensors import Floats, model_tensors
from feast_recsys.models.ranking.candidates import RankingSet, ranked_sources, retrieved_set, training_set
from feast_recsys.models.ranking.sources import own_name
from feast_recsys.models.ranking.wide_deep import (
    RETRIEVAL_SCORE,
    RETRIEVAL_SOURCE,
    ScoreScale,
    WideDeepConfig,
    used_inputs,
)
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run

SCORE_INPUT, SOURCE_INPUT = "retrieval_score", "retrieval_source"
_SOURCE_FILE = f"{SOURCE_INPUT}.json"


@dataclass(frozen=True)
class RankingCandidates:
    """What retrieval found, for training and for validation.

    Attributes:
        train: Of the training queries, with scores of encoders that never met the user.
        held_out: Of the validation queries, as Retrieve hands them to Rank.
    """

    train: RankingSet
    held_out: RankingSet


@dataclass(frozen=True)
class RankerSetup:
    """All that a ranker is but its weights.

    Attributes:
        signature: Its inputs.
        vocabularies: By file name.
        config: What `build_ranker` takes.
        item_file: The vocabulary of the items' ids.
    """

    signature: Signature
    vocabularies: Mapping[str, Vocabulary]
    config: Mapping[str, Any]
    item_file: str


def ranking_candidates(
    data: TrainingData,
    retrieval: Checkpoint,
    config: WideDeepConfig,
    run: Run,
) -> RankingCandidates:
    """The candidates that a ranker is trained on and validated with.

    Args:
        data: Training data.
        retrieval: The trained retrieval model.
        config: Of the ranker, for the numbers of candidates and folds.
        run: How the encoders of the folds are trained; its seed is that of folds and draws, too.
    """
    specs = [spec for graph in retrieval.signature.graphs.values() for spec in graph.inputs]
    found_by = model_tensors(data, specs, retrieval.vocabularies)
    run.progress.start("retrieve training candidates")
    train = training_set(data, retrieval, found_by, config, run)
    held_out = retrieved_set(
        retrieval.modules,
        found_by,
        data,
        data.validation,
        data.settings.candidates,
        bias=retrieval.signature.bias,
        metric=retrieval.signature.metric,
    )
    run.progress.done(f"{int(train.real.sum())} candidates, {int(train.labels.sum())} of them liked")
    return RankingCandidates(train, held_out)


def ranker_setup(data: TrainingData, train: RankingSet, config: WideDeepConfig) -> RankerSetup:
    """Inputs and settings of the ranker of some training data.

    Raises:
        InvalidSettings: the crosses name references that are not there, or not in the order of the sides.
    """
    ranking = data.settings.ranking
    assert ranking is not None
    fitter = InputFitter(data, config.history_length)
    scores = train.scores[train.real].astype(np.float64)
    scales = score_scales(data, train)
    own = next((scale for scale in scales if scale.source == own_name(data.settings)), None)
    usual = scores.mean() if own is None else own.mean
    score = Input(SCORE_INPUT, RETRIEVAL_SCORE, Side.ITEM, DType.FLOAT32, default=float(np.float32(usual)))
    source = Input(
        SOURCE_INPUT,
        RETRIEVAL_SOURCE,
        Side.ITEM,
        DType.STRING,
        default=own_name(data.settings),
        vocabulary=_SOURCE_FILE,
    )
    handed_over = (score, source) if scales else (score,)
    inputs = fitter.fit(data.ranking_schemas, (fitter.item_id(), *handed_over))
    all_specs = (*inputs.of(Side.USER), *inputs.of(Side.ITEM))
    specs = used_inputs(all_specs, ranking.crosses, config)
    names = {spec.name for spec in specs}
    history = next((s.name for s in specs if s.feature == data.settings.retrieval.history), None)
    knots = {**inputs.knots, SCORE_INPUT: quantiles(scores)}
    kept: dict[str, Any] = {
        "family": ranking.family,
        "hyperparameters": asdict(config),
        "knots": {name: points for name, points in knots.items() if name in names},
        "item_id": inputs.specs[0].name if inputs.specs[0].name in names else None,
        "history": history,
        "crosses": [list(pair) for pair in ranking.crosses],
        "score": [float(scores.mean()), float(scores.std()) or 1.0],
    }
    if scales:
        kept["scales"] = [[scale.source, scale.mean, scale.deviation] for scale in scales]
    graphs = {Role.RANKER: Graph(Role.RANKER, specs, "probability", ranking.features)}
    signature = Signature(ranking.model, Stage.RANKING, graphs)
    files = {spec.vocabulary for spec in specs if spec.vocabulary is not None}
    known = {**inputs.vocabularies, _SOURCE_FILE: Vocabulary(tuple(scale.source for scale in scales))}
    vocabularies = {file: vocabulary for file, vocabulary in known.items() if file in files}
    return RankerSetup(signature, vocabularies, kept, fitter.item_file)


def score_scales(data: TrainingData, train: RankingSet) -> tuple[ScoreScale, ...]:
    """The sources of the candidates with the scale of their scores, in their order; empty if there is but one."""
    if train.sources is None:
        return ()
    scales = []
    for at, source in enumerate(ranked_sources(data)):
        scores = train.scores[train.real & (train.sources == at)].astype(np.float64)
        mean, deviation = (float(scores.mean()), float(scores.std())) if len(scores) else (0.0, 1.0)
        scales.append(ScoreScale(source.name, mean, deviation or 1.0))
    return tuple(scales)


def label_values(candidates: RankingSet, events: Events) -> Floats:
    """[q, c] the labels that users gave to the candidates that they came to like; 1 for all others.

    A user may like an item more than once; the first time after the query counts.

    Raises:
        InvalidSettings: a like has a label below 0, which can't be a weight.
    """
    likes = np.flatnonzero(events.positive)
    pairs = events.users[likes] * len(events.item_ids) + events.items[likes]
    order = np.lexsort((events.times[likes], pairs))
    pairs, times, labels = pairs[order], events.times[likes][order], events.labels[likes][order]
    queries, columns = np.nonzero(candidates.labels)
    users, moments = candidates.queries.users[queries], candidates.queries.times[queries]
    wanted = users * len(events.item_ids) + candidates.items[queries, columns]
    found = np.searchsorted(pairs, wanted)
    while (early := times[found] < moments).any():
        found = found + early
    if (labels[found] < 0).any():
        raise InvalidSettings("weighted_by: likes with labels below 0 can't be weighted by them", field="weighted_by")
    values = np.ones(candidates.items.shape, np.float32)
    values[queries, columns] = labels[found]
    return values
