"""Module inputs for all rows of the training data: tensors in memory, or made from mapped files when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from feast_recsys.bundle.columns import Array, Column
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.signature import Input, Side
from feast_recsys.bundle.tensors import to_tensor
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.models.data.events import Ints
from feast_recsys.models.data.streaming import ColumnRows, MappedColumn, MappedTensor
from feast_recsys.models.data.training_data import TrainingData

Floats = npt.NDArray[np.float32]


class TensorRows(Protocol):
    """A module input of all rows: a tensor, or a mapped one."""

    def __getitem__(self, rows: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class ModelTensors:
    """Module inputs by name: row numbers where there is a vocabulary, raw values elsewhere.

    Attributes:
        user: One row for each of the data's states.
        item: Row day * I + item.
    """

    user: Mapping[str, TensorRows]
    item: Mapping[str, TensorRows]

    def users(self, states: Ints) -> dict[str, Tensor]:
        """The inputs of some states."""
        return _take(self.user, states)

    def items(self, rows: Ints) -> dict[str, Tensor]:
        """The inputs of some rows of item and day."""
        return _take(self.item, rows)


def model_tensors(data: TrainingData, specs: Sequence[Input], vocabularies: Mapping[str, Vocabulary]) -> ModelTensors:
    """The inputs of a model, by the same null-to-default and padding that jobs and server use.

    Inputs of `request:` are left out: only training knows them.

    Raises:
        InvalidSignature: an input's feature is not among those that the data was joined with.
    """
    user: dict[str, TensorRows] = {}
    item: dict[str, TensorRows] = {}
    for spec in specs:
        if spec.source == "request":
            continue
        vocabulary = vocabularies[spec.vocabulary] if spec.vocabulary is not None else None
        if spec.source == "entity":
            assert vocabulary is not None and spec.side is Side.ITEM
            rows = np.tile(vocabulary.encode(data.events.item_ids), len(data.days))
            item[spec.name] = torch.from_numpy(rows)
            continue
        if spec.audio is not None:
            # Sound is heard once, in training: for all that have a row, the item encoder knows what came of it.
            item[spec.name] = torch.zeros(len(data.days) * data.items, 1)
            continue
        columns = data.item_columns if spec.side is Side.ITEM else data.user_columns
        if spec.feature not in columns:
            raise InvalidSignature(
                f"{spec.feature} is not in the feature services of the settings; train again", field=spec.name
            )
        (item if spec.side is Side.ITEM else user)[spec.name] = _rows(columns[spec.feature], spec, vocabulary)
    return ModelTensors(user, item)


def _rows(column: ColumnRows, spec: Input, vocabulary: Vocabulary | None) -> TensorRows:
    if isinstance(column, MappedColumn):
        return MappedTensor(column, spec, vocabulary)
    whole = column if isinstance(column, Column) else column.take(np.arange(len(column)))
    values: Array = to_tensor(whole, spec)
    if vocabulary is not None:
        values = vocabulary.encode(values)
    return torch.from_numpy(values)


def _take(tensors: Mapping[str, TensorRows], rows: Ints) -> dict[str, Tensor]:
    index = torch.from_numpy(np.ascontiguousarray(rows))
    return {name: tensor[index] for name, tensor in tensors.items()}
