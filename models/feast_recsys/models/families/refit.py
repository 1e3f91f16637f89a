"""A retrieval model trained again on a part of the users, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from feast_recsys.bundle.signature import Role
from feast_recsys.models.content.families import refit_content_model
from feast_recsys.models.data.events import Ints
from feast_recsys.models.data.training_data import TrainingData
from feast_recsys.models.families.registry import CONTENT_FAMILIES, HISTORY_FAMILIES, history_family
from feast_recsys.models.inputs.tensors import ModelTensors
from feast_recsys.models.retrieval.history_models import refit_history_model
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Run
from feast_recsys.models.training.seeds import seeded
from feast_recsys.models.two_tower.build import build_encoders
from feast_recsys.models.two_tower.towers import TwoTowerConfig
from feast_recsys.models.two_tower.train import fit_encoders


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
        encoders = build_encoders(checkpoint.signature, checkpoint.sizes, checkpoint.config)
        epochs = int(checkpoint.config["epochs"])
        fit_encoders(encoders, tensors, data, queries, hyper, run.seed, epochs=epochs, run=run)
    return encoders
