"""Candidates as rows of the snapshot, and their features as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np

from feast_recsys.bundle.columns import Array, Column, DType, FieldStatus
from feast_recsys.bundle.index.protocol import Rows, Vectors
from feast_recsys.bundle.signature import Input
from feast_recsys.bundle.snapshot import UNKNOWN_ROW, Snapshot


@dataclass(frozen=True)
class Candidates:
    """The items of a request that the catalogue has, each once.

    Attributes:
        rows: [m] their rows in the snapshot, in the order of the request.
        positions: [m] where each stood first in the request.
        unknown: Ids that the catalogue does not have, each once, in the order of the request.
    """

    rows: Rows
    positions: Rows
    unknown: list[str]


def candidates(item_ids: Sequence[str], snapshot: Snapshot) -> Candidates:
    """Looks the items of a request up."""
    rows = snapshot.rows(item_ids)
    ordered = np.sort(rows)
    if not len(rows) or (ordered[0] != UNKNOWN_ROW and (ordered[1:] != ordered[:-1]).all()):
        return Candidates(rows, np.arange(len(rows)), [])
    known = np.flatnonzero(rows != UNKNOWN_ROW)
    _, first = np.unique(rows[known], return_index=True)
    positions = known[np.sort(first)]
    unknown: list[str] = []
    if len(known) < len(rows):
        unknown = list(dict.fromkeys(item_ids[at] for at in np.flatnonzero(rows == UNKNOWN_ROW).tolist()))
    return Candidates(rows[positions], positions, unknown)


def item_columns(
    inputs: Sequence[Input], snapshot: Snapshot, rows: Rows, given: Mapping[str, Column]
) -> dict[str, Column]:
    """What a ranker takes of some items, by feature: given by the request, else from the snapshot.

    A `request:` feature that is not given is null.
    """
    columns: dict[str, Column] = {}
    for spec in inputs:
        if spec.feature in given:
            columns[spec.feature] = given[spec.feature]
        elif spec.source == "request":
            columns[spec.feature] = _null(spec, len(rows))
        elif spec.source == "entity":
            columns[spec.feature] = complete(snapshot.key_dtype, snapshot.keys_of(rows))
        elif spec.feature not in columns:
            columns[spec.feature] = snapshot.gather(spec.feature, rows)
    return columns


def complete(dtype: DType, values: Array) -> Column:
    """A scalar column without nulls. The values are of that dtype, floats finite."""
    n = len(values)
    return Column(dtype, values, np.ones(n, np.uint8), np.ones(n, np.bool_), np.zeros(n, np.int64))


def concatenate(first: Column, then: Column) -> Column:
    """Two scalar columns of one dtype, one after the other."""
    return Column(
        first.dtype,
        np.concatenate([first.values, then.values]),
        np.concatenate([first.status, then.status]),
        np.concatenate([first.valid, then.valid]),
        np.concatenate([first.timestamps, then.timestamps]),
    )


def without_rows(found: Candidates, rows: Rows) -> Candidates:
    """Candidates less those of some rows."""
    kept = ~np.isin(found.rows, rows)
    return Candidates(found.rows[kept], found.positions[kept], found.unknown)


def _null(spec: Input, n: int) -> Column:
    """What Column.absent gives, built without a Python value for each of n rows."""
    values = np.full(0 if spec.is_list else n, spec.dtype.zero, spec.dtype.numpy)
    status = np.full(n, FieldStatus.NULL_VALUE, np.uint8)
    offsets = np.zeros(n + 1, np.int64) if spec.is_list else None
    return Column(spec.dtype, values, status, np.zeros(n, np.bool_), np.zeros(n, np.int64), offsets)


def pick(values: Sequence[str], positions: Rows) -> list[str]:
    """The values at some positions."""
    at = positions.tolist()
    return list(itemgetter(*at)(values)) if len(at) > 1 else [values[n] for n in at]


def best_first(scores: Vectors, k: int) -> Rows:
    """Positions of the k largest scores, best first; equal ones keep their order."""
    return np.argsort(-scores, kind="stable")[:k]
