"""From Feast's `Value` messages to columns, with one meaning of the statuses for all online stores.

Stores differ: a missing entity is NOT_FOUND on SQLite and an unset value of event time 0 on Redis. Here
NOT_FOUND is "no row, or an unset value without event time", NULL_VALUE any other unset value (and scalar NaN),
and OUTSIDE_MAX_AGE a value older than the view's ttl, which Feast itself never says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository, StaleFeature
from feast_recsys.features.feast_api import Value
from feast_recsys.features.plan import Slot, StalePolicy

NULL_TIMESTAMP = -(2**63)
"""How Feast stores a timestamp that is null."""

Unpack = Callable[[Value | None, int], tuple[Any, int]]
"""From a stored value (None: no such row or feature) and its event time in unix seconds (0: no row) to the value, the
dtype's zero or an empty list if there is none, and its status other than staleness."""

Status = npt.NDArray[np.uint8]
Valid = npt.NDArray[np.bool_]
Timestamps = npt.NDArray[np.int64]

_NUMPY = {dtype: dtype.numpy for dtype in DType}
_PRESENT, _NULL = int(FieldStatus.PRESENT), int(FieldStatus.NULL_VALUE)
_NOT_FOUND, _STALE = int(FieldStatus.NOT_FOUND), int(FieldStatus.OUTSIDE_MAX_AGE)
_NULLS = {"unix_timestamp_val": NULL_TIMESTAMP}
# Scalars of these may hold what stands for null.
_NULLABLE = frozenset({"float_val", "double_val", "unix_timestamp_val"})


class Decoder:
    """Decodes one feature of any number of rows.

    Args:
        slot: The feature.
        policy: What to do with values older than the ttl of their view.
    """

    def __init__(self, slot: Slot, policy: StalePolicy) -> None:
        self._slot, self._policy = slot, policy
        self._unpack = unpacker(slot)

    def decode(self, messages: Sequence[Value | None], timestamps: Timestamps, stale: Sequence[bool] | None) -> Column:
        """The column of n rows.

        Args:
            messages: n values as stored; None where the store has no such row or feature.
            timestamps: [n] int64, event time of the rows in unix seconds; 0 where there is no row.
            stale: n flags: whether the row is older than the view's ttl; None if no row is.

        Raises:
            StaleFeature: a value is stale and the policy is `fail`.
            InvalidRepository: a value was stored under another type that does not convert without loss.
        """
        slot, unpack = self._slot, self._unpack
        unpacked = [unpack(message, moment) for message, moment in zip(messages, timestamps.tolist(), strict=True)]
        values, status = [value for value, _ in unpacked], [state for _, state in unpacked]
        if stale is not None:
            status = [_STALE if old and s == _PRESENT else s for s, old in zip(status, stale, strict=True)]
            if self._policy == "fail" and _STALE in status:
                raise too_old(slot)
        states, valid = _states(status, self._policy == "serve")
        if not slot.kind.is_list:
            return Column(slot.kind.dtype, _scalars(slot, values), states, valid, timestamps)
        flat, offsets = _lists(slot, values)
        return Column(slot.kind.dtype, flat, states, valid, timestamps, offsets)


def unpacker(slot: Slot) -> Unpack:
    """Compiles the meaning of one feature's stored values, for any number of rows.

    The function raises InvalidRepository for a value that was stored under another type and does not convert.
    """
    field, zero = slot.kind.field, () if slot.kind.is_list else slot.kind.dtype.zero
    content = attrgetter(f"{field}.val" if slot.kind.is_list else field)

    def unpack(message: Value | None, moment: int) -> tuple[Any, int]:
        if message is None:
            return zero, _NOT_FOUND
        value = content(message)
        if value:
            return value, _PRESENT
        # Zero and empty are also what a member reads as that is not set: only here the slower question is asked.
        stored = message.WhichOneof("val")
        if stored is None:
            return zero, _NULL if moment > 0 else _NOT_FOUND
        return value if stored == field else _convert(slot, stored, getattr(message, stored)), _PRESENT

    null = _NULLS.get(field, math.nan)

    def unpack_nullable(message: Value | None, moment: int) -> tuple[Any, int]:
        value, status = unpack(message, moment)
        # NaN differs from itself.
        if value != value or value == null:
            return zero, _NULL
        return value, status

    return unpack_nullable if not slot.kind.is_list and field in _NULLABLE else unpack


