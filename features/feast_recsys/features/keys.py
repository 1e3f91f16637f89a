"""The keys of rows in the online store: from the columns of a request to what Feast stores rows under."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feast_recsys.bundle.errors import InvalidArgument, InvalidRepository
from feast_recsys.features.feast_api import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, EntityKeyMessage, Value, ValueType
from feast_recsys.features.repo import KEY_TYPES, EntityKey

Key = tuple[int | str, ...]
"""One row's ids, in the order of a view's key columns; empty for an entityless view."""

_FIELDS = {ValueType.INT32: "int32_val", ValueType.INT64: "int64_val", ValueType.STRING: "string_val"}
_PACKED = {"int32_val": struct.Struct("<i"), "int64_val": struct.Struct("<q")}
_LENGTH = struct.Struct("<I")
_TYPES = {field: value_type.value for value_type, field in _FIELDS.items()}


@dataclass(frozen=True)
class KeyColumn:
    """One part of the key of a view.

    Attributes:
        name: The join key as the view declares it.
        key: The same under the name of the request's column, which differs where a feature service renames it.
        field: Member of Feast's `Value` message that holds it; empty for an on-demand view, which has no rows.
    """

    name: str
    key: EntityKey
    field: str


def key_field(view: Any, name: str, key: EntityKey) -> str:
    """The member of Feast's `Value` message that holds a join key of a view.

    Raises:
        InvalidRepository: view and entity declare different types.
    """
    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    value_type = types.get(name)
    if value_type is None or KEY_TYPES.get(value_type) is not key.dtype:
        have = "nothing" if value_type is None else value_type.name
        raise InvalidRepository(
            f"feature view {view.name!r} declares {have} for join key {name!r}, entity {key.entity!r} has "
            f"{key.dtype.value} ids; declare the same type in both",
            field=view.name,
        )
    return _FIELDS[value_type]


def coerce_row(join_keys: Mapping[str, EntityKey], row: Mapping[str, Any]) -> dict[str, int | str]:
    """The ids of one row as Feast stores them.

    Args:
        join_keys: What is needed, by column.
        row: Ids by column; further columns are ignored.

    Raises:
        InvalidArgument: a column is missing, or an id is null or not of its entity's type; names the column.
    """
    ids = {}
    for column, key in join_keys.items():
        if column not in row:
            raise missing_key(key)
        ids[column] = key.coerce(row[column])
    return ids


def missing_key(key: EntityKey) -> InvalidArgument:
    """The error for a request without a join key."""
    return InvalidArgument(f"the request lacks {key.join_key}; give the id of a {key.entity}", field=key.join_key)


def key_message(columns: Sequence[KeyColumn], ids: Key) -> EntityKeyMessage:
    """Feast's message for one row's key.

    Raises:
        InvalidArgument: an id does not fit the stored type; names the column.
    """
    if not columns:
        return EntityKeyMessage(join_keys=[DUMMY_ENTITY_ID], entity_values=[Value(string_val=DUMMY_ENTITY_VAL)])
    values = []
    for column, value in zip(columns, ids, strict=True):
        try:
            values.append(Value(**{column.field: value}))  # type: ignore[arg-type]  # one member, chosen by name
        except ValueError as error:
            raise _unfit(column, error) from error
    return EntityKeyMessage(join_keys=[column.name for column in columns], entity_values=values)


def key_serializer(columns: Sequence[KeyColumn]) -> Callable[[Key], bytes]:
    """Compiles Feast's serialization of keys (version 3) for one set of columns.

    The result equals `serialize_entity_key` of `key_message`; all but the ids is put together once.

    Args:
        columns: In the order in which ids will be given.

    Returns:
        A function from the ids of one row to the stored key; it raises InvalidArgument for an id that does not fit
        the stored type.
    """
    if not columns:
        constant = _names([DUMMY_ENTITY_ID]) + _text(DUMMY_ENTITY_VAL)
        return lambda ids: constant
    order = sorted(range(len(columns)), key=lambda at: columns[at].name)
    names = _names([columns[at].name for at in order])
    parts = [_part(columns[at]) for at in order]
    if len(columns) == 1:
        [single] = parts
        return lambda ids: names + single(ids[0])
    return lambda ids: names + b"".join([part(ids[at]) for part, at in zip(parts, order, strict=True)])


def _names(names: Sequence[str]) -> bytes:
    return _LENGTH.pack(len(names)) + b"".join(map(_text, names))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _LENGTH.pack(_TYPES["string_val"]) + _LENGTH.pack(len(encoded)) + encoded


def _part(column: KeyColumn) -> Callable[[Any], bytes]:
    serialize = _text if column.field == "string_val" else _number(column.field)

    def checked(value: Any) -> bytes:
        try:
            return serialize(value)
        except (ValueError, struct.error) as error:
            raise _unfit(column, error) from error

    return checked


def _number(field: str) -> Callable[[Any], bytes]:
    packed = _PACKED[field]
    head = _LENGTH.pack(_TYPES[field]) + _LENGTH.pack(packed.size)
    return lambda value: head + packed.pack(value)


def _unfit(column: KeyColumn, error: Exception) -> InvalidArgument:
    width = "; the ids are 32 bits wide" if column.field == "int32_val" else ""
    return InvalidArgument(f"{column.key.join_key}: {error}{width}", field=column.key.join_key)
