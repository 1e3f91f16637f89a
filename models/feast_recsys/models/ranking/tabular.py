"""Wide & Deep on a table of labelled rows: the same model, inputs and training, where there is no recommender.

Each column is a feature of one of two sides, as it would be of a user and an item, so that what comes out is a ranker
like any other: it is exported, split and served in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.inputs.fitter import KNOTS, Inputs
from feast_recsys.models.inputs.tensors import Floats
from feast_recsys.models.ranking.build import build_ranker
from feast_recsys.models.ranking.calibration import fit_platt, weighted_log_loss
from feast_recsys.models.ranking.loss import joint_optimizers, ranking_loss
from feast_recsys.models.ranking.wide_deep import WideDeep, WideDeepConfig, used_inputs
from feast_recsys.models.training.checkpoint import Checkpoint
from feast_recsys.models.training.loop import Report, Run, train_epochs
from feast_recsys.models.training.seeds import seeded

BLOCK = 4096  # rows scored at once


@dataclass(frozen=True)
class Table:
    """n labelled rows.

    Attributes:
        columns: By reference (`view:feature`, or `entity:<join key>` for the id of the item): [n] objects that are
            str, whole numbers, bools, or floats that are finite.
        labels: [n] float32, at least 0. What is above 0 is positive; how much counts only with `weighted_by: label`.
    """

    columns: Mapping[str, Array]
    labels: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: npt.NDArray[np.int64]) -> Table:
        """Some rows, in that order."""
        return Table({name: values[rows] for name, values in self.columns.items()}, self.labels[rows])


def table_inputs(table: Table, item_side: Collection[str]) -> Inputs:
    """Inputs of a model from the columns of a table: strings get a vocabulary, numbers their quantiles.

    Args:
        table: Training rows.
        item_side: The references of the item; the others are the user's.

    Raises:
        InvalidArgument: a column is of no such type, of another length, or holds a number that is not finite.
    """
    specs, vocabularies, knots = [], {}, {}
    for reference, values in table.columns.items():
        if values.shape != table.labels.shape:
            raise InvalidArgument(f"{reference} is {values.shape}, labels are {table.labels.shape}", field=reference)
        name = re.sub(r"\W", "_", reference.replace(":", "__"), flags=re.ASCII)
        side = Side.ITEM if reference in item_side else Side.USER
        if values.dtype == object:
            vocabularies[f"{name}.json"] = Vocabulary.fit(values.tolist())
            specs.append(Input(name, reference, side, DType.STRING, pad="", default="", vocabulary=f"{name}.json"))
        elif values.dtype == np.bool_:
            specs.append(Input(name, reference, side, DType.BOOL, default=False))
        elif values.dtype.kind in "iuf" and np.isfinite(values).all():
            whole = values.dtype.kind != "f"
            middle = float(np.median(values))
            default = round(middle) if whole else float(np.float32(middle))
            specs.append(Input(name, reference, side, DType.INT64 if whole else DType.FLOAT32, default=default))
            knots[name] = damped_quantiles(values.astype(np.float64))
        else:
            raise InvalidArgument(
                f"{reference} holds {values.dtype}; columns are str objects, bools, or numbers that are finite",
                field=reference,
            )
    return Inputs(tuple(specs), vocabularies, knots)


def damped_quantiles(values: npt.NDArray[np.float64], knots: int = KNOTS) -> tuple[tuple[float, float], ...]:
    """Points of the distribution function as `fitter.quantiles` gives them, but placed by the square root of counts.

    Without it a value that most rows have, such as no capital gain, would take nearly all the knots. Where no value
    comes twice the points are the plain quantiles.
    """
    distinct, counts = np.unique(values.astype(np.float32), return_counts=True)
    mass = np.cumsum(np.sqrt(counts))
    places = np.searchsorted(mass, np.linspace(0.0, 1.0, knots) * mass[-1] * (1 - 1e-12))
    chosen = np.unique(places)
    shares = np.cumsum(counts)[chosen] / len(values)
    return tuple(zip(distinct[chosen].tolist(), shares.tolist(), strict=True))


def train_table(
    name: str,
    table: Table,
    held_out: Table,
    *,
    item_side: Collection[str],
    item_id: str | None = None,
    crosses: Sequence[Sequence[str]] = (),
    config: WideDeepConfig | None = None,
    run: Run | None = None,
) -> Checkpoint:
    """Trains Wide & Deep on a table; stops early by the calibrated log-loss of held-out rows.

    Args:
        name: Of the model.
        table: Training rows.
        held_out: Validation rows, with the same columns; Platt scaling is fitted on them too.
        item_side: The references of the item; the others are the user's.
        item_id: Reference of a string column of the item that gets a table of width `dimension`.
        crosses: See `build_crosses`.
        config: Hyperparameters; `batch` counts rows, and a "softmax" needs lists, which a table has none of.
        run: How it runs.

    Raises:
        InvalidArgument: see `table_inputs`; or the loss is a softmax.
        InvalidSettings: the crosses don't fit.
    """
    config, run = config or WideDeepConfig(), run or Run()
    if config.loss != "logistic":
        raise InvalidArgument("a table has no lists to take a softmax over; set loss: logistic", field="loss")
    inputs = table_inputs(table, item_side)
    specs = used_inputs(sorted(inputs.specs, key=lambda spec: spec.side is Side.ITEM), crosses, config)
    vocabularies = {s.vocabulary: inputs.vocabularies[s.vocabulary] for s in specs if s.vocabulary is not None}
    kept: dict[str, Any] = {
        "family": "wide_deep",
        "hyperparameters": asdict(config),
        "knots": {s.name: inputs.knots[s.name] for s in specs if s.name in inputs.knots},
        "item_id": next((s.name for s in specs if s.feature == item_id), None),
        "history": None,
        "crosses": [list(references) for references in crosses],
        "score": [0.0, 1.0],
    }
    signature = Signature(name, Stage.RANKING, {Role.RANKER: Graph(Role.RANKER, specs, "probability")})
    with seeded(run.seed):
        ranker = build_ranker(signature, {f: len(v) for f, v in vocabularies.items()}, kept)
    assert isinstance(ranker, WideDeep)
    ranker.start_at(float(np.clip((table.labels > 0).mean(), 1e-6, 1 - 1e-6)))
    train_rows, held_rows = (_tensors(t, specs, vocabularies, run.device) for t in (table, held_out))
    ranker.to(run.device)
    optimizers = joint_optimizers(ranker, config)
    updates = run.updates(ranker, *optimizers.values())
    labels = torch.from_numpy(table.labels).to(run.device)
    liked, weights = held_out.labels > 0, _weights(held_out, config)

    def step(epoch: int, random: np.random.Generator, report: Report) -> float:
        batches = np.array_split(random.permutation(len(table)), max(len(table) // config.batch, 1))
        total = 0.0
        for done, rows in enumerate(batches, start=1):
            chosen = torch.from_numpy(rows).to(run.device)
            value = labels[chosen].unsqueeze(-1)
            with run.autocast():
                logits = ranker.logits({key: tensor[chosen] for key, tensor in train_rows.items()}).unsqueeze(-1)
                loss = ranking_loss(
                    logits, (value > 0).float(), torch.ones_like(value), values=value if config.weighted_by else None
                )
            updates(loss)
            mean = float(loss.detach()) / len(rows)
            total += mean * len(rows)
            report(done, len(batches), loss=mean, examples=len(rows))
        return total / len(table)

    def validate() -> float:
        logits = _logits(ranker, held_rows)
        scale, shift = fit_platt(logits, liked, weights=weights)
        return -weighted_log_loss(scale * logits + shift, liked, weights)

    course = train_epochs(
        ranker, {**optimizers, "updates": updates}, step, run,
        epochs=config.epochs, patience=config.patience, validate=validate,
    )  # fmt: skip
    scale, shift = fit_platt(_logits(ranker, held_rows), liked, weights=weights)
    ranker.scale.fill_(scale)
    ranker.shift.fill_(shift)
    metrics = {"validation": {"log_loss": -max(course.values), "epochs": [-value for value in course.values]}}
    facts = {"training": {"seed": run.seed, "rows": len(table), "epochs": course.best}}
    signature = replace(signature, metadata=facts)
    return Checkpoint(
        {Role.RANKER: ranker.cpu().eval()}, signature, vocabularies, kept | {"epochs": course.best}, metrics
    )


def table_probabilities(checkpoint: Checkpoint, table: Table) -> Floats:
    """[n] float32 of a model that `train_table` gave, for rows with the same columns; labels are not looked at."""
    ranker = checkpoint.modules[Role.RANKER]
    assert isinstance(ranker, WideDeep)
    specs = checkpoint.signature.graphs[Role.RANKER].inputs
    rows = _tensors(table, specs, checkpoint.vocabularies, torch.device("cpu"))
    logits = torch.from_numpy(_logits(ranker, rows))
    return np.asarray(torch.sigmoid(ranker.scale * logits + ranker.shift).numpy(), np.float32)


@torch.no_grad()
def _logits(ranker: WideDeep, rows: Mapping[str, Tensor]) -> Floats:
    ranker.eval()
    count = len(next(iter(rows.values())))
    blocks = [
        ranker.logits({name: tensor[start : start + BLOCK] for name, tensor in rows.items()}).cpu().numpy()
        for start in range(0, count, BLOCK)
    ]
    return np.concatenate([np.empty(0, np.float32), *blocks])


def _tensors(
    table: Table, specs: Sequence[Input], vocabularies: Mapping[str, Vocabulary], device: torch.device
) -> dict[str, Tensor]:
    tensors = {}
    for spec in specs:
        if spec.feature not in table.columns:
            raise InvalidArgument(f"the table has no column {spec.feature}", field=spec.feature)
        values = table.columns[spec.feature]
        if spec.vocabulary is not None:
            values = vocabularies[spec.vocabulary].encode(values)
        kinds = {DType.INT64: np.int64, DType.FLOAT32: np.float32, DType.BOOL: np.bool_}
        tensors[spec.name] = torch.from_numpy(values.astype(kinds.get(spec.dtype, np.int64))).to(device)
    return tensors


def _weights(table: Table, config: WideDeepConfig) -> Floats | None:
    if config.weighted_by is None:
        return None
    return np.asarray(np.where(table.labels > 0, table.labels, np.float32(1)), np.float32)
