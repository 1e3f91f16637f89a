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
    states = np.array(status, np.uint8)
    valid = states == _PRESENT
    if policy == "serve":
        valid |= states == _STALE
    if not slot.kind.is_list:
        return Column(slot.kind.dtype, _scalars(slot.kind.dtype, values), states, valid, timestamps)
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


def _scalars(dtype: DType, values: list[Any]) -> Array:
    with np.errstate(over="ignore"):  # a double beyond float32 is infinite, which to_tensor replaces
        return np.array(values, dtype.numpy)


def _lists(slot: Slot, values: list[Any]) -> tuple[Array, npt.NDArray[np.int64]]:
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(v) for v in values], out=offsets[1:])
    elements = values[0] if len(values) == 1 else [x for v in values for x in v]
    with np.errstate(over="ignore"):
        flat: Array = np.fromiter(elements, slot.kind.dtype.numpy, int(offsets[-1]))
    if slot.kind.field == "unix_timestamp_list_val":
        flat[flat == NULL_TIMESTAMP] = 0
    return flat, offsets


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
