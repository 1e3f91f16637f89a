"""From features to model inputs: names, types, vocabularies and the statistics of numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.bundle.signature import Input, Scalar, Side
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.features.schema import FeatureSchema
from feast_recsys.models.data.events import Ints, Part
from feast_recsys.models.data.training_data import TrainingData

KNOTS = 33  # 32 quantile intervals
MAX_KEYS = 100_000  # what an ONNX lookup takes well
ENTITY_TAG = "recsys/entity"  # on a list feature: the entity whose ids it holds


@dataclass(frozen=True)
class Inputs:
    """The inputs of one model.

    Attributes:
        specs: In the order of the graph.
        vocabularies: By file name.
        knots: By input name, for every number: ascending distinct values with their share of training rows at or
            below, as (value, share) pairs. For lists of floats: one pair of the scale and 1.
    """

    specs: tuple[Input, ...]
    vocabularies: Mapping[str, Vocabulary]
    knots: Mapping[str, tuple[tuple[float, float], ...]]

    def of(self, *sides: Side) -> tuple[Input, ...]:
        """The inputs of the given sides."""
        return tuple(spec for spec in self.specs if spec.side in sides)


class InputFitter:
    """Derives inputs from training rows; nothing of validation and test is looked at.

    Args:
        data: Features and interactions.
        max_length: Most values of a list that models take.
    """

    def __init__(self, data: TrainingData, max_length: int) -> None:
        self._data = data
        self._max_length = max_length
        events = data.events
        seen = events.parts == Part.TRAIN
        days = data.day_of(events.times[seen])
        rows: dict[Side, Ints] = {
            Side.USER: np.unique(data.states(data.training)),
            Side.ITEM: np.unique(days * data.items + events.items[seen]),
        }
        self._rows = rows
        keys = np.unique(events.item_ids[events.items[seen & events.positive]]).tolist()
        self.item_vocabulary = Vocabulary(tuple(keys))
        self.item_file = f"{_identifier(data.item_key.join_key)}.json"
        # Lists of ids are padded with what is no id.
        ids = data.item_key.dtype is DType.INT64
        self._no_item: Scalar = (0 if 0 not in keys else int(min(keys)) - 1) if ids else ""

    def item_id(self) -> Input:
        """The id of the item itself."""
        key = self._data.item_key
        return Input(
            f"entity__{_identifier(key.join_key)}", f"entity:{key.join_key}", Side.ITEM, key.dtype,
            pad=key.dtype.zero, default=self._no_item, vocabulary=self.item_file,
        )  # fmt: skip

    def fit(self, schemas: Sequence[FeatureSchema], extra: Sequence[Input] = ()) -> Inputs:
        """The inputs for some features, after those of `extra`.

        Raises:
            InvalidRepository: two features have names that can't be told apart in a graph.
        """
        specs, knots = list(extra), {}
        vocabularies = {self.item_file: self.item_vocabulary} if any(s.vocabulary for s in extra) else {}
        for schema in {s.reference: s for s in schemas}.values():
            column = self._column(schema)
            spec, vocabulary, points = self._input(schema, column)
            if any(spec.name == other.name for other in specs):
                raise InvalidRepository(
                    f"{schema.reference} and another feature both become input {spec.name!r}; rename one",
                    field=schema.reference,
                )
            specs.append(replace(spec, fresh=schema.fresh))
            if vocabulary is not None and spec.vocabulary is not None:
                vocabularies[spec.vocabulary] = vocabulary
            if points:
                knots[spec.name] = points
        return Inputs(tuple(specs), vocabularies, knots)

    def _column(self, schema: FeatureSchema) -> Column:
        side = schema.side
        columns = self._data.user_columns if side is Side.USER else self._data.item_columns
        return columns[schema.reference].take(self._rows[side])

    def _input(
        self, schema: FeatureSchema, column: Column
    ) -> tuple[Input, Vocabulary | None, tuple[tuple[float, float], ...]]:
        name, dtype = _identifier(schema.reference), schema.dtype
        if self._holds_items(schema):
            spec = Input(name, schema.reference, schema.side, dtype, self._length(column), self._no_item,
                         dtype.zero, vocabulary=self.item_file)  # fmt: skip
            return spec, self.item_vocabulary, ()
        if dtype is DType.STRING or (dtype is DType.INT64 and schema.is_list):
            length = self._length(column) if schema.is_list else None
            vocabulary = _most_frequent(column)
            spec = Input(name, schema.reference, schema.side, dtype, length, dtype.zero, dtype.zero,
                         vocabulary=f"{name}.json")  # fmt: skip
            return spec, vocabulary, ()
        if schema.is_list:
            values = column.values.astype(np.float64)
            values = values[np.isfinite(values)]
            scale = float(np.sqrt(np.mean(values**2))) if len(values) else 1.0
            spec = Input(name, schema.reference, schema.side, dtype, self._length(column), dtype.zero, dtype.zero)
            return spec, None, ((scale or 1.0, 1.0),)
        if dtype is DType.BOOL:
            return Input(name, schema.reference, schema.side, dtype, default=False), None, ()
        values = column.values[column.valid].astype(np.float64)
        values = values[np.isfinite(values)]
        middle = float(np.median(values)) if len(values) else 0.0
        default: Scalar = round(middle) if dtype is DType.INT64 else float(np.float32(middle))
        return Input(name, schema.reference, schema.side, dtype, default=default), None, quantiles(values)

    def _holds_items(self, schema: FeatureSchema) -> bool:
        data = self._data
        if not schema.is_list or schema.dtype is not data.item_key.dtype:
            return False
        known = {data.settings.retrieval.history, *data.settings.seen}
        return schema.reference in known or schema.tags.get(ENTITY_TAG) == data.item_key.entity

    def _length(self, column: Column) -> int:
        assert column.offsets is not None
        return min(max(int(np.diff(column.offsets).max(initial=0)), 2), self._max_length)


def quantiles(values: npt.NDArray[np.float64], knots: int = KNOTS) -> tuple[tuple[float, float], ...]:
    """Points of the empirical distribution function: at most `knots` values with the share of rows at or below.

    Wide & Deep (Cheng et al. 2016) feeds numbers as their place in the distribution; YouTube's ranker
    (Covington et al. 2016) interpolates it linearly.
    """
    if not len(values):
        return ((0.0, 1.0),)
    points = np.unique(np.quantile(values, np.linspace(0.0, 1.0, knots)).astype(np.float32))
    shares = np.searchsorted(np.sort(values.astype(np.float32)), points, side="right") / len(values)
    return tuple(zip(points.tolist(), shares.tolist(), strict=True))


def _most_frequent(column: Column) -> Vocabulary:
    values = column.values if column.is_list else column.values[column.valid]
    if not len(values):
        return Vocabulary(())
    keys, counts = np.unique(values, return_counts=True)
    kept = np.sort(np.argsort(-counts, kind="stable")[:MAX_KEYS])
    return Vocabulary.fit(keys[kept].tolist())


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text.replace(":", "__"), flags=re.ASCII)
    return f"_{name}" if name[:1].isdigit() else name
