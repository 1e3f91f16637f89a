"""Values that a request brings along, checked and made into columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.hints import did_you_mean
from feast_recsys.bundle.index.protocol import Rows
from feast_recsys.features.repo import EntityKey
from feast_recsys.server.items import complete
from feast_recsys.server.requests import ContextValue
from feast_recsys.server.state import Slot

_ACCEPTED: dict[DType, set[type]] = {
    DType.STRING: {str},
    DType.BOOL: {bool},
    DType.INT64: {int},
    DType.FLOAT32: {int, float},
}
# The wire's names of Python's types, and which of them a caller is told to give.
_FIELDS: dict[type, str] = {str: "string", bool: "bool", int: "int64", float: "double"}
_GIVEN: dict[DType, type] = {DType.STRING: str, DType.BOOL: bool, DType.INT64: int, DType.FLOAT32: float}
# The same of the columns of `candidate_features`, by NumPy's letter of the kind.
_COLUMNS = {"O": "string_values", "b": "bool_values", "i": "int64_values", "f": "float_values"}
_ACCEPTED_COLUMNS = {DType.STRING: "O", DType.BOOL: "bi", DType.INT64: "i", DType.FLOAT32: "fi"}
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def further_ids(entity_keys: Mapping[str, str], known: Mapping[str, EntityKey]) -> dict[str, int | str]:
    """Ids of further entities by join key, from `entity_keys`.

    Raises:
        InvalidArgument: an unknown join key, or a text that is no id; `field` is `entity_keys[name]`.
    """
    ids = {}
    for name, text in entity_keys.items():
        path = f"entity_keys[{name}]"
        if name not in known:
            names = ", ".join(known) or "none"
            raise InvalidArgument(f"{path}: no view of the user's side is keyed by it; there are: {names}", field=path)
        ids[name] = known[name].parse(text, path)
    return ids


def context_columns(context: Mapping[str, ContextValue], slots: Mapping[str, Slot]) -> dict[str, Column]:
    """Columns of one row by feature, from `context`.

    Raises:
        InvalidArgument: an unknown name, a value of another type, NaN or infinity; `field` is `context[name]`.
    """
    columns = {}
    for name, value in context.items():
        path = f"context[{name}]"
        slot = _slot(slots, name, path)
        if value is not None:
            _check_value(value, slot, path)
        columns[slot.feature] = Column.of(slot.dtype, [value], is_list=slot.is_list)
    return columns


def candidate_columns(
    features: Mapping[str, Array], slots: Mapping[str, Slot], n: int, rows: Rows
) -> dict[str, Column]:
    """Columns of the candidates that are ranked by feature, from `candidate_features`.

    Args:
        features: One value per candidate of the request.
        slots: What there may be, by name.
        n: Number of candidates of the request.
        rows: [m] which of them are ranked, in that order.

    Raises:
        InvalidArgument: an unknown name, another number of values than candidates, another type, NaN or infinity;
            `field` is `candidate_features[name]`.
    """
    columns = {}
    for name, values in features.items():
        path = f"candidate_features[{name}]"
        slot = _slot(slots, name, path)
        if slot.is_list:
            raise InvalidArgument(f"{path}: {slot.feature} is a list, and takes no value per candidate", field=path)
        if len(values) != n:
            raise InvalidArgument(f"{path} has {len(values)} values for {n} item_ids", field=path)
        columns[slot.feature] = complete(slot.dtype, _convert(values, slot, path)[rows])
    return columns


def _slot(slots: Mapping[str, Slot], name: str, path: str) -> Slot:
    if name not in slots:
        near, known = did_you_mean(name, slots), ", ".join(slots) or "none"
        raise InvalidArgument(
            f"{path}: the models take no value of that name{near or ';'} there are: {known}", field=path
        )
    return slots[name]


def _check_value(value: Any, slot: Slot, path: str) -> None:
    if slot.is_list is not isinstance(value, tuple):
        wanted, have = ("a list", "a single value") if slot.is_list else ("a single value", "a list")
        field = _FIELDS[_GIVEN[slot.dtype]] + ("_list" if slot.is_list else "_value")
        raise InvalidArgument(f"{path}: {slot.feature} takes {wanted} ({field}), not {have}", field=path)
    elements: Iterable[Any] = value if slot.is_list else (value,)
    kinds = {type(e) for e in elements}
    accepted = _ACCEPTED[slot.dtype]
    if not kinds <= accepted:
        suffix = "_list" if slot.is_list else "_value"
        have, wanted = (f"{_FIELDS[kind]}{suffix}" for kind in ((kinds - accepted).pop(), _GIVEN[slot.dtype]))
        raise InvalidArgument(f"{path}: {slot.feature} is {slot.dtype.value}, not {have}; give {wanted}", field=path)
    if slot.dtype is DType.FLOAT32 and not all(abs(e) <= _FLOAT32_MAX for e in elements):
        raise InvalidArgument(f"{path} must be finite, and fit into single precision", field=path)


def _convert(values: Array, slot: Slot, path: str) -> Array:
    """The values in the slot's dtype. Truth values may also come as 0 and 1."""
    have, accepted = values.dtype.kind, _ACCEPTED_COLUMNS[slot.dtype]
    if have not in accepted:
        raise InvalidArgument(
            f"{path}: {slot.feature} is {slot.dtype.value}, not {_COLUMNS[have]}; give {_COLUMNS[accepted[0]]}",
            field=path,
        )
    if slot.dtype is DType.BOOL and have == "i" and not np.isin(values, (0, 1)).all():
        raise InvalidArgument(f"{path}: {slot.feature} is a truth value; give bool_values, or 0 and 1", field=path)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InvalidArgument(f"{path} must be finite", field=path)
    return values.astype(slot.dtype.numpy)
