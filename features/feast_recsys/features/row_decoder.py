"""One row of one view to columns: what is the same for every request is decided when the plan is compiled."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.features.decode import ROW_STATES, list_values, narrow, row_offsets, too_old, unpacker
from feast_recsys.features.feast_api import Value
from feast_recsys.features.plan import ViewPlan

_PRESENT, _STALE = int(FieldStatus.PRESENT), int(FieldStatus.OUTSIDE_MAX_AGE)
_FLOAT32_MAX = float(np.finfo(np.float32).max)

# The constructor of a frozen dataclass costs more than the arrays that a column of one row holds.
_new = object.__new__
_MEMBERS = ("dtype", "values", "status", "valid", "timestamps", "offsets")
_set_dtype, _set_values, _set_status, _set_valid, _set_timestamps, _set_offsets = (
    vars(Column)[name].__set__ for name in _MEMBERS
)


class RowDecoder:
    """Decodes rows of one view, with the meaning of `Decoder`.

    Scalars of one dtype share one array, of which each column has its element; all columns share the event time.

    Args:
        view: The view; its slots give the order of the values.
    """

    def __init__(self, view: ViewPlan) -> None:
        slots = list(enumerate(view.slots))
        self._unpack = tuple(unpacker(slot) for slot in view.slots)
        self._doubles = tuple(at for at, slot in slots if slot.kind.field == "double_val")
        self._lists = tuple((at, slot) for at, slot in slots if slot.kind.is_list)
        self._scalars = tuple(
            (dtype, dtype.numpy, group)
            for dtype in DType
            if (
                group := tuple(
                    (at, slot.reference) for at, slot in slots if not slot.kind.is_list and slot.kind.dtype is dtype
                )
            )
        )
        self._states = tuple(ROW_STATES[int(status), view.stale == "serve"] for status in FieldStatus)
        self._slots, self._ttl, self._policy = view.slots, view.ttl, view.stale

    def decode(self, messages: Sequence[Value | None], moment: int, columns: dict[str, Column]) -> None:
        """Adds the columns of one row, by reference.

        Args:
            messages: As stored, one per slot; None where the store has no such row or feature.
            moment: Event time in unix seconds; 0 where there is no row.
            columns: Where to.

        Raises:
            StaleFeature, InvalidRepository: see `Decoder.decode`.
        """
        values, status = [], []
        for unpack, message in zip(self._unpack, messages, strict=True):
            value, state = unpack(message, moment)
            values.append(value)
            status.append(state)
        if self._ttl > 0 and 0 < moment < time.time() - self._ttl:
            status = self._stale(status)
        for at in self._doubles:
            if not -_FLOAT32_MAX <= values[at] <= _FLOAT32_MAX:
                values[at] = float(narrow(np.array([values[at]]))[0])
        pairs = [self._states[state] for state in status]
        timestamps = np.array([moment], np.int64)
        for dtype, numpy_dtype, group in self._scalars:
            block = np.array([values[at] for at, _ in group], numpy_dtype)
            for number, (at, reference) in enumerate(group):
                columns[reference] = _column(dtype, block[number : number + 1], pairs[at], timestamps, None)
        for at, slot in self._lists:
            value = values[at]
            flat, offsets = list_values(slot, value), row_offsets(len(value))
            columns[slot.reference] = _column(slot.kind.dtype, flat, pairs[at], timestamps, offsets)

    def _stale(self, status: list[int]) -> list[int]:
        for at, state in enumerate(status):
            if state == _PRESENT:
                if self._policy == "fail":
                    raise too_old(self._slots[at])
                status[at] = _STALE
        return status


def _column(
    dtype: DType, values: Array, states: tuple[Array, Array], timestamps: Array, offsets: Array | None
) -> Column:
    column = _new(Column)
    _set_dtype(column, dtype)
    _set_values(column, values)
    _set_status(column, states[0])
    _set_valid(column, states[1])
    _set_timestamps(column, timestamps)
    _set_offsets(column, offsets)
    return column
