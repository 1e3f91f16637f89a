"""The value of one feature for many entities, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class DType(str, Enum):
    """Element types that models take. Feast's double is narrowed to float32, its timestamps are seconds."""

    INT64 = "int64"
    FLOAT32 = "float32"
    BOOL = "bool"
    STRING = "string"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The array dtype; strings are Python objects, as ONNX Runtime takes them."""
        return _NUMPY[self._value_]

    @property
    def zero(self) -> int | float | bool | str:
        """The value that stands in an unset slot."""
        zeros: dict[str, int | float | bool | str] = {"int64": 0, "float32": 0.0, "bool": False, "string": ""}
        return zeros[self.value]


_NUMPY = {d.value: np.dtype(object if d is DType.STRING else d.value) for d in DType}


class FieldStatus(IntEnum):
    """Feast's status of a value, by Feast's names and numbers."""

    INVALID = 0
    PRESENT = 1
    NULL_VALUE = 2
    NOT_FOUND = 3
    OUTSIDE_MAX_AGE = 4


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of n entities.

    Attributes:
        dtype: Element type.
        values: [n] for a scalar feature, [offsets[-1]] for a list feature. A slot without a value holds
            the dtype's zero; float values may be NaN only where the source says NaN inside a list.
        status: [n] uint8, FieldStatus.
        valid: [n] bool: whether the value may be used. False for null and missing, and for expired values
            where the view's policy says so.
        timestamps: [n] int64, event time in unix seconds; 0 where there is no row.
        offsets: [n + 1] int64 row boundaries of a list feature, None for a scalar one.
    """

    dtype: DType
    values: Array
    status: npt.NDArray[np.uint8]
    valid: npt.NDArray[np.bool_]
    timestamps: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.status)

    @property
    def is_list(self) -> bool:
        """Whether each entity holds a list."""
        return self.offsets is not None

    def __getitem__(self, row: int) -> Any:
        """The value of one row: None where not valid, a numpy array for a list."""
        if not self.valid[row]:
            return None
        if self.offsets is None:
            return self.values[row]
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def to_list(self) -> list[Any]:
        """Python values row by row: None where not valid, lists for list features."""
        return [v.tolist() if isinstance(v := self[row], np.ndarray | np.generic) else v for row in range(len(self))]

    def take(self, rows: npt.NDArray[np.int64]) -> Column:
        """The given rows, in that order; rows may repeat."""
        values, offsets = self.values, self.offsets
        if offsets is None:
            values = values[rows]
        else:
            lengths = offsets[rows + 1] - offsets[rows]
            taken = np.zeros(len(rows) + 1, np.int64)
            np.cumsum(lengths, out=taken[1:])
            within = np.arange(taken[-1]) - np.repeat(taken[:-1], lengths)
            values, offsets = values[np.repeat(offsets[rows], lengths) + within], taken
        return Column(self.dtype, values, self.status[rows], self.valid[rows], self.timestamps[rows], offsets)

    @classmethod
    def of(
        cls,
        dtype: DType,
        items: Sequence[Any],
        *,
        is_list: bool = False,
        status: npt.NDArray[np.uint8] | None = None,
        timestamps: npt.NDArray[np.int64] | None = None,
    ) -> Column:
        """Builds a column from Python values; None is null unless `status` says otherwise.

        Scalar NaN counts as null, as Feast's online stores have it.
        """
        n = len(items)
        present = np.fromiter((not _is_null(v, is_list) for v in items), np.bool_, n)
        if status is None:
            status = np.where(present, FieldStatus.PRESENT, FieldStatus.NULL_VALUE).astype(np.uint8)
        if timestamps is None:
            timestamps = np.zeros(n, np.int64)
        if not is_list:
            values = np.array([v if ok else dtype.zero for v, ok in zip(items, present, strict=True)], dtype.numpy)
            return cls(dtype, values.reshape(n), status, present, timestamps)
        rows = [list(v) if ok else [] for v, ok in zip(items, present, strict=True)]
        offsets = np.zeros(n + 1, np.int64)
        np.cumsum(np.fromiter((len(r) for r in rows), np.int64, n), out=offsets[1:])
        flat = np.empty(int(offsets[-1]), dtype.numpy)
        flat[:] = [dtype.zero if v is None else v for row in rows for v in row]
        return cls(dtype, flat, status, present, timestamps, offsets)

    @classmethod
    def absent(
        cls, dtype: DType, n: int, *, is_list: bool = False, status: FieldStatus = FieldStatus.NOT_FOUND
    ) -> Column:
        """A column of n entities for which nothing is known."""
        return cls.of(dtype, [None] * n, is_list=is_list, status=np.full(n, status, np.uint8))

    @classmethod
    def concatenate(cls, parts: Sequence[Column]) -> Column:
        """The rows of all parts, one after the other. The parts have one dtype and one shape."""
        first, offsets = parts[0], None
        if first.offsets is not None:
            ends = np.cumsum([0, *(len(p.values) for p in parts)])
            pieces = [p.offsets[1:] + end for p, end in zip(parts, ends, strict=False) if p.offsets is not None]
            offsets = np.concatenate([np.zeros(1, np.int64), *pieces])
        return cls(
            first.dtype,
            np.concatenate([p.values for p in parts]),
            np.concatenate([p.status for p in parts]),
            np.concatenate([p.valid for p in parts]),
            np.concatenate([p.timestamps for p in parts]),
            offsets,
        )


def _is_null(value: Any, is_list: bool) -> bool:
    return value is None or (not is_list and isinstance(value, float | np.floating) and bool(np.isnan(value)))
