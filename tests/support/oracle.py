"""Feast's own answer as the oracle: our columns must say the same, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.features.plan import ReadPlan
from feast_recsys.features.reader import OnlineReader
from feast_recsys.features.repo import Repo
from feast_recsys.features.user_reader import user_reader

Rows = Mapping[str, Sequence[Any]]
NULL_TIMESTAMP = -(2**63)


class Read(Protocol):
    """A way to read many rows."""

    def __call__(self, repo: Repo, plan: ReadPlan, rows: Rows) -> dict[str, Column]: ...


def read_together(repo: Repo, plan: ReadPlan, rows: Rows) -> dict[str, Column]:
    """All rows by one `OnlineReader.read`."""
    return OnlineReader(repo, plan).read(rows)


def read_one_by_one(repo: Repo, plan: ReadPlan, rows: Rows) -> dict[str, Column]:
    """Each row by a `UserReader`, begun before any is waited for."""
    reader = user_reader(repo, plan)
    assert reader is not None
    columns = list(rows)
    pending = [reader.begin(dict(zip(columns, row, strict=True))) for row in zip(*rows.values(), strict=True)]
    parts = [read.result(5.0) for read in pending]
    assert all(tuple(part) == plan.references for part in parts)
    return {reference: Column.concatenate([part[reference] for part in parts]) for reference in plan.references}


def assert_as_feast(
    repo: Repo, features: Any, rows: Rows, columns: Mapping[str, Column], stale: Sequence[str] = ()
) -> None:
    """Compares with `get_online_features`, whose statuses are brought to our meaning.

    Args:
        repo: Where from.
        features: A feature service, or references.
        rows: What was read.
        columns: What came.
        stale: References whose rows are all past their ttl, and served all the same.
    """
    response = repo.store.get_online_features(features, dict(rows), full_feature_names=True).proto
    answers = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    for reference, column in columns.items():
        answer = answers[reference.replace(":", "__")]
        seconds = [stamp.seconds for stamp in answer.event_timestamps]
        assert column.timestamps.tolist() == seconds, reference
        assert len(column) == len(answer.values)
        for row, (message, raw) in enumerate(zip(answer.values, answer.statuses, strict=True)):
            value = meaning(message)
            assert bits(column, row) == expected_bits(column, value), (reference, row, value, column[row])
            status = FieldStatus.OUTSIDE_MAX_AGE if reference in stale else FieldStatus.PRESENT
            if value is None:
                # Redis says PRESENT of a row that is not there, with the beginning of time as its moment.
                status = FieldStatus.NULL_VALUE if raw == 1 and seconds[row] > 0 else FieldStatus.NOT_FOUND
            assert column.status[row] == status, (reference, row)
            assert column.valid[row] == (value is not None), (reference, row)


def meaning(message: Any) -> Any:
    """The value of a message: None for null, a list for a list."""
    member = message.WhichOneof("val")
    if member is None:
        return None
    content = getattr(message, member)
    if hasattr(content, "val"):
        elements = list(content.val)
        return [0 if x == NULL_TIMESTAMP else x for x in elements] if member == "unix_timestamp_list_val" else elements
    if content != content or (member == "unix_timestamp_val" and content == NULL_TIMESTAMP):
        return None
    return content


def expected_bits(column: Column, value: Any) -> Any:
    if value is None:
        value = [] if column.is_list else column.dtype.zero
    elements = value if column.is_list else [value]
    if column.values.dtype == object:
        return [(type(x), x) for x in elements]
    with np.errstate(over="ignore"):
        wide = np.array(elements, np.float64) if column.values.dtype == np.float32 else np.array(elements)
        return wide.astype(column.values.dtype).tobytes()


def bits(column: Column, row: int) -> Any:
    """What the arrays hold for one row, usable or not."""
    start, end = (row, row + 1) if column.offsets is None else column.offsets[row : row + 2]
    values = column.values[start:end]
    return [(type(x), x) for x in values] if values.dtype == object else values.tobytes()


def assert_same(left: Mapping[str, Column], right: Mapping[str, Column]) -> None:
    """Two reads say the same, in every array."""
    assert list(left) == list(right)
    for reference, a in left.items():
        b = right[reference]
        assert a.dtype is b.dtype, reference
        assert a.status.dtype == b.status.dtype == np.uint8
        assert a.values.dtype == b.values.dtype
        for x, y in ((a.status, b.status), (a.valid, b.valid), (a.timestamps, b.timestamps), (a.offsets, b.offsets)):
            np.testing.assert_array_equal(x, y, reference)  # type: ignore[arg-type]  # or both are None
        assert [bits(a, row) for row in range(len(a))] == [bits(b, row) for row in range(len(b))], reference
