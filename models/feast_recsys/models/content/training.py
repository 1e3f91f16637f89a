"""Training from content: a network that gives the factors of usage from the content alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from feast_recsys.bundle.errors import InvalidArgument, InvalidSettings
from feast_recsys.features.audio import LogMel, crop, windows
from feast_recsys.models.content.factors import Factors, confidences, require_setting
from feast_recsys.models.content.networks import (
    ContentTower,
    Convolutions,
    FactorQuery,
    Layers,
    NumbersTower,
    SoundTower,
    WarmOrContent,
)
from feast_recsys.models.data.histories import Floats, Histories, Ints
from feast_recsys.models.retrieval.encoders import Encoders
from feast_recsys.models.training.loop import Report, Run, Stateful, train_epochs
from feast_recsys.models.training.seeds import seeded

Mels = Callable[[int], Floats]
"""Position in the catalogue to the item's log-mel [T, mels]: it may read a file, so not all need be in memory."""

Batches = Callable[[Ints, np.random.Generator], Tensor]
Tower = TypeVar("Tower", bound=ContentTower)


@dataclass(frozen=True)
class Learning:
    """How a content network learns.

    Attributes:
        optimizer: "adam" or "nesterov", SGD with momentum 0.9.
        learning_rate, weight_decay, batch, epochs: Of it.
        patience: Stops after so many epochs without a gain on validation; 0 never.
        loss: "mse" between unit vectors, or "wpe", the weighted prediction error
            sum of c_ui (p_ui - x_u . y_i)^2 (van den Oord 2013), which needs the usage.
        popularity: Weight of the squared error of the predicted popularity; 0 for no such output.
    """

    optimizer: Literal["adam", "nesterov"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    batch: int = 64
    epochs: int = 60
    patience: int = 0
    loss: Literal["mse", "wpe"] = "mse"
    popularity: float = 0.0

    def __post_init__(self) -> None:
        require_setting(self.optimizer in ("adam", "nesterov"), "optimizer", "adam or nesterov")
        require_setting(self.loss in ("mse", "wpe"), "loss", "mse or wpe")
        require_setting(self.batch >= 1 and self.epochs >= 1, "batch", "at least 1")
        require_setting(self.learning_rate > 0, "learning_rate", "above 0")
        require_setting(self.popularity >= 0, "popularity", "at least 0")


@dataclass(frozen=True)
class AudioConfig(Learning):
    """Learning from sound: the network of `Convolutions`, whose frames and bands are those of the log-mel settings.

    Attributes:
        widths: Channels of each convolution over time.
        kernel: Frames under a filter.
        pools: Max-pooling behind each convolution but the last.
        dense: Widths of the hidden layers behind the pooling over time.
        dropout: After each of these.
    """

    learning_rate: float = 3e-4
    batch: int = 32
    widths: tuple[int, ...] = (256, 256, 512, 512)
    kernel: int = 4
    pools: tuple[int, ...] = (4, 2, 2)
    dense: tuple[int, ...] = (2048, 2048)
    dropout: float = 0.5


@dataclass(frozen=True)
class DescriptorConfig(Learning):
    """Learning from numbers: the network of `Layers`.

    Attributes:
        hidden: Widths of the hidden layers; none for a linear map.
        dropout: After each of them.
    """

    hidden: tuple[int, ...] = (256,)
    dropout: float = 0.3


@dataclass(frozen=True)
class Usage:
    """What the weighted prediction error needs.

    Attributes:
        users: [U, d] float32 user factors.
        plays: Whose items they are.
        alpha, epsilon: Confidence of a play is that of the factors, see `FactorConfig`; of its absence 1.
    """

    users: Floats
    plays: Histories
    alpha: float = 10.0
    epsilon: float = 0.0


def fit_sound(
    factors: Factors, mels: Mels, settings: LogMel, chosen: npt.ArrayLike, config: AudioConfig, run: Run,
    *, usage: Usage | None = None, validate: Callable[[SoundTower], float] | None = None,
) -> SoundTower:  # fmt: skip
    """Trains the time-convolution network, on a random crop of each item in each epoch.

    Args:
        factors: Targets.
        mels: Of any chosen item.
        settings: Of the log-mel; the item encoder takes `settings.length` numbers.
        chosen: [m] positions of the items to learn from.
        config: Hyperparameters.
        run: How.
        usage: For the loss "wpe".
        validate: Higher is better, in eval mode after each epoch.

    Raises:
        InvalidSettings: the network doesn't fit the frames, or "wpe" without usage.
        InvalidArgument: nothing to learn from.
    """
    rows = _chosen(chosen)
    shape = Convolutions(
        settings.mels, settings.frames, settings.windows, config.widths, config.kernel, config.pools, config.dense,
        config.dropout, factors.items.shape[1], config.popularity > 0,
    )  # fmt: skip
    with seeded(run.seed):
        tower = SoundTower(shape)
    total, squares, frames = np.zeros(settings.mels), np.zeros(settings.mels), 0
    for row in rows.tolist():
        mel = mels(row).astype(np.float64)
        total, squares, frames = total + mel.sum(0), squares + (mel**2).sum(0), frames + len(mel)
    mean = total / frames
    deviation = np.sqrt(np.maximum(squares / frames - mean**2, 0.0))
    tower.standardize(torch.from_numpy(mean), torch.from_numpy(deviation))

    def batches(part: Ints, random: np.random.Generator) -> Tensor:
        return torch.from_numpy(np.stack([crop(mels(row), settings, random) for row in part.tolist()]))

    return _fit(tower, factors, batches, rows, config, run, usage, validate)


def fit_numbers(
    factors: Factors, content: Floats, chosen: npt.ArrayLike, config: DescriptorConfig, run: Run,
    *, usage: Usage | None = None, validate: Callable[[NumbersTower], float] | None = None,
) -> NumbersTower:  # fmt: skip
    """Trains the network for numbers.

    Args:
        content: [n, k] float32, finite.
        factors, chosen, config, run, usage, validate: As in `fit_sound`; also the errors.
    """
    rows = _chosen(chosen)
    content = np.asarray(content, np.float32)
    if content.ndim != 2 or not np.isfinite(content).all():
        raise InvalidArgument(f"content must be [items, numbers], finite, not {content.shape}", field="content")
    with seeded(run.seed):
        tower = NumbersTower(
            Layers(content.shape[1], config.hidden, config.dropout, factors.items.shape[1], config.popularity > 0)
        )
    known = torch.from_numpy(content[rows].astype(np.float64))
    tower.standardize(known.mean(0), known.std(0, correction=0))
    return _fit(tower, factors, lambda part, _: torch.from_numpy(content[part]), rows, config, run, usage, validate)


@torch.no_grad()
def sound_vectors(tower: SoundTower, mels: Mels, settings: LogMel, chosen: npt.ArrayLike, batch: int = 8) -> Floats:
    """[m, d + 1] vectors of some items, as the exported item encoder gives them: the mean over windows."""
    rows = np.asarray(chosen, np.int64)
    found = [np.empty((0, tower.dimension + 1), np.float32)]
    for start in range(0, len(rows), batch):
        part = [windows(mels(row), settings).reshape(-1) for row in rows[start : start + batch].tolist()]
        found.append(tower(torch.from_numpy(np.stack(part)).to(tower.mean.device)).cpu().numpy())
    return np.concatenate(found)


@torch.no_grad()
def number_vectors(tower: NumbersTower, content: Floats) -> Floats:
    """[m, d + 1] vectors of items with this content [m, k]."""
    vectors: Floats = tower(torch.from_numpy(np.asarray(content, np.float32)).to(tower.mean.device)).cpu().numpy()
    return vectors


def join(
    factors: Factors, heard: Floats, tower: ContentTower, weight: float = 0.0, *, zeros_are_none: bool = True
) -> Encoders:
    """Query and item encoder. The item encoder takes the content as well; see `WarmOrContent`.

    Args:
        factors: Of usage; trusted items keep theirs.
        heard: [n, d + 1] content vectors of all items of the catalogue, for those that are not trusted; zeros where
            there is no content.
        tower: In eval mode. What it predicts of popularity stays within that of trusted items; if it predicts none,
            all items have that of their usage.
        weight: Of the popularity column.
        zeros_are_none: See `WarmOrContent`.
    """
    own = np.concatenate([factors.items, factors.popularity[:, None]], 1)
    # Little usage still says more than no content.
    by_usage = factors.trusted | ~heard.any(1)
    vectors = np.where(by_usage[:, None], own, heard).astype(np.float32)
    if tower.popularity:
        known = factors.popularity[factors.trusted]
        vectors[~by_usage, -1] = vectors[~by_usage, -1].clip(known.min(), known.max())
    else:
        vectors[:, -1] = factors.popularity
    table = torch.from_numpy(np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors]))
    warm = torch.from_numpy(np.concatenate([[False], factors.trusted]))
    items = WarmOrContent(table, warm, tower, weight, zeros_are_none=zeros_are_none)
    return Encoders(FactorQuery(table[:, :-1]).eval(), items.eval())


