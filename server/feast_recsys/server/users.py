"""What is read of the users of a call, and what was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from feast_recsys.bundle.columns import Column
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.user_reader import UserReader
from feast_recsys.server.requests import UserStatus

Key = int | str


@dataclass(frozen=True)
class Reading:
    """What one kind of call reads of its users.

    Attributes:
        reader: Reads the rows, by any store.
        fast: Reads the rows within a time limit of its own; None where the store has no such way.
        absent: The columns of a user of whom nothing is known, one row each, for when the store is down.
        inputs: References that are inputs of a model; the others are lists of seen items.
        about_user: References that say whether the user is known: those of views that the user's id keys.
    """

    reader: OnlineReader
    fast: UserReader | None
    absent: Mapping[str, Column]
    inputs: tuple[str, ...]
    about_user: tuple[str, ...]


@dataclass(frozen=True)
class Users:
    """What the store said of n users: n rows per reference, and why it may say less than it could."""

    columns: Mapping[str, Column]
    statuses: tuple[UserStatus, ...]
    degraded: tuple[str, ...] = ()


def unasked(n: int) -> Users:
    """Of n users nothing was asked."""
    return Users({}, (UserStatus.UNSPECIFIED,) * n)


NOBODY_ASKED = unasked(1)


def repeated(column: Column, n: int) -> Column:
    """The one row of a column, n times."""
    return column if n == 1 else column.take(np.zeros(n, np.int64))
