"""Command-line values as messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filters import Compound, parse_filter
from feast_recsys.bundle.filters import Filter as Condition
from feast_recsys.cli.client import Reranking
from feast_recsys.v1 import recommender_service_pb2 as pb


def wire_value(value: Any) -> pb.Value:
    """A JSON value as a message; null is an unset one."""
    if value is None:
        return pb.Value()
    if isinstance(value, bool):
        return pb.Value(bool_value=value)
    if isinstance(value, int):
        return pb.Value(int64_value=value)
    if isinstance(value, float):
        return pb.Value(double_value=value)
    if isinstance(value, str):
        return pb.Value(string_value=value)
    if isinstance(value, list | tuple):
        if all(isinstance(v, str) for v in value):
            return pb.Value(string_list=pb.StringList(values=value))
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return pb.Value(int64_list=pb.Int64List(values=value))
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return pb.Value(double_list=pb.DoubleList(values=value))
    raise InvalidArgument(f"{value!r} is no text, number, truth value or list of one kind of them")


def wire_context(pairs: Sequence[str]) -> dict[str, pb.Value]:
    """`--context` options as messages; a value that is no JSON is text."""
    context = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise click.UsageError(f"--context {pair!r} must read NAME=JSON")
        try:
            context[name] = wire_value(json.loads(text))
        except ValueError:
            context[name] = wire_value(text)
    return context


def wire_filter(text: str | None) -> pb.Filter | None:
    """A `--filter` option as a message."""
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--filter is no JSON: {error}") from None
    return _encode(parse_filter(document))


def wire_reranking(options: Reranking) -> pb.Reranking | None:
    """The options of a reranking as a message; None where none is given."""
    if options.relevance_weight is None and not (options.cap or options.pin or options.block):
        return None
    return pb.Reranking(
        relevance_weight=options.relevance_weight,
        caps=[_cap(text) for text in options.cap],
        pinned_item_ids=options.pin,
        blocked_item_ids=options.block,
    )


def _cap(text: str) -> pb.Cap:
    key, _, number = text.rpartition("=")
    if not key or not number.isdecimal():
        raise click.UsageError(f"--cap {text!r} must read VIEW:FEATURE=N")
    return pb.Cap(key=key, max_items=int(number))


def _encode(condition: Condition) -> pb.Filter:
    if isinstance(condition, Compound):
        kind = f"COMPOUND_TYPE_{condition.type.upper()}"
        return pb.Filter(compound=pb.CompoundFilter(type=kind, filters=[_encode(f) for f in condition.filters]))
    leaf = f"COMPARISON_TYPE_{condition.type.upper()}"
    value = wire_value(condition.value)
    return pb.Filter(comparison=pb.ComparisonFilter(type=leaf, key=condition.key, value=value))
