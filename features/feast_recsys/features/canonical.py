"""Columns of the offline store in the form in which the online store would hold the same values.

Materialization changes values on their way: NaN of a scalar becomes null, timestamps lose what is finer than a
second, a null inside a list becomes the type's zero (NaN in lists of floats). Training data takes the same way here, so
that a model sees in training what it gets in production.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.errors import InvalidRepository
from feast_recsys.features.schema import ValueKind

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_PYTHON: dict[DType, Callable[[Any], Any]] = {
    DType.INT64: int,
    DType.FLOAT32: float,
    DType.BOOL: bool,
    DType.STRING: str,
}


def canonical(values: pa.ChunkedArray | pa.Array, kind: ValueKind, reference: str) -> Column:
    """The column for values as an offline store returns them.

    Args:
        values: n values of the Arrow type that the store chose.
        kind: The declared type.
        reference: Name of the feature, for messages.

    Returns:
        n rows, each PRESENT or NULL_VALUE; timestamps are 0.

    Raises:
        InvalidRepository: the values are of a type that Feast would not materialize as the declared one.
    """
    chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
    parts = [_chunk(chunk, kind, reference) for chunk in chunks]
    return Column.concatenate(parts) if parts else _chunk(pa.nulls(0), kind, reference)


def spread(column: Column, found: Array) -> Column:
    """Puts k rows on the k places of n where `found` is set; NOT_FOUND elsewhere.

    Args:
        column: k rows.
        found: [n] bool, k of them True.
    """
    n = len(found)
    status = np.full(n, FieldStatus.NOT_FOUND, np.uint8)
    valid, timestamps = np.zeros(n, np.bool_), np.zeros(n, np.int64)
    status[found], valid[found], timestamps[found] = column.status, column.valid, column.timestamps
    if column.offsets is None:
        values = np.full(n, column.dtype.zero, column.dtype.numpy)
        values[found] = column.values
        return Column(column.dtype, values, status, valid, timestamps)
    lengths = np.zeros(n, np.int64)
    lengths[found] = np.diff(column.offsets)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Column(column.dtype, column.values, status, valid, timestamps, offsets)


def _chunk(values: pa.Array, kind: ValueKind, reference: str) -> Column:
    if kind.is_list:
        return _lists(values, kind, reference)
    present = _present(values)
    flat = _elements(values, present, kind, reference)
    return _column(kind, flat, present)


def _lists(values: pa.Array, kind: ValueKind, reference: str) -> Column:
    if pa.types.is_null(values.type):
        values = values.cast(pa.list_(pa.null()))
    if not (
        pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)
    ):
        raise _mismatch(values.type, kind, reference)
    present: Array = values.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(values).fill_null(0).to_numpy(zero_copy_only=False)
    inner = values.flatten()  # leaves out what null rows hide
    flat = _elements(inner, _present(inner), kind, reference)
    if kind.dtype is DType.FLOAT32:
        flat[~inner.is_valid().to_numpy(zero_copy_only=False)] = np.nan
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
    return _column(kind, flat, present, offsets)


def _column(kind: ValueKind, values: Array, present: Array, offsets: Array | None = None) -> Column:
    status = np.where(present, FieldStatus.PRESENT, FieldStatus.NULL_VALUE).astype(np.uint8)
    return Column(kind.dtype, values, status, present, np.zeros(len(present), np.int64), offsets)


def _present(values: pa.Array) -> Array:
    """[n] bool: neither null nor NaN."""
    return np.asarray(values.is_null(nan_is_null=True).to_numpy(zero_copy_only=False) == 0)


def _elements(values: pa.Array, present: Array, kind: ValueKind, reference: str) -> Array:
    """[n] of the dtype; zero where not present, but NaN where a float is NaN inside a list."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if kind.field.startswith("unix_timestamp") and pa.types.is_timestamp(values.type):
        ticks = values.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray(np.where(present, ticks // _PER_SECOND[values.type.unit], 0))
    if kind.dtype is DType.STRING and (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return np.asarray(values.fill_null("").to_numpy(zero_copy_only=False), object)
    number = pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)
    if kind.dtype is not DType.STRING and number:
        zero = pa.scalar(False if pa.types.is_boolean(values.type) else 0, values.type)
        raw = values.fill_null(zero).to_numpy(zero_copy_only=False)
        if kind.dtype is not DType.FLOAT32 or not kind.is_list:
            raw = np.where(present, raw, np.zeros((), raw.dtype))
        with np.errstate(over="ignore"):
            return np.asarray(raw.astype(kind.dtype.numpy))
    return _one_by_one(values, present, kind, reference)


def _one_by_one(values: pa.Array, present: Array, kind: ValueKind, reference: str) -> Array:
    """What Arrow has no vectorised way for, such as decimals, by the rules of Feast's own conversion."""
    result = np.full(len(values), kind.dtype.zero, kind.dtype.numpy)
    if pa.types.is_nested(values.type) or (pa.types.is_temporal(values.type) and kind.dtype is not DType.STRING):
        raise _mismatch(values.type, kind, reference)
    convert = _PYTHON[kind.dtype]
    try:
        for row in np.flatnonzero(present):
            result[row] = convert(values[row].as_py())
    except (TypeError, ValueError, OverflowError) as error:
        raise _mismatch(values.type, kind, reference) from error
    return result


def _mismatch(have: pa.DataType, kind: ValueKind, reference: str) -> InvalidRepository:
    want = f"a list of {kind.dtype.value}" if kind.is_list else kind.dtype.value
    return InvalidRepository(
        f"{reference} is declared as {want} but its source holds {have}; declare the type of the source",
        field=reference,
    )
