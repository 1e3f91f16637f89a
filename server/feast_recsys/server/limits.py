"""Numbers and sizes that a request may ask for."""

from __future__ import annotations

from collections.abc import Sized

from feast_recsys.bundle.errors import InvalidArgument


def count(value: int, *, default: int, limit: int, field: str) -> int:
    """A number of items: what was asked for, or the default for 0.

    Raises:
        InvalidArgument: it is negative or above the limit.
    """
    if value < 0:
        raise InvalidArgument(f"{field} is {value}; give a positive number, or 0 for the default", field=field)
    if value > limit:
        raise InvalidArgument(f"{field} is {value}; this server's limit is {limit}", field=field)
    return value or default


def check_size(values: Sized, *, limit: int, field: str) -> None:
    """Refuses a list that is too long.

    Raises:
        InvalidArgument: it has more elements than the limit.
    """
    if len(values) > limit:
        raise InvalidArgument(f"{field} has {len(values)} elements; this server's limit is {limit}", field=field)
