"""Filters in a normal form, and their evaluation over a snapshot by Arrow's kernels.

What means the same by its shape has the same normal form: the operands of `and` and `or` and of `in` have no order and
no repetition, `eq` is an `in` of one, `ne` and `nin` are their negations, and numbers have the precision of the
feature. A normal form can therefore be the key of what is kept of a filter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filters import (
    COMPARISONS,
    COMPOUNDS,
    ORDER,
    Comparison,
    Filter,
    check_depth,
)
from feast_recsys.bundle.hints import did_you_mean, shown
from feast_recsys.bundle.index.allowed import Mask
from feast_recsys.bundle.snapshot import Snapshot

_FLOAT32_MAX = 3.4028234663852886e38
_INT64 = np.iinfo(np.int64)
_ARROW = {DType.INT64: pa.int64(), DType.FLOAT32: pa.float32(), DType.BOOL: pa.uint8(), DType.STRING: pa.large_string()}
# Up to so many codes are quicker compared one after the other than looked up.
_COMPARED = 8
# Hits that are rarer than one in so many are quicker found in the lists than counted.
_RARE = 50
# How a caller gives an operand: in words, and the field of the wire's Value; a list has a field of its own.
_GIVEN = {
    DType.INT64: ("a whole number", "int64"),
    DType.FLOAT32: ("a number", "double"),
    DType.BOOL: ("true or false", "bool"),
    DType.STRING: ("a text", "string"),
}
_FIELDS = {int: "int64", float: "double", bool: "bool", str: "string"}
_COMPARE = {"gt": pc.greater, "gte": pc.greater_equal, "lt": pc.less, "lte": pc.less_equal}


@dataclass(frozen=True)
class Member:
    """Whether the value, or an element of the list, is one of the operands."""

    key: str
    operands: frozenset[Any]


@dataclass(frozen=True)
class Ordered:
    """Whether the value stands to the bound as `type` says, one of ORDER; integers know only `gte` and `lte`."""

    key: str
    type: str
    bound: Any


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Plan


@dataclass(frozen=True)
class Joint:
    """All of the parts (`and`), or any of them (`or`); two at least, none of the same type."""

    type: str
    parts: frozenset[Plan]


Plan = Member | Ordered | Not | Joint


def evaluate(condition: Filter, snapshot: Snapshot) -> Mask:
    """[n] bool, which items pass; raises as `plan_of`."""
    return mask_of(bitmap_of(plan_of(condition, snapshot), snapshot))


def plan_of(condition: Filter, snapshot: Snapshot, path: str = "filter", depth: int = 0) -> Plan:
    """Holds a filter against the catalogue's features and brings it into its normal form.

    Args:
        condition: The filter.
        snapshot: The catalogue.
        path: Path of the filter in the request, for messages; below it they follow the wire's field names
            (`filter.compound.filters[0].comparison.value.int64_list.values[1]`).
        depth: How deep this filter is nested.

    Raises:
        InvalidArgument: unknown feature, operand of another type, an operator that the feature does not have, a
            wrong number of operands, or more than MAX_DEPTH levels; `field` is the path, and the message begins with
            it.
    """
    check_depth(depth, path)
    if isinstance(condition, Comparison):
        return _leaf(condition, snapshot, f"{path}.comparison")
    path = f"{path}.compound"
    if condition.type not in COMPOUNDS:
        raise InvalidArgument(f"{path}.type: unknown type {shown(condition.type)}", field=f"{path}.type")
    if not condition.filters or (condition.type == "not" and len(condition.filters) != 1):
        wanted = "exactly one filter" if condition.type == "not" else "at least one filter"
        raise InvalidArgument(f"{path}.filters: {condition.type!r} takes {wanted}", field=f"{path}.filters")
    plans = [plan_of(f, snapshot, f"{path}.filters[{n}]", depth + 1) for n, f in enumerate(condition.filters)]
    return negated(plans[0]) if condition.type == "not" else joint_of(condition.type, plans)


def negated(plan: Plan) -> Plan:
    """The opposite, without two negations in a row."""
    return plan.part if isinstance(plan, Not) else Not(plan)


def bitmap_of(plan: Plan, snapshot: Snapshot, part: Callable[[Plan], pa.BooleanArray] | None = None) -> pa.BooleanArray:
    """[n] without nulls: which items pass.

    Args:
        plan: The filter.
        snapshot: The catalogue that it was made for.
        part: Gives the bitmaps of the parts; None makes them anew.
    """

    def anew(inner: Plan) -> pa.BooleanArray:
        return bitmap_of(inner, snapshot)

    part = part or anew
    if isinstance(plan, Not):
        return pc.invert(part(plan.part))
    if isinstance(plan, Joint):
        return reduce(pc.and_ if plan.type == "and" else pc.or_, map(part, plan.parts))
    values = snapshot.arrow(plan.key)
    found = _ordered(plan, values, snapshot) if isinstance(plan, Ordered) else _member(plan, values, snapshot)
    valid = snapshot.valid(plan.key)
    return found if valid.all() else pc.and_(found, pa.array(valid))


def mask_of(bitmap: pa.BooleanArray) -> Mask:
    """[n] bool of a bitmap without nulls."""
    if bitmap.offset or not len(bitmap):
        mask: Mask = bitmap.to_numpy(zero_copy_only=False)
        return mask
    bits = np.frombuffer(bitmap.buffers()[1], np.uint8)
    return np.unpackbits(bits, count=len(bitmap), bitorder="little").view(np.bool_)


def joint_of(kind: str, plans: list[Plan]) -> Plan:
    """All of some filters (`and`), or any of them (`or`); at least one."""
    parts: set[Plan] = set()
    for plan in plans:
        parts |= plan.parts if isinstance(plan, Joint) and plan.type == kind else {plan}
    return Joint(kind, frozenset(parts)) if len(parts) > 1 else parts.pop()


def _leaf(leaf: Comparison, snapshot: Snapshot, path: str) -> Plan:
    if leaf.key not in snapshot.references:
        near, known = did_you_mean(leaf.key, snapshot.references), ", ".join(snapshot.references)
        raise InvalidArgument(
            f"{path}.key: no item feature {shown(leaf.key)}{near or ';'} there are: {known}", field=f"{path}.key"
        )
    if leaf.type not in COMPARISONS:
        raise InvalidArgument(f"{path}.type: unknown type {shown(leaf.type)}", field=f"{path}.type")
    dtype, many = snapshot.dtype(leaf.key), leaf.type in ("in", "nin")
    if many is not isinstance(leaf.value, tuple | list):
        wanted = f"a list ({_GIVEN[dtype][1]}_list)" if many else f"a single value ({_GIVEN[dtype][1]}_value)"
        have = "it is unset" if leaf.value is None else f"it is {shown(leaf.value)}"
        raise InvalidArgument(f"{path}.value: {leaf.type!r} takes {wanted}; {have}", field=f"{path}.value")
    operands = tuple(leaf.value) if many else (leaf.value,)
    for n, operand in enumerate(operands):
        if not _fits(operand, dtype):
            raise _misfit(leaf.key, dtype, operand, f"{path}.value", n if many else None)
    if leaf.type in ORDER:
        if snapshot.is_list(leaf.key) or dtype is DType.BOOL:
            kind = "list" if snapshot.is_list(leaf.key) else "truth value"
            raise InvalidArgument(
                f"{path}.type: {leaf.key} is a {kind}; {leaf.type!r} has no meaning for it; use eq, ne, in or nin",
                field=f"{path}.type",
            )
        return _order(leaf.key, leaf.type, leaf.value, dtype)
    member = Member(leaf.key, _operands(operands, dtype))
    return Not(member) if leaf.type in ("ne", "nin") else member


def _misfit(key: str, dtype: DType, operand: Any, path: str, at: int | None) -> InvalidArgument:
    """The error of an operand that is of another type; `at` is its place in a list."""
    suffix = "value" if at is None else "list"
    words, field = _GIVEN[dtype]
    sent = _FIELDS.get(type(operand))  # none for what only the settings can say, such as null in a list
    have = "the operand is unset, and null is no operand"
    if operand is not None:
        have = f"the operand is {shown(operand)}" + (f" ({sent}_{suffix})" if sent else "")
    if at is not None:
        path = f"{path}.{sent}_list.values[{at}]" if sent else f"{path}[{at}]"
    return InvalidArgument(f"{path}: {key} is {dtype.value}, but {have}; give {words} ({field}_{suffix})", field=path)


def _fits(operand: Any, dtype: DType) -> bool:
    if dtype is DType.STRING:
        return isinstance(operand, str)
    if dtype is DType.BOOL:
        return isinstance(operand, bool)
    return isinstance(operand, int | float) and not isinstance(operand, bool)


def _operands(operands: tuple[Any, ...], dtype: DType) -> frozenset[Any]:
    """Operands in the feature's own precision, so that 0.1 finds the float32 that was stored for it.

    What no value can equal is left out: a fraction among integers, NaN.
    """
    if dtype is DType.INT64:
        return frozenset(int(o) for o in operands if _INT64.min <= o <= _INT64.max and o == int(o))
    if dtype is DType.FLOAT32:
        return frozenset(_narrow(o) for o in operands if o == o)
    return frozenset(map(int, operands)) if dtype is DType.BOOL else frozenset(operands)


def _order(key: str, kind: str, bound: Any, dtype: DType) -> Plan:
    if bound != bound:  # nothing stands in any order to NaN
        return Member(key, frozenset())
    if dtype is DType.INT64:
        # An integer that splits the integers as the bound does: as floats they would be rounded beyond 2^53.
        if not math.isfinite(bound):
            least = _INT64.min if bound < 0 else _INT64.max + 1
        else:
            least = math.floor(bound) + 1 if kind in ("gt", "lte") else math.ceil(bound)
        return _whole(key, least, above=kind in ("gt", "gte"))
    return Ordered(key, kind, _narrow(bound) if dtype is DType.FLOAT32 else bound)


def _whole(key: str, least: int, *, above: bool) -> Plan:
    """Integers from `least` on, or those below it."""
    if above:
        return Ordered(key, "gte", max(least, int(_INT64.min))) if least <= _INT64.max else Member(key, frozenset())
    most = least - 1
    return Ordered(key, "lte", min(most, int(_INT64.max))) if most >= _INT64.min else Member(key, frozenset())


def _narrow(operand: int | float) -> float:
    """The operand rounded to float32; infinite beyond its range, and 0 without a sign."""
    if abs(operand) > _FLOAT32_MAX:
        return math.inf if operand > 0 else -math.inf
    return float(np.float32(operand)) + 0.0


def _ordered(plan: Ordered, values: pa.Array, snapshot: Snapshot) -> pa.BooleanArray:
    bound, coded = pa.scalar(plan.bound, _ARROW[snapshot.dtype(plan.key)]), snapshot.coded(plan.key)
    if coded is None:
        return _COMPARE[plan.type](values, bound)
    return _where(_COMPARE[plan.type](coded.dictionary, bound), coded.indices)


def _member(plan: Member, values: pa.Array, snapshot: Snapshot) -> pa.BooleanArray:
    if not plan.operands:
        return pa.repeat(pa.scalar(False), len(values))
    coded = snapshot.coded(plan.key)
    if coded is None:
        hit = _among(plan, values.values if snapshot.is_list(plan.key) else values, snapshot)
    else:
        hit = _where(_among(plan, coded.dictionary, snapshot), coded.indices)
    return _any(hit, np.asarray(values.offsets)) if snapshot.is_list(plan.key) else hit


def _among(plan: Member, elements: pa.Array, snapshot: Snapshot) -> pa.BooleanArray:
    kind = _ARROW[snapshot.dtype(plan.key)]
    if len(plan.operands) == 1:
        [operand] = plan.operands
        return pc.equal(elements, pa.scalar(operand, kind))
    # A set of Arrow's tells 0 from -0; operands have no sign there.
    signed = [-0.0] if kind == pa.float32() and 0.0 in plan.operands else []
    return pc.is_in(elements, pa.array([*plan.operands, *signed], kind))


def _where(hit: pa.BooleanArray, codes: pa.Array) -> pa.BooleanArray:
    """Of each code whether the text of that number is hit."""
    hits = np.flatnonzero(mask_of(hit)).tolist()
    if len(hits) > _COMPARED:
        return hit.take(codes)
    if not hits:
        return pa.repeat(pa.scalar(False), len(codes))
    return reduce(pc.or_, (pc.equal(codes, pa.scalar(code, pa.int32())) for code in hits))


def _any(hit: pa.BooleanArray, offsets: npt.NDArray[np.int64]) -> pa.BooleanArray:
    """[n] whether there is a hit among the elements of each list; Arrow has no kernel for that."""
    hits = mask_of(hit)
    if np.count_nonzero(hits) * _RARE < len(hits):
        found = np.zeros(len(offsets) - 1, np.bool_)
        at = offsets[0] + np.flatnonzero(hits[offsets[0] : offsets[-1]])
        found[np.searchsorted(offsets, at, side="right") - 1] = True
        return pa.array(found)
    counted = np.zeros(len(hit) + 1, np.int32 if len(hit) < 2**31 else np.int64)
    np.cumsum(hits, out=counted[1:])
    return pa.array(np.diff(counted.take(offsets)) > 0)
