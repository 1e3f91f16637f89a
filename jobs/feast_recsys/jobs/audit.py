"""The last look before publishing: does the snapshot on disk say what Feast says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Column, FieldStatus
from feast_recsys.bundle.errors import JobFailed
from feast_recsys.bundle.snapshot import Snapshot
from feast_recsys.features.repo import EntityKey, Repo
from feast_recsys.jobs.feast_values import Answer, ask_feast, same_value

SAMPLE = 200
_NAMED = 5


@dataclass(frozen=True)
class Audit:
    """What was compared.

    Attributes:
        items: Items in the sample.
        values: Values that were compared and are equal.
        drifted: Values left out because the online store has had a newer row since the snapshot was read.
    """

    items: int
    values: int
    drifted: int


def sample_rows(n: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """Up to `size` distinct rows of n, ascending."""
    rows = np.random.default_rng(seed).choice(n, min(size, n), replace=False)
    return np.sort(rows).astype(np.int64)


def sampled(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Up to SAMPLE of some ascending rows, ascending."""
    return rows[sample_rows(len(rows), SAMPLE, seed)]


def audit(repo: Repo, key: EntityKey, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> Audit:
    """Compares items of a snapshot with `get_online_features`, value by value.

    Args:
        repo: The repository.
        key: Of items.
        snapshot: As it was written.
        rows: [m] rows to compare.

    Raises:
        JobFailed: a value differs although the online row is no newer; names the feature and the items.
    """
    references = snapshot.references
    if not references or not len(rows):
        return Audit(len(rows), 0, 0)
    answers = ask_feast(repo, key, references, snapshot.keys_of(rows).tolist())
    compared, drifted = 0, 0
    for reference in references:
        column, answer = snapshot.gather(reference, rows), answers[reference]
        moved, wrong = _compare(column, answer)
        if wrong:
            raise JobFailed(_complaint(reference, snapshot.ids_of(rows), column, answer, wrong), field=reference)
        drifted += moved
        compared += len(rows) - moved
    return Audit(len(rows), compared, drifted)


def _compare(column: Column, answer: Answer) -> tuple[int, list[int]]:
    """Number of values with a newer row, and the positions of those that differ without one."""
    drifted, wrong = 0, []
    ours = column.to_list()
    for n, (mine, theirs, moment) in enumerate(zip(ours, answer.values, answer.moments, strict=True)):
        if int(moment) > column.timestamps[n]:
            drifted += 1
        elif column.status[n] == FieldStatus.OUTSIDE_MAX_AGE and not column.valid[n]:
            continue  # the view's policy hides a value that Feast still shows
        elif not same_value(mine, theirs):
            wrong.append(n)
    return drifted, wrong


def _complaint(reference: str, ids: Sequence[str], column: Column, answer: Answer, wrong: Sequence[int]) -> str:
    named = ", ".join(ids[n] for n in wrong[:_NAMED])
    more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
    first = wrong[0]
    return (
        f"audit: {reference} differs from get_online_features for items {named}{more}; for {ids[first]} the snapshot "
        f"has {column.to_list()[first]!r}, Feast {answer.values[first]!r}. Nothing was published; materialize again"
    )
