"""From feature columns to model tensors: the one place where null becomes a default and lists are padded.

Training sets, the embedding job and the server all come through here, so a model sees in production what it
saw in training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType
from feast_recsys.bundle.errors import InvalidSignature, MissingFeature
from feast_recsys.bundle.signature import Input


def to_tensor(column: Column, spec: Input) -> Array:
    """The input tensor of one feature for n entities.

    Args:
        column: n rows.
        spec: The input to fill.

    Returns:
        [n] for a scalar input. [n, L] for a list, L = the longest row, at least 1 and at most `max_length`.
        dtype of `spec`; NaN never comes through.

    Raises:
        InvalidSignature: the column is a list where the input is a scalar, or the other way round, or of a
            type that does not convert without loss.
        MissingFeature: the input is required and a row has no value.
    """
    if column.is_list is not spec.is_list:
        have, want = ("list", "scalar") if column.is_list else ("scalar", "list")
        raise InvalidSignature(f"{spec.feature} is a {have} but input {spec.name!r} declares a {want}", field=spec.name)
    if column.dtype is not spec.dtype:
        _check_dtype(column.dtype, spec)
    if spec.required and not column.valid.all():
        row = int(np.argmin(column.valid))
        raise MissingFeature(f"required feature {spec.feature} has no value in row {row}", field=spec.feature)
    return _pad(column, spec) if spec.is_list else _fill(column, spec)


def to_tensors(columns: Mapping[str, Column], inputs: Sequence[Input]) -> dict[str, Array]:
    """Input tensors by input name, from columns by Feast reference.

    Raises:
        InvalidSignature: a column is missing or does not fit; see `to_tensor`.
        MissingFeature: see `to_tensor`.
    """
    tensors = {}
    for spec in inputs:
        if spec.feature not in columns:
            raise InvalidSignature(f"no values of {spec.feature} for input {spec.name!r}", field=spec.name)
        tensors[spec.name] = to_tensor(columns[spec.feature], spec)
    return tensors


def optional(spec: Input) -> Input:
    """The input with a default for what it lacks, also where it is required."""
    return replace(spec, required=False) if spec.required else spec


def converts(have: DType, want: DType) -> bool:
    """Whether values of one type may fill an input of the other: the same, or a number or truth value made wider."""
    return have is want or (have, want) in _WIDENING


_WIDENING = {(DType.INT64, DType.FLOAT32), (DType.BOOL, DType.INT64), (DType.BOOL, DType.FLOAT32)}


def _fill(column: Column, spec: Input) -> Array:
    values = column.values
    if column.dtype is not spec.dtype:
        values = values.astype(spec.dtype.numpy)
    if len(values) == 1:  # the user of a request: no NumPy call where plain Python will do
        usable_one = column.valid.item(0) and (spec.dtype is not DType.FLOAT32 or math.isfinite(values.item(0)))
        return values if usable_one else np.full(1, spec.default, spec.dtype.numpy)
    usable = column.valid
    if spec.dtype is DType.FLOAT32:
        usable = usable & np.isfinite(values)
    if not usable.all():
        values = np.where(usable, values, np.asarray(spec.default, spec.dtype.numpy))
    return values


def _pad(column: Column, spec: Input) -> Array:
    assert column.offsets is not None and spec.max_length is not None
    if len(column) == 1 and spec.dtype is not DType.FLOAT32:  # as above
        start = column.offsets.item(0)
        length = min(column.offsets.item(1) - start, spec.max_length) if column.valid.item(0) else 0
        if not length:
            return np.full((1, 1), spec.pad, spec.dtype.numpy)
        return column.values[start : start + length].astype(spec.dtype.numpy).reshape(1, length)
    starts = column.offsets[:-1]
    lengths = np.where(column.valid, np.minimum(np.diff(column.offsets), spec.max_length), 0)
    width = max(int(lengths.max(initial=0)), 1)
    padded = np.full((len(column), width), spec.pad, spec.dtype.numpy)
    inside = np.arange(width) < lengths[:, None]
    picked = column.values[(starts[:, None] + np.arange(width))[inside]].astype(spec.dtype.numpy)
    if spec.dtype is DType.FLOAT32:
        picked[~np.isfinite(picked)] = spec.pad
    padded[inside] = picked
    return padded


def _check_dtype(have: DType, spec: Input) -> None:
    if not converts(have, spec.dtype):
        raise InvalidSignature(
            f"{spec.feature} is {have.value} in Feast but input {spec.name!r} declares {spec.dtype.value}; "
            "declare the dtype that Feast has",
            field=spec.name,
        )
