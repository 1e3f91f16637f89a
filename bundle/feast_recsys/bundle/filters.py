"""Conditions on item features, shaped as Feast's own filters, and their evaluation over a snapshot.

A null value fails every comparison but `ne` and `nin`. On a list feature `eq` and `in` ask whether any element
passes, `ne` and `nin` whether none of the excluded ones occurs. Each comparison is therefore plainly true or
false, and `and`, `or`, `not` have their everyday meaning.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.snapshot import Snapshot

Mask = npt.NDArray[np.bool_]
MAX_DEPTH = 32
_FLOAT32_MAX = 3.4028234663852886e38

_ORDER: dict[str, Callable[[Any, Any], Any]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_ARROW_ORDER = {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}
COMPARISONS = ("eq", "ne", *_ORDER, "in", "nin")
COMPOUNDS = ("and", "or", "not")


@dataclass(frozen=True)
class Comparison:
    """A leaf: `type` is one of COMPARISONS, `value` a scalar or, for `in` and `nin`, a tuple of scalars."""

    type: str
    key: str
    value: Any


@dataclass(frozen=True)
class Compound:
    """A branch: `type` is one of COMPOUNDS; `not` takes one filter, the others at least one."""

    type: str
    filters: tuple[Comparison | Compound, ...]


Filter = Comparison | Compound


def parse_filter(document: Any, path: str = "filter", depth: int = 0) -> Filter:
    """Reads a filter from JSON types: {"type": "gte", "key": "item_profile:release_year", "value": 1990}, or
    {"type": "and", "filters": [...]}.

    Raises:
        InvalidArgument: names the path of what is wrong.
    """
    _check_depth(depth, path)
    if not isinstance(document, dict) or "type" not in document:
        raise InvalidArgument(f"{path} must be an object with a type", field=path)
    kind = document["type"]
    if kind in COMPOUNDS:
        parts = document.get("filters")
        if not isinstance(parts, list):
            raise InvalidArgument(f"{path}: {kind!r} needs a list of filters", field=f"{path}.filters")
        return Compound(kind, tuple(parse_filter(p, f"{path}.filters[{n}]", depth + 1) for n, p in enumerate(parts)))
    if kind not in COMPARISONS:
        known = ", ".join(COMPARISONS + COMPOUNDS)
        raise InvalidArgument(f"{path}: unknown type {kind!r}; known are {known}", field=f"{path}.type")
    if "key" not in document or "value" not in document:
        raise InvalidArgument(f"{path}: a comparison needs key and value", field=path)
    value = document["value"]
    return Comparison(kind, str(document["key"]), tuple(value) if isinstance(value, list) else value)


def evaluate(condition: Filter, snapshot: Snapshot, path: str = "filter", depth: int = 0) -> Mask:
    """Which items pass.

    Args:
        condition: The filter.
        snapshot: The catalogue.
        path: Path of the filter in the request, for messages; below it they follow the wire's field names
            (`filter.compound.filters[0].comparison.value`).
        depth: How deep this filter is nested.

    Returns:
        [n] bool, parallel to the snapshot's rows.

    Raises:
        InvalidArgument: unknown feature, operand of another type, an operator that the feature does not have, a
            wrong number of operands, or more than MAX_DEPTH levels; names the path.
    """
    _check_depth(depth, path)
    if isinstance(condition, Comparison):
        return _compare(condition, snapshot, f"{path}.comparison")
    path = f"{path}.compound"
    if condition.type not in COMPOUNDS:
        raise InvalidArgument(f"{path}: unknown type {condition.type!r}", field=f"{path}.type")
    if not condition.filters or (condition.type == "not" and len(condition.filters) != 1):
        wanted = "exactly one filter" if condition.type == "not" else "at least one filter"
        raise InvalidArgument(f"{path}: {condition.type!r} takes {wanted}", field=f"{path}.filters")
    masks = [evaluate(f, snapshot, f"{path}.filters[{n}]", depth + 1) for n, f in enumerate(condition.filters)]
    if condition.type == "not":
        return ~masks[0]
    combine = np.logical_and if condition.type == "and" else np.logical_or
    result: Mask = combine.reduce(masks)
    return result


def _compare(leaf: Comparison, snapshot: Snapshot, path: str) -> Mask:
    if leaf.key not in snapshot.references:
        known = ", ".join(snapshot.references)
        raise InvalidArgument(f"{path}: no item feature {leaf.key!r}; there are: {known}", field=f"{path}.key")
    if leaf.type not in COMPARISONS:
        raise InvalidArgument(f"{path}: unknown type {leaf.type!r}", field=f"{path}.type")
    dtype, many = snapshot.dtype(leaf.key), leaf.type in ("in", "nin")
    if many is not isinstance(leaf.value, tuple | list):
        wanted = "a list" if many else "a single value"
        raise InvalidArgument(f"{path}: {leaf.type!r} takes {wanted}", field=f"{path}.value")
    for n, operand in enumerate(leaf.value if many else (leaf.value,)):
        _check_operand(operand, dtype, leaf.key, f"{path}.value[{n}]" if many else f"{path}.value")
    if leaf.type in _ORDER:
        if snapshot.is_list(leaf.key) or dtype is DType.BOOL:
            kind = "list" if snapshot.is_list(leaf.key) else "truth value"
            raise InvalidArgument(f"{path}: {leaf.key} is a {kind}; {leaf.type!r} has no meaning for it; use eq, ne, "
                                  "in or nin", field=f"{path}.type")  # fmt: skip
        return _ordered(leaf, snapshot, dtype) & snapshot.valid(leaf.key)
    member = _member(snapshot, leaf.key, tuple(leaf.value) if many else (leaf.value,), dtype)
    member = member & snapshot.valid(leaf.key)
    return ~member if leaf.type in ("ne", "nin") else member


def _check_operand(operand: Any, dtype: DType, key: str, path: str) -> None:
    number = isinstance(operand, int | float) and not isinstance(operand, bool)
    fits = {
        DType.STRING: isinstance(operand, str),
        DType.BOOL: isinstance(operand, bool),
        DType.INT64: number,
        DType.FLOAT32: number,
    }[dtype]
    if not fits:
        raise InvalidArgument(f"{path}: {key} is {dtype.value}, but the operand is {operand!r}", field=path)


def _ordered(leaf: Comparison, snapshot: Snapshot, dtype: DType) -> Mask:
    values = snapshot.arrow(leaf.key)
    if dtype is DType.STRING:
        return _mask(_ARROW_ORDER[leaf.type](values, pa.scalar(leaf.value, pa.large_string())))
    bound = _whole(leaf.type, leaf.value) if dtype is DType.INT64 else np.float32(_narrow(leaf.value))
    result: Mask = _ORDER[leaf.type](values.to_numpy(zero_copy_only=False), bound)
    return result


def _whole(kind: str, bound: int | float) -> int | float:
    """An integer that splits the integers as `bound` does: comparing them as floats would round beyond 2^53."""
    if isinstance(bound, float) and not math.isfinite(bound):
        return bound
    return math.floor(bound) if kind in ("gt", "lte") else math.ceil(bound)


def _narrow(operand: int | float) -> float:
    """The operand rounded to float32; infinite beyond its range."""
    if abs(operand) > _FLOAT32_MAX:
        return math.inf if operand > 0 else -math.inf
    return float(operand)


def _member(snapshot: Snapshot, key: str, operands: tuple[Any, ...], dtype: DType) -> Mask:
    """[n] whether the value, or any element of the list, is one of the operands."""
    values, offsets = snapshot.arrow(key), None
    if snapshot.is_list(key):
        offsets, values = np.asarray(values.offsets), values.values
    if dtype is DType.STRING:
        hit = _mask(pc.is_in(values, pa.array(operands, pa.large_string())))
    else:
        hit = np.isin(values.to_numpy(zero_copy_only=False), _numbers(operands, dtype))
    if offsets is None:
        return hit
    counted = np.concatenate([[0], np.cumsum(hit)])
    return np.asarray(counted[offsets[1:]] > counted[offsets[:-1]])


def _numbers(operands: tuple[Any, ...], dtype: DType) -> npt.NDArray[Any]:
    """Operands in the feature's own precision, so that 0.1 finds the float32 that was stored for it."""
    if dtype is DType.INT64:
        return np.array([int(o) for o in operands if -(2**63) <= o < 2**63 and o == int(o)], np.int64)
    if dtype is DType.BOOL:
        return np.array(operands, np.uint8)
    return np.array([_narrow(o) for o in operands], np.float32)


def _mask(array: pa.Array) -> Mask:
    mask: Mask = array.to_numpy(zero_copy_only=False)
    return mask


def _check_depth(depth: int, path: str) -> None:
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"{path}: filters are nested more than {MAX_DEPTH} deep", field=path)
