"""What the trainings of autoencoders share: the last layer, the optimiser, and encoders made of both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from feast_recsys.models.autoencoders.bags import AutoencoderQuery, item_vectors
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.devices import Updates
from feast_recsys.models.training.loop import Course, EpochStep, Run, train_epochs

Validate: TypeAlias = Callable[[Encoders], float]


class Schedule(Protocol):
    """What the configurations of all autoencoders have.

    Attributes:
        learning_rate, weight_decay: Of AdamW; the decay spares the biases.
        epochs, patience: At most so many; training stops after `patience` epochs without a gain, 0 never.
    """

    @property
    def learning_rate(self) -> float:
        """See above."""

    @property
    def weight_decay(self) -> float:
        """See above."""

    @property
    def epochs(self) -> int:
        """See above."""

    @property
    def patience(self) -> int:
        """See above."""


def fit_autoencoder(
    query: AutoencoderQuery,
    last: nn.Linear,
    weight: Callable[[], Tensor],
    step_with: Callable[[Updates], EpochStep],
    config: Schedule,
    run: Run,
    validate: Validate | None,
    epochs: int | None,
) -> tuple[Encoders, Course]:
    """Trains a query encoder and the last layer of its decoder, in place.

    Args:
        query: All but the last layer.
        last: Without a weight where that is the encoder's.
        weight: [n, d] the weight of the last layer.
        step_with: Makes the step of an epoch, given what turns losses into new weights.
        config: Hyperparameters.
        run: How.
        validate: Higher is better; decides which epoch is kept.
        epochs: Instead of the config's.
    """
    module = nn.ModuleDict({"query": query, "last": last}).to(run.device)
    matrices = [p for p in module.parameters() if p.ndim > 1]
    vectors = [p for p in module.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    updates = run.updates(module, optimizer)

    def encoders() -> Encoders:
        served = query if run.device.type == "cpu" else copy.deepcopy(query).cpu()
        return Encoders(served.eval(), item_vectors(weight(), last.bias))

    course = train_epochs(
        module,
        {"optimizer": optimizer, "updates": updates},
        step_with(updates),
        run,
        epochs=config.epochs if epochs is None else epochs,
        patience=config.patience,
        validate=None if validate is None else lambda: validate(encoders()),
    )
    return encoders(), course
