"""Vector databases as an index: what is asked of each, and how the columns of a snapshot are stored in them.

A collection holds the vectors of one bundle under the rows of its snapshot, and the columns that filters speak
of. It never changes once it is finished; another bundle gets another collection.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from feast_recsys.bundle.columns import Column, DType
from feast_recsys.bundle.filter_plan import Plan
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.index.spec import IndexSpec
from feast_recsys.bundle.snapshot import Snapshot

MOST_FIELDS = 30
"""Columns that a collection holds: Milvus takes 64 fields, and a column with nulls needs two."""

LONGEST_LIST = 4_096
LONGEST_TEXT = 65_535
"""Elements of a list, and bytes of a string, that Milvus stores at most."""

_WIDEST = 32_768  # Milvus's limit

# Of the best 1,100 of 100,000 clustered vectors Milvus finds .980 with 1,300 candidates in view, .996 with 2,200.
_IN_VIEW = 2

_UNSAFE = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True)
class Field:
    """A column of the snapshot as a collection holds it.

    Attributes:
        reference: Feast reference.
        name: In the collection: letters, digits and underscores.
        dtype: Element type.
        is_list: Whether each item has a list.
        nulls: Whether there are items without a value.
    """

    reference: str
    name: str
    dtype: DType
    is_list: bool
    nulls: bool

    @property
    def present(self) -> str:
        """Name of the field that says whether there is a value, where an engine needs one."""
        return f"{self.name}__present"


Fields = Mapping[str, Field]
"""By Feast reference."""


@dataclass(frozen=True)
class Collection:
    """The vectors and columns of one bundle.

    Attributes:
        name: Its name.
        dimension: Width of the vectors.
        fields: Its columns.
        spec: How it is indexed and searched.
    """

    name: str
    dimension: int
    fields: Fields
    spec: IndexSpec


class Engine(Protocol):
    """A database, connected. Threads may share it.

    Every method raises IndexUnavailable where the server can't be reached, fails or is too slow.
    """

    @property
    def place(self) -> str:
        """Which engine, and where, for messages."""

    def create(self, collection: Collection) -> None:
        """Makes an empty collection."""

    def upsert(self, collection: Collection, rows: Rows, vectors: Vectors, columns: Mapping[str, Column]) -> None:
        """Writes some items.

        Args:
            collection: Where.
            rows: [m] different ones.
            vectors: [m, d].
            columns: By Feast reference, m rows each: those of the collection.
        """

    def finish(self, collection: Collection) -> None:
        """Makes everything that was written durable and searchable, indexed as the spec says; waits for it."""

    def count(self, name: str) -> int:
        """Number of items; -1 if there is no such collection."""

    def search(
        self, collection: Collection, queries: Vectors, k: int, where: Plan | None, share: float
    ) -> Sequence[Rows] | None:
        """Those that seem best for each query.

        Args:
            collection: Where.
            queries: [B, d], at least one.
            k: Items wanted for each.
            where: What must be true of them, without comparisons that nothing passes; None for nothing.
            share: Of all items, how many that is true of.

        Returns:
            B times at most k rows; None if the engine can't answer exactly this question.
        """

    def point(self, alias: str, name: str) -> None:
        """Lets an alias name this collection, and no longer another, in one step."""

    def aliased(self, alias: str) -> str | None:
        """The collection that an alias names; None if there is no such alias."""

    def names(self, prefix: str) -> list[str]:
        """Collections whose name begins so, ascending."""

    def drop(self, name: str) -> None:
        """Removes a collection, and whatever alias names it; nothing if there is none."""

    def close(self) -> None:
        """Ends the connection; of an embedded engine, the engine."""


def fields_of(snapshot: Snapshot) -> Fields:
    """The columns of a snapshot as a collection holds them, the first MOST_FIELDS of those that it can hold.

    A column with a string or list that is too long is left out; so filters on it are evaluated here.
    """
    taken: set[str] = set()
    fields: dict[str, Field] = {}
    for reference in snapshot.references:
        if len(fields) < MOST_FIELDS and _storable(snapshot, reference):
            nulls = not bool(snapshot.valid(reference).all())
            name = _safe(reference, taken)
            taken.add(name)
            fields[reference] = Field(reference, name, snapshot.dtype(reference), snapshot.is_list(reference), nulls)
    return fields


def breadth(collection: Collection, depth: float) -> int:
    """Items that a search of a graph keeps in view, for the best down to a depth."""
    return min(max(int(collection.spec.search["breadth"]), math.ceil(_IN_VIEW * depth)), _WIDEST)


def values_of(column: Column, field: Field) -> list[Any]:
    """The values of a column, row by row, as an engine takes them: None for null, and numbers as `finite` says them.

    Lists come without NaN: no operand equals it.
    """
    values: list[Any] = column.to_list()
    if field.dtype is not DType.FLOAT32:
        return values
    if field.is_list:
        return [value and [finite(number) for number in value if number == number] for value in values]
    return [None if value is None else finite(value) for value in values]


def finite(number: float) -> float:
    """A float32 as a double that JSON can say: infinity becomes 1e300, beyond every float32; 0 has no sign."""
    return number + 0.0 if math.isfinite(number) else math.copysign(1e300, number)


def _storable(snapshot: Snapshot, reference: str) -> bool:
    values = snapshot.arrow(reference)
    if snapshot.is_list(reference):
        if len(values) and int(pc.max(pc.list_value_length(values)).as_py()) > LONGEST_LIST:
            return False
        values = values.values
    longest = pc.max(pc.binary_length(values)).as_py() if pa.types.is_large_string(values.type) else 0
    return (longest or 0) <= LONGEST_TEXT


def _safe(reference: str, taken: set[str]) -> str:
    """Letters, digits and underscores; no engine's own name begins with `f_`."""
    name = f"f_{_UNSAFE.sub('_', reference)}"[:200]
    return name if name not in taken else next(n for i in range(2, 1000) if (n := f"{name}_{i}") not in taken)