def _states(status: list[int], serve_stale: bool) -> tuple[Status, Valid]:
    """Statuses as an array, and whether each value may be used."""
    states = np.array(status, np.uint8)
    valid = states == _PRESENT
    if serve_stale:
        valid |= states == _STALE
    return states, valid


def _scalars(slot: Slot, values: list[Any]) -> Array:
    if slot.kind.field == "double_val":
        return narrow(np.array(values, np.float64))
    return np.array(values, _NUMPY[slot.kind.dtype])


def _lists(slot: Slot, values: list[Any]) -> tuple[Array, npt.NDArray[np.int64]]:
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(v) for v in values], out=offsets[1:])
    return list_values(slot, [x for v in values for x in v]), offsets


def list_values(slot: Slot, elements: Sequence[Any]) -> Array:
    """The elements of one or more lists: [n] in the slot's dtype."""
    # A slice of a protobuf list is a list of Python, which converts faster.
    if slot.kind.field == "double_list_val":
        return narrow(np.array(elements[:], np.float64))
    flat: Array = np.array(elements[:], _NUMPY[slot.kind.dtype])
    if slot.kind.field == "unix_timestamp_list_val":
        flat[flat == NULL_TIMESTAMP] = 0
    return flat


def narrow(doubles: Array) -> Array:
    """float64 to float32; what does not fit becomes infinite."""
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which to_tensor replaces
        return doubles.astype(np.float32)


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array


def _constant(status: FieldStatus, serve_stale: bool) -> tuple[Status, Valid]:
    valid = status is FieldStatus.PRESENT or (serve_stale and status is FieldStatus.OUTSIDE_MAX_AGE)
    return _frozen(np.array([status], np.uint8)), _frozen(np.array([valid]))


# One user is the common read, and creating arrays most of its cost: what repeats is shared.
ROW_STATES = {(int(s), serve): _constant(s, serve) for s in FieldStatus for serve in (False, True)}
_OFFSETS = [_frozen(np.array([0, length], np.int64)) for length in range(257)]


def row_offsets(length: int) -> npt.NDArray[np.int64]:
    """The offsets of one list: [2]."""
    return _OFFSETS[length] if length < len(_OFFSETS) else np.array([0, length], np.int64)


def too_old(slot: Slot) -> StaleFeature:
    """The error for a stale value where the policy is `fail`."""
    return StaleFeature(
        f"{slot.reference} is older than the ttl of its view and the view's policy is `fail`; "
        "materialize, or set `recsys.serving.stale` to `serve` or `default`",
        field=slot.reference,
    )


def _convert(slot: Slot, stored: str, value: Any) -> Any:
    """A value that was written before the feature's type changed, or that a remote store typed anew."""
    elements = list(value.val) if hasattr(value, "val") else [value]
    if hasattr(value, "val") is slot.kind.is_list and all(_fits(slot.kind.dtype, x) for x in elements):
        converted = [_KINDS[slot.kind.dtype](x) for x in elements]
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
    return dtype is DType.FLOAT32 or (float(value).is_integer() and -(2**63) <= value < 2**63)


def _float32(value: float) -> float:
    return float(narrow(np.array([value], np.float64))[0])


_KINDS: dict[DType, Callable[[Any], Any]] = {
    DType.INT64: int,
    DType.FLOAT32: _float32,
    DType.BOOL: bool,
    DType.STRING: str,
}
