"""Conditions on item features, shaped as Feast's own filters; `filter_plan` evaluates them.

A null value fails every comparison but `ne` and `nin`. On a list feature `eq` and `in` ask whether any element
passes, `ne` and `nin` whether none of the excluded ones occurs. Each comparison is therefore plainly true or
false, and `and`, `or`, `not` have their everyday meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.hints import shown

MAX_DEPTH = 32
ORDER = ("gt", "gte", "lt", "lte")
COMPARISONS = ("eq", "ne", *ORDER, "in", "nin")
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
    check_depth(depth, path)
    if not isinstance(document, dict) or "type" not in document:
        raise InvalidArgument(f"{path} must be an object with a type", field=path)
    kind = document["type"]
    if kind in COMPOUNDS:
        parts = document.get("filters")
        if not isinstance(parts, list):
            raise InvalidArgument(f"{path}.filters: {kind!r} needs a list of filters", field=f"{path}.filters")
        return Compound(kind, tuple(parse_filter(p, f"{path}.filters[{n}]", depth + 1) for n, p in enumerate(parts)))
    if kind not in COMPARISONS:
        known = ", ".join(COMPARISONS + COMPOUNDS)
        raise InvalidArgument(f"{path}.type: unknown type {shown(kind)}; known are {known}", field=f"{path}.type")
    if "key" not in document or "value" not in document:
        raise InvalidArgument(f"{path}: a comparison needs key and value", field=path)
    value = document["value"]
    return Comparison(kind, str(document["key"]), tuple(value) if isinstance(value, list) else value)


def check_depth(depth: int, path: str) -> None:
    """Refuses what is nested too deep.

    Raises:
        InvalidArgument: names the path.
    """
    if depth > MAX_DEPTH:
        raise InvalidArgument(f"filters are nested more than {MAX_DEPTH} deep, the limit, at {path}", field=path)
