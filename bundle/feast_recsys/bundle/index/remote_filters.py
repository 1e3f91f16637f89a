"""Filters in the words of Milvus and of Qdrant, wherever these mean exactly the same.

What they say of null, of lists and of numbers is not what `filters` says. A null is therefore no value in Qdrant, where
a condition on a missing value fails and its negation passes; in Milvus it is a zero beside a field that says whether
there is a value, since its own nulls fail a comparison and its negation alike.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.filter_plan import Joint, Member, Not, Ordered, Plan, negated
from feast_recsys.bundle.index.engine import Field, Fields, finite

ROW = "row"
"""Milvus's name of the primary key."""

_MOST_OPERANDS = 1_000
_MOST_RANGES = 100
_EXACT_IN_DOUBLE = 2**53
_INT64_MIN = -(2**63)
_SIGNS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def folded(plan: Plan) -> Plan | bool:
    """The same without comparisons that nothing passes; True or False if that is all there is to say."""
    if isinstance(plan, Not):
        part = folded(plan.part)
        return not part if isinstance(part, bool) else negated(part)
    if isinstance(plan, Joint):
        decisive = plan.type == "or"
        parts = [folded(part) for part in plan.parts]
        if decisive in parts:
            return decisive
        left = frozenset(part for part in parts if not isinstance(part, bool))
        if not left:
            return not decisive
        return Joint(plan.type, left) if len(left) > 1 else next(iter(left))
    return plan if isinstance(plan, Ordered) or plan.operands else False


def milvus_expression(plan: Plan, fields: Fields) -> str | None:
    """A boolean expression of Milvus; None if it has none that means the same."""
    try:
        return _milvus(plan, fields)
    except _NotTheSame:
        return None


def qdrant_filter(plan: Plan, fields: Fields) -> dict[str, Any] | None:
    """A filter of Qdrant as its JSON has it; None if it has none that means the same."""
    try:
        return {"must": [_qdrant(plan, fields)]}
    except _NotTheSame:
        return None


class _NotTheSame(Exception):
    pass


def _field(key: str, fields: Fields) -> Field:
    if key not in fields:
        raise _NotTheSame
    return fields[key]


def _milvus(plan: Plan, fields: Fields) -> str:
    if isinstance(plan, Not):
        return f"not ({_milvus(plan.part, fields)})"
    if isinstance(plan, Joint):
        return f" {plan.type} ".join(sorted(f"({_milvus(part, fields)})" for part in plan.parts))
    field = _field(plan.key, fields)
    if isinstance(plan, Ordered):
        said = f"{field.name} {_SIGNS[plan.type]} {_literal(plan.bound, field.dtype)}"
        zero = _COMPARE[plan.type](field.dtype.zero, plan.bound)
    else:
        said, zero = _milvus_member(plan, field), field.dtype.zero in plan.operands
    # A list that is null is stored as an empty one, in which nothing is found either.
    return f"({said}) and {field.present} == true" if field.nulls and zero and not field.is_list else said


def _milvus_member(plan: Member, field: Field) -> str:
    operands = _sorted(plan.operands, _MOST_OPERANDS)
    literals = [_literal(operand, field.dtype) for operand in operands]
    if field.is_list:
        return f"array_contains_any({field.name}, [{', '.join(literals)}])"
    if field.dtype is DType.BOOL:
        return " or ".join(f"{field.name} == {literal}" for literal in literals)
    return f"{field.name} in [{', '.join(literals)}]"


def _literal(operand: Any, dtype: DType) -> str:
    if dtype is DType.STRING:
        return _quoted(operand)
    if dtype is DType.BOOL:
        return "true" if operand else "false"
    if dtype is DType.FLOAT32:
        return repr(finite(float(operand)))
    if operand == _INT64_MIN:  # read as the negative of a number that is too large
        raise _NotTheSame
    return str(operand)


def _quoted(text: str) -> str:
    """In quotes, unless it holds what not all versions read alike: control characters, and halves of characters."""
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text):
        raise _NotTheSame
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _qdrant(plan: Plan, fields: Fields) -> dict[str, Any]:
    if isinstance(plan, Not):
        return {"must_not": [_qdrant(plan.part, fields)]}
    if isinstance(plan, Joint):
        return {"must" if plan.type == "and" else "should": [_qdrant(part, fields) for part in plan.parts]}
    field = _field(plan.key, fields)
    if isinstance(plan, Ordered):
        # It orders no strings, and compares integers as doubles.
        if field.dtype is DType.STRING or (field.dtype is DType.INT64 and abs(plan.bound) >= _EXACT_IN_DOUBLE):
            raise _NotTheSame
        return {"key": field.name, "range": {plan.type: finite(float(plan.bound))}}
    if field.dtype is DType.FLOAT32:
        # It has no equality of fractions.
        numbers = [finite(operand) for operand in _sorted(plan.operands, _MOST_RANGES)]
        return {"should": [{"key": field.name, "range": {"gte": number, "lte": number}} for number in numbers]}
    operands = _sorted(plan.operands, _MOST_OPERANDS)
    if field.dtype is DType.BOOL:
        return {"should": [{"key": field.name, "match": {"value": bool(operand)}} for operand in operands]}
    return {"key": field.name, "match": {"value": operands[0]} if len(operands) == 1 else {"any": operands}}


def _sorted(operands: Iterable[Any], most: int) -> list[Any]:
    listed = sorted(operands)
    if len(listed) > most:
        raise _NotTheSame
    return listed
