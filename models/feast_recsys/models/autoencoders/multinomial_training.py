"""Training of the Mult-DAE and the Mult-VAE."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from feast_recsys.bundle.errors import InvalidSettings
from feast_recsys.models.autoencoders.bags import Batch, batches
from feast_recsys.models.autoencoders.multinomial import MultDaeConfig, MultDaeQuery, MultVaeConfig, MultVaeQuery
from feast_recsys.models.autoencoders.training import Validate, fit_autoencoder
from feast_recsys.models.data.histories import Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.devices import Updates
from feast_recsys.models.training.loop import Course, EpochStep, Report, Run
from feast_recsys.models.training.seeds import seeded


def multinomial_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean over users of -sum over the user's items of log softmax(logits).

    Args:
        logits: [B, n].
        batch: The items of the same B users.
    """
    logits = logits.float()
    whole = logits.logsumexp(1) @ batch.counts
    return (whole - logits[batch.users, batch.rows - 1].sum()) / len(batch)


def fit_mult_dae(
    histories: Histories,
    config: MultDaeConfig,
    run: Run,
    *,
    validate: Validate | None = None,
    epochs: int | None = None,
) -> tuple[Encoders, Course]:
    """Trains a Mult-DAE.

    Args:
        histories: What users have; those who have nothing teach nothing. Ratings don't matter.
        config: Hyperparameters.
        run: How.
        validate: Higher is better; decides which epoch is kept.
        epochs: Instead of the config's.

    Raises:
        InvalidSettings: nobody has anything.
    """
    with seeded(run.seed):
        query = MultDaeQuery(histories.catalogue, config)
    return _fit(query, histories, config, run, 0.0, 1, validate, epochs)


def fit_mult_vae(
    histories: Histories,
    config: MultVaeConfig,
    run: Run,
    *,
    validate: Validate | None = None,
    epochs: int | None = None,
) -> tuple[Encoders, Course]:
    """Trains a Mult-VAE. Arguments and errors as of `fit_mult_dae`."""
    with seeded(run.seed):
        query = MultVaeQuery(histories.catalogue, config)
    return _fit(query, histories, config, run, config.beta, config.annealing, validate, epochs)


def _fit(
    query: MultDaeQuery | MultVaeQuery,
    histories: Histories,
    config: MultDaeConfig | MultVaeConfig,
    run: Run,
    beta: float,
    annealing: int,
    validate: Validate | None,
    epochs: int | None,
) -> tuple[Encoders, Course]:
    if not len(histories.items):
        raise InvalidSettings("nobody has any item; there is nothing to train on", field="histories")
    with seeded(run.seed + 1):
        last = nn.Linear(query.width, histories.catalogue)
        nn.init.xavier_uniform_(last.weight)
    counts = np.bincount(histories.items, minlength=histories.catalogue)
    with torch.no_grad():
        # Popularity is known before the first step.
        last.bias.copy_(torch.from_numpy(np.log((counts + 0.5) / len(histories.items))))

    def step_with(updates: Updates) -> EpochStep:
        def step(epoch: int, random: np.random.Generator, report: Report) -> float:
            total, made = batches(histories, config.batch, random, run.device)
            losses = []
            for n, batch in enumerate(made):
                weight = beta * min(1.0, (epoch * total + n) / max(annealing, 1))
                with run.autocast():
                    decoded, divergence = query.encode(batch)
                    loss = multinomial_loss(last(decoded), batch) + weight * divergence
                updates(loss)
                losses.append(loss.detach())
                report(n + 1, total, loss=losses[-1], examples=len(batch))
            return float(torch.stack(losses).mean())

        return step

    return fit_autoencoder(query, last, lambda: last.weight, step_with, config, run, validate, epochs)
