"""Training of the deep autoencoder for ratings, and what it predicts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.models.autoencoders.bags import batches, blocks
from feast_recsys.models.autoencoders.deep import DeepAutoencoderConfig, DeepAutoencoderQuery
from feast_recsys.models.autoencoders.training import Validate, fit_autoencoder
from feast_recsys.models.data.histories import Floats, Histories
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.devices import Updates
from feast_recsys.models.training.loop import Course, EpochStep, Report, Run
from feast_recsys.models.training.seeds import seeded


def fit_deep_autoencoder(
    histories: Histories,
    config: DeepAutoencoderConfig,
    run: Run,
    *,
    validate: Validate | None = None,
    epochs: int | None = None,
) -> tuple[Encoders, Course]:
    """Trains an autoencoder of ratings.

    Args:
        histories: With ratings, none of them 0; users without any teach nothing.
        config: Hyperparameters.
        run: How.
        validate: Higher is better; decides which epoch is kept.
        epochs: Instead of the config's.

    Raises:
        InvalidSettings: there are no ratings, or some are 0, which stands for missing.
    """
    ratings = histories.ratings
    if ratings is None or not len(ratings):
        raise InvalidSettings("an autoencoder of ratings needs ratings to train on", field="ratings")
    if not np.all(np.isfinite(ratings)) or np.any(ratings == 0):
        raise InvalidSettings("ratings must be finite and not 0, which stands for a missing one", field="ratings")
    with seeded(run.seed):
        query = DeepAutoencoderQuery(histories.catalogue, config)
        last = nn.Linear(config.layers[0], histories.catalogue)
        nn.init.xavier_uniform_(last.weight)
    _start(query, last, histories, ratings, config)
    if config.tied:
        del last.weight

    def last_weight() -> Tensor:
        return query.bag.table.weight[1:] if config.tied else last.weight

    def output(hidden: Tensor) -> Tensor:
        activated: Tensor = query.last_act(functional.linear(hidden, last_weight(), last.bias))
        return activated.float()

    def step_with(updates: Updates) -> EpochStep:
        def step(epoch: int, random: np.random.Generator, report: Report) -> float:
            total, made = batches(histories, config.batch, random, run.device)
            squares, count = torch.zeros((), device=run.device), 0
            for n, batch in enumerate(made):
                assert batch.ratings is not None
                with run.autocast():
                    hidden, taken = query.ragged(batch)
                    outputs = output(hidden)
                    errors = outputs[batch.users, batch.rows - 1] + taken[batch.users] - batch.ratings
                    loss = errors.square().mean()
                updates(loss)
                if config.refeeding:
                    fed = outputs.detach()
                    with run.autocast():
                        again = (output(query.dense(fed)) - fed).square().mean()
                    updates(again)
                squares += loss.detach() * len(errors)
                count += len(errors)
                report(n + 1, total, loss=loss.detach(), examples=len(batch))
            return float(squares) / count

        return step

    return fit_autoencoder(query, last, last_weight, step_with, config, run, validate, epochs)


@torch.no_grad()
def predict(encoders: Encoders, histories: Histories, users: npt.ArrayLike, items: npt.ArrayLike) -> Floats:
    """Predicted ratings, within the scale of the training ratings.

    Args:
        encoders: Of a deep autoencoder.
        histories: What the users rated.
        users, items: [m] user and catalogue position of each wanted rating.

    Returns:
        [m] float32.

    Raises:
        InvalidArgument: the encoders are of another family, or the histories have no ratings.
    """
    query = encoders.query
    if not isinstance(query, DeepAutoencoderQuery):
        raise InvalidArgument("only deep autoencoders predict ratings", field="encoders")
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    vectors = encoders.item(torch.arange(1, histories.catalogue + 1))
    found = np.empty(len(users), np.float32)
    place = np.full(len(histories), -1, np.int64)
    for chosen in blocks(histories):
        place[chosen] = np.arange(len(chosen))
        wanted = np.flatnonzero(place[users] >= 0)
        rows, ratings = histories.padded(chosen)
        given = (torch.from_numpy(rows), None if ratings is None else torch.from_numpy(ratings))
        outputs = query.last_act(query(*given) @ vectors.T) + query.centre(*given)[0]
        found[wanted] = outputs.clamp(query.scale[0], query.scale[1]).numpy()[place[users[wanted]], items[wanted]]
        place[chosen] = -1
    return found


def _start(
    query: DeepAutoencoderQuery,
    last: nn.Linear,
    histories: Histories,
    ratings: Floats,
    config: DeepAutoencoderConfig,
) -> None:
    """What is known before the first step: the scale, the means, and what an item's output is on average."""
    middle = 0.0 if config.centring == "none" else float(ratings.mean())
    offsets = np.zeros(histories.catalogue + 1, np.float32)
    if config.centring == "baseline":
        sums = np.bincount(histories.items, ratings - middle, histories.catalogue)
        counts = np.bincount(histories.items, minlength=histories.catalogue)
        offsets[1:] = sums / np.maximum(counts + config.damping, 1.0)
    with torch.no_grad():
        query.scale.copy_(torch.tensor([ratings.min(), ratings.max()]))
        query.middle.fill_(middle)
        query.usual.fill_(len(ratings) / max(int(np.count_nonzero(histories.lengths)), 1))
        query.offsets.copy_(torch.from_numpy(offsets))
        last.bias.copy_(torch.from_numpy(offsets[1:]))
