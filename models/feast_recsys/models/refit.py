"""A retrieval model trained again on a part of the users, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from feast_recsys.bundle.signature import Role
from feast_recsys.models.build import build_modules
from feast_recsys.models.checkpoint import Checkpoint
from feast_recsys.models.content_families import refit_content_model
from feast_recsys.models.data import TrainingData
from feast_recsys.models.events import Ints
from feast_recsys.models.family_names import CONTENT_FAMILIES, HISTORY_FAMILIES
from feast_recsys.models.history_families import history_family, refit_history_model
from feast_recsys.models.loop import Run
from feast_recsys.models.retrieval import fit_encoders
from feast_recsys.models.seeds import seeded
from feast_recsys.models.tensors import ModelTensors
from feast_recsys.models.two_tower import TwoTowerConfig


def refit(
    checkpoint: Checkpoint, tensors: ModelTensors, data: TrainingData, users: Ints, run: Run
) -> Mapping[Role, nn.Module]:
    """The same model, trained on some users only for as many epochs: to score the others as honestly as new ones.

    Args:
        checkpoint: A trained retrieval model.
        tensors: Inputs of its encoders.
        data: What it was trained on.
        users: Positions in `Events.user_ids`.
        run: How.
    """
    name = checkpoint.config["family"]
    if name in HISTORY_FAMILIES:
        return refit_history_model(history_family(name), checkpoint, data, users, run)
    if name in CONTENT_FAMILIES:
        return refit_content_model(checkpoint, data, users, run)
    hyper = TwoTowerConfig(**checkpoint.config["hyperparameters"])
    queries = data.training.take(np.flatnonzero(np.isin(data.training.users, users)))
    with seeded(run.seed):
        encoders = build_modules(checkpoint.signature, checkpoint.sizes, checkpoint.config)
        epochs = int(checkpoint.config["epochs"])
        fit_encoders(encoders, tensors, data, queries, hyper, run.seed, epochs=epochs, progress=run.progress)
    return encoders
