"""Command-line values as messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.filters import MAX_DEPTH, Compound, parse_filter
from feast_recsys.bundle.filters import Filter as Condition
from feast_recsys.bundle.hints import shown
from feast_recsys.cli.client import Reranking
from feast_recsys.v1 import recommender_service_pb2 as pb

# N of --cap travels as an int32.
_CAP_DIGITS = 9
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


def wire_value(value: Any) -> pb.Value:
    """A JSON value as a message; null is an unset one.

    Raises:
        InvalidArgument: the wire has no such value, or a whole number is beyond int64.
    """
    if value is None:
        return pb.Value()
    if isinstance(value, bool):
        return pb.Value(bool_value=value)
    if isinstance(value, int):
        return pb.Value(int64_value=_int64(value))
    if isinstance(value, float):
        return pb.Value(double_value=value)
    if isinstance(value, str):
        return pb.Value(string_value=value)
    if isinstance(value, list | tuple):
        if all(isinstance(v, str) for v in value):
            return pb.Value(string_list=pb.StringList(values=value))
        if all(isinstance(v, bool) for v in value):
            return pb.Value(bool_list=pb.BoolList(values=value))
        if all(isinstance(v, int) and not isinstance(v, bool) for v in value):
            return pb.Value(int64_list=pb.Int64List(values=map(_int64, value)))
        if all(isinstance(v, int | float) and not isinstance(v, bool) for v in value):
            return pb.Value(double_list=pb.DoubleList(values=value))
    raise InvalidArgument(f"{shown(value)} is no text, number, truth value or list of one kind of them")


def wire_context(pairs: Sequence[str]) -> dict[str, pb.Value]:
    """`--context` options as messages; a value that is no JSON is text."""
    context = {}
    for pair in pairs:
        name, found, text = pair.partition("=")
        if not found:
            raise click.UsageError(f"--context {pair!r} must read NAME=JSON")
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = text
        try:
            context[name] = wire_value(value)
        except InvalidArgument as error:
            raise click.UsageError(f"--context {shown(pair)}: {error.message}") from None
    return context


def wire_filter(text: str | None) -> pb.Filter | None:
    """A `--filter` option as a message."""
    if text is None:
        return None
    try:
        return _encode(parse_filter(json.loads(text)), "filter")
    except ValueError as error:
        raise click.UsageError(f"--filter is no JSON: {error}") from None
    except RecursionError:
        raise click.UsageError(f"--filter: filters are nested more than {MAX_DEPTH} deep, the limit") from None
    except InvalidArgument as error:
        raise click.UsageError(f"--filter: {error.message}") from None


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
    if not key or not (number.isdecimal() and number.isascii()):
        raise click.UsageError(f"--cap {text!r} must read VIEW:FEATURE=N")
    if len(number) > _CAP_DIGITS:
        raise click.UsageError(f"--cap {text!r}: N has more than {_CAP_DIGITS} digits; leave out a cap without effect")
    return pb.Cap(key=key, max_items=int(number))


def _int64(value: int) -> int:
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise InvalidArgument(
            f"{shown(value)} is beyond int64, whole numbers from {_INT64_MIN} to {_INT64_MAX}; where a float is "
            "meant, write it with a decimal point"
        )
    return value


def _encode(condition: Condition, path: str) -> pb.Filter:
    if isinstance(condition, Compound):
        kind = f"COMPOUND_TYPE_{condition.type.upper()}"
        parts = [_encode(part, f"{path}.filters[{n}]") for n, part in enumerate(condition.filters)]
        return pb.Filter(compound=pb.CompoundFilter(type=kind, filters=parts))
    leaf = f"COMPARISON_TYPE_{condition.type.upper()}"
    try:
        value = wire_value(condition.value)
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}.value: {error.message}", field=f"{path}.value") from error
    return pb.Filter(comparison=pb.ComparisonFilter(type=leaf, key=condition.key, value=value))