def _fit(
    tower: Tower, factors: Factors, batches: Batches, rows: Ints, config: Learning, run: Run, usage: Usage | None,
    validate: Callable[[Tower], float] | None,
) -> Tower:  # fmt: skip
    tower.to(run.device)
    targets = torch.from_numpy(factors.items).to(run.device)
    popularity = torch.from_numpy(factors.popularity).to(run.device)
    optimizer = _optimizer(tower, config)
    update = run.updates(tower, optimizer)
    weighted = _weighted_error(usage, run) if config.loss == "wpe" else None

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        order = random.permutation(rows)
        count = -(-len(order) // config.batch)
        total = 0.0
        for n, part in enumerate(np.array_split(order, count)):
            content = batches(part, random).to(run.device)
            where = torch.from_numpy(part).to(run.device)
            with run.autocast():
                found = tower.pieces(content).float()
                unit = found[:, : tower.dimension]
                loss = functional.mse_loss(unit, targets[where]) if weighted is None else weighted(unit, part)
                if config.popularity:
                    loss = loss + config.popularity * functional.mse_loss(found[:, -1], popularity[where])
            update(loss)
            total += float(loss.detach()) * len(part)
            report(n + 1, count, loss=loss.detach(), examples=len(part))
        return total / len(order)

    states: dict[str, Stateful] = {"optimizer": optimizer, "update": update}
    check = None if validate is None else lambda: validate(tower)
    train_epochs(tower, states, step, run, epochs=config.epochs, patience=config.patience, validate=check)
    return tower.to("cpu")


def _weighted_error(usage: Usage | None, run: Run) -> Callable[[Tensor, Ints], Tensor]:
    if usage is None:
        raise InvalidSettings('the loss "wpe" needs the usage; give it, or take "mse"', field="loss")
    users = torch.from_numpy(usage.users).to(run.device)
    columns = sparse.csc_array(confidences(usage.plays, usage.alpha, usage.epsilon))

    def error(unit: Tensor, part: Ints) -> Tensor:
        trust = torch.from_numpy(columns[:, part].toarray()).to(run.device)  # [U, B], 0 where there is no play
        return (trust.clamp(min=1.0) * ((trust > 0).float() - users @ unit.T).square()).sum(0).mean() / len(users)

    return error


def _optimizer(module: nn.Module, config: Learning) -> torch.optim.Optimizer:
    if config.optimizer == "adam":
        return torch.optim.AdamW(module.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        module.parameters(), config.learning_rate, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
    )


def _chosen(chosen: npt.ArrayLike) -> Ints:
    rows = np.asarray(chosen, np.int64)
    if not len(rows):
        raise InvalidArgument("there are no items to learn from", field="chosen")
    return rows
