"""The values that on-demand views take from a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.features.plan import RequestField

NO_REQUEST: Mapping[str, Any] = MappingProxyType({})
"""What a read is given of a request where nobody needs any of it."""

_INTEGERS = (int, np.integer)
_NUMBERS = (int, float, np.integer, np.floating)


def request_columns(
    fields: Sequence[RequestField], request: Mapping[str, Sequence[Any]], n: int
) -> dict[str, list[Any]]:
    """The values of request fields as Feast takes them: plain Python, of the declared type.

    Args:
        fields: What is needed.
        request: n values by name; further names are ignored. None is null.
        n: Number of rows.

    Raises:
        InvalidArgument: a field is missing, not n values, of another type, or nothing but empty lists, of which Feast
            can't tell the type; names field and view.
    """
    return {field.name: _column(field, request, n) for field in fields}


def _column(field: RequestField, request: Mapping[str, Sequence[Any]], n: int) -> list[Any]:
    if field.name not in request:
        raise _wrong(field, "is missing; give it with the request")
    values = request[field.name]
    if len(values) != n:
        raise _wrong(field, f"has {len(values)} values for {n} rows")
    column = [_value(field, value) for value in values]
    if any(value == [] for value in column) and not any(column):
        raise _wrong(field, "is an empty list, of which Feast can't tell the type; give null instead")
    return column


def _value(field: RequestField, value: Any) -> Any:
    if value is None:
        return None
    if not field.kind.is_list:
        return _element(field, value)
    if not isinstance(value, list | tuple | np.ndarray):
        raise _wrong(field, f"must be a list of {field.kind.dtype.value}, not {value!r}")
    return [_element(field, element) for element in value]


def _element(field: RequestField, value: Any) -> Any:
    dtype = field.kind.dtype
    if dtype is DType.STRING and isinstance(value, str):
        return str(value)
    if dtype is DType.BOOL and isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, bool | np.bool_):
        raise _wrong(field, f"must be {dtype.value}, not {value!r}")
    if dtype is DType.INT64 and isinstance(value, _INTEGERS):
        return int(value)
    if dtype is DType.FLOAT32 and isinstance(value, _NUMBERS):
        return float(value)
    raise _wrong(field, f"must be {dtype.value}, not {value!r}")


def _wrong(field: RequestField, what: str) -> InvalidArgument:
    return InvalidArgument(
        f"request field {field.name!r}, which on-demand feature view {field.view!r} needs, {what}", field=field.name
    )
