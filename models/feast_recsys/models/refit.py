"""The models of a recommender once more, from all that is not test, after validation has chosen what it can choose.

A user's validation events are their latest but those of the test. Models that never learn from them know less of the
present than they could, and less than baselines that do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.signature import Input, Role
from feast_recsys.models.data.training_data import TrainingData, with_validation
from feast_recsys.models.families.refit import refit
from feast_recsys.models.inputs.tensors import model_tensors
from feast_recsys.models.ranking.build import build_ranker
from feast_recsys.models.ranking.candidates import training_set
from feast_recsys.models.ranking.train import fit_ranker
from feast_recsys.models.ranking.warm_start import start_from_ranking, start_from_retrieval
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.models.training.seeds import seeded


def refit_retrieval(checkpoint: Checkpoint, data: TrainingData, run: Run) -> Checkpoint:
    """The retrieval model from training and validation together, for the number of epochs that was best.

    Args:
        checkpoint: Chosen on validation.
        data: What it was trained on, loaded with `DataConfig(refit=True)`.
        run: How.

    Raises:
        InvalidArgument: the data was loaded without `refit`.
    """
    whole = _whole(data)
    run.progress.start("train retrieval again, with validation")
    tensors = model_tensors(whole, _inputs(checkpoint), checkpoint.vocabularies)
    modules = refit(checkpoint, tensors, whole, np.arange(len(whole.events.user_ids)), run)
    run.progress.done(f"{len(whole.training.items)} likes instead of {len(data.training.items)}")
    kept = {role: module.eval() for role, module in modules.items()}
    return _noted(replace(checkpoint, modules=kept), {"likes": len(whole.training.items)})


def refit_ranker(
    checkpoint: Checkpoint,
    retrieval: Checkpoint,
    data: TrainingData,
    run: Run,
    *,
    warm_start: Checkpoint | None = None,
) -> Checkpoint:
    """The ranking model from training and validation together, for the number of epochs that was best.

    Its calibration stays: there is nothing left to fit it to.

    Args:
        checkpoint: Chosen on validation.
        retrieval: What `refit_retrieval` gave.
        data: What it was trained on, loaded with `DataConfig(refit=True)`.
        run: How.
        warm_start: The older ranking model that the checkpoint started from.

    Raises:
        InvalidArgument: the data was loaded without `refit`.
    """
    whole = _whole(data)
    run.progress.start("train ranking again, with validation")
    config = WideDeepConfig(**checkpoint.config["hyperparameters"])
    found_by = model_tensors(whole, _inputs(retrieval), retrieval.vocabularies)
    train = training_set(whole, retrieval, found_by, config, run)
    with seeded(run.seed):
        ranker = build_ranker(checkpoint.signature, checkpoint.sizes, checkpoint.config)
    ranker.start_at(float(np.clip(train.labels.sum() / max(train.real.sum(), 1), 1e-6, 1 - 1e-6)))
    item_file = next(
        (spec.vocabulary for spec in _inputs(checkpoint) if spec.name == checkpoint.config["item_id"]), None
    )
    if warm_start is not None:
        start_from_ranking(ranker, checkpoint.vocabularies, warm_start)
    elif item_file is not None:
        start_from_retrieval(ranker, checkpoint.vocabularies[item_file], retrieval)
    tensors = model_tensors(whole, _inputs(checkpoint), checkpoint.vocabularies)
    fit_ranker(ranker, tensors, whole, train, config, run, epochs=int(checkpoint.config["epochs"]))
    chosen = checkpoint.modules[Role.RANKER]
    assert isinstance(chosen, WideDeep)
    ranker.scale.copy_(chosen.scale)
    ranker.shift.copy_(chosen.shift)
    candidates = int(train.real.sum())
    run.progress.done(f"{candidates} candidates, {int(train.labels.sum())} of them liked")
    return _noted(replace(checkpoint, modules={Role.RANKER: ranker.eval()}), {"candidates": candidates})


def _whole(data: TrainingData) -> TrainingData:
    if not data.config.refit:
        raise InvalidArgument("the training data was loaded without the moments of validation", field="refit")
    return with_validation(data)


def _inputs(checkpoint: Checkpoint) -> list[Input]:
    return [spec for graph in checkpoint.signature.graphs.values() for spec in graph.inputs]


def _noted(checkpoint: Checkpoint, facts: Mapping[str, int]) -> Checkpoint:
    """The checkpoint, whose metadata says what it was trained on in the end."""
    metadata = dict(checkpoint.signature.metadata)
    metadata["training"] = {**metadata.get("training", {}), **facts, "refit": True}
    return replace(checkpoint, signature=replace(checkpoint.signature, metadata=metadata))
