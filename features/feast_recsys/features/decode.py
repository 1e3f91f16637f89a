"""From Feast's `Value` messages to columns, with one meaning of the statuses for all online stores.

Stores differ: a missing entity is NOT_FOUND on SQLite and an unset value of event time 0 on Redis. Here
NOT_FOUND is "no row, or an unset value without event time", NULL_VALUE any other unset value (and scalar NaN),
and OUTSIDE_MAX_AGE a value older than the view's ttl, which Feast itself never says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository, StaleFeature
from feast_recsys.features.feast_api import Value
from feast_recsys.features.plan import Slot, StalePolicy

NULL_TIMESTAMP = -(2**63)
"""How Feast stores a timestamp that is null."""

_NUMPY = {dtype: dtype.numpy for dtype in DType}
_PRESENT, _NULL = int(FieldStatus.PRESENT), int(FieldStatus.NULL_VALUE)
_NOT_FOUND, _STALE = int(FieldStatus.NOT_FOUND), int(FieldStatus.OUTSIDE_MAX_AGE)


def decode(
    slot: Slot,
    messages: Sequence[Value | None],
    timestamps: npt.NDArray[np.int64],
    stale: Sequence[bool] | None,
    policy: StalePolicy,
) -> Column:
    """The column of one feature.

    Args:
        slot: The feature.
        messages: n values as stored; None where the store has no such row or feature.
        timestamps: [n] int64, event time of the rows in unix seconds; 0 where there is no row.
        stale: n flags: whether the row is older than the view's ttl; None if no row is.
        policy: What to do then.

    Raises:
        StaleFeature: a value is stale and the policy is `fail`.
        InvalidRepository: a value was stored under another type that does not convert without loss.
    """
    values, status = _unpack(slot, messages, timestamps)
    if stale is not None:
        status = [_STALE if old and s == _PRESENT else s for s, old in zip(status, stale, strict=True)]
        if policy == "fail" and _STALE in status:
            raise StaleFeature(
                f"{slot.reference} is older than the ttl of its view and the view's policy is `fail`; "
                "materialize, or set `recsys.serving.stale` to `serve` or `default`",
                field=slot.reference,
            )
    states, valid = _states(status, policy == "serve")
    if not slot.kind.is_list:
        return Column(slot.kind.dtype, _scalars(slot, values), states, valid, timestamps)
    flat, offsets = _lists(slot, values)
    return Column(slot.kind.dtype, flat, states, valid, timestamps, offsets)


def _unpack(
    slot: Slot, messages: Sequence[Value | None], timestamps: npt.NDArray[np.int64]
) -> tuple[list[Any], list[int]]:
    """Values, with the dtype's zero (an empty list) where there is none, and statuses other than staleness."""
    field, is_list = slot.kind.field, slot.kind.is_list
    zero: Any = () if is_list else slot.kind.dtype.zero
    values, status = [zero] * len(messages), [_NOT_FOUND] * len(messages)
    for row, message in enumerate(messages):
        if message is None:
            continue
        stored = message.WhichOneof("val")
        if stored is None:
            if timestamps[row] > 0:
                status[row] = _NULL
            continue
        value = getattr(message, stored)
        if stored != field:
            value = _convert(slot, stored, value)
        elif is_list:
            value = value.val
        # NaN differs from itself.
        if not is_list and (value != value or (field == "unix_timestamp_val" and value == NULL_TIMESTAMP)):
            status[row] = _NULL
            continue
        values[row], status[row] = value, _PRESENT
    return values, status


def _states(status: list[int], serve_stale: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Statuses as an array, and whether each value may be used."""
    if len(status) == 1:
        return _SINGLE[status[0], serve_stale]
    states = np.array(status, np.uint8)
    valid = states == _PRESENT
    if serve_stale:
        valid |= states == _STALE
    return states, valid


def _scalars(slot: Slot, values: list[Any]) -> Array:
    if slot.kind.field == "double_val":
        return _narrow(np.array(values))
    return np.array(values, _NUMPY[slot.kind.dtype])


def _lists(slot: Slot, values: list[Any]) -> tuple[Array, npt.NDArray[np.int64]]:
    if len(values) == 1:
        elements, offsets = values[0], np.array([0, len(values[0])], np.int64)
    else:
        elements = [x for v in values for x in v]
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(v) for v in values], out=offsets[1:])
    if slot.kind.field == "double_list_val":
        return _narrow(np.fromiter(elements, np.float64, len(elements))), offsets
    flat: Array = np.fromiter(elements, _NUMPY[slot.kind.dtype], len(elements))
    if slot.kind.field == "unix_timestamp_list_val":
        flat[flat == NULL_TIMESTAMP] = 0
    return flat, offsets


def _narrow(doubles: Array) -> Array:
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which to_tensor replaces
        return doubles.astype(np.float32)


def _constant(status: FieldStatus, serve_stale: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    valid = status is FieldStatus.PRESENT or (serve_stale and status is FieldStatus.OUTSIDE_MAX_AGE)
    arrays = np.array([status], np.uint8), np.array([valid])
    for array in arrays:
        array.flags.writeable = False
    return arrays


# One user is the common read, and creating arrays most of its cost: their statuses are shared.
_SINGLE = {(int(s), serve): _constant(s, serve) for s in FieldStatus for serve in (False, True)}


def _convert(slot: Slot, stored: str, value: Any) -> Any:
    """A value that was written before the feature's type changed, or that a remote store typed anew."""
    elements = list(value.val) if hasattr(value, "val") else [value]
    if hasattr(value, "val") is slot.kind.is_list and all(_fits(slot.kind.dtype, x) for x in elements):
        kind = {DType.INT64: int, DType.FLOAT32: float, DType.BOOL: bool, DType.STRING: str}[slot.kind.dtype]
        converted = [kind(x) for x in elements]
        return converted if slot.kind.is_list else converted[0]
    raise InvalidRepository(
        f"{slot.reference} is declared as {slot.kind.field} but the online store holds {stored}; "
        "materialize its view again, or declare the type it had",
        field=slot.reference,
    )


def _fits(dtype: DType, value: Any) -> bool:
    if dtype is DType.STRING:
        return isinstance(value, str)
    if not isinstance(value, bool | int | float):
        return False
    if dtype is DType.BOOL:
        return value in (0, 1)
    return dtype is DType.FLOAT32 or float(value).is_integer()
