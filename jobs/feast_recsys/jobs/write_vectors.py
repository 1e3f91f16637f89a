"""Vectors on their way back to Feast: to the offline store first, then online, then read back."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import InvalidRepository, JobFailed, RecsysError
from feast_recsys.bundle.signature import Side
from feast_recsys.features.feast_api import FeatureView
from feast_recsys.features.local_rows import local_path
from feast_recsys.features.repo import EntityKey, Repo
from feast_recsys.features.schema import get_view
from feast_recsys.jobs.embed import Rows, Vectors
from feast_recsys.jobs.feast_values import Answer, ask_feast, same_value

_ROWS_PER_WRITE = 10_000
_PREFIX = "recsys-"
_CHANGES = "-changes.parquet"
_MOST_CHANGES = 100


@dataclass(frozen=True)
class VectorView:
    """A feature view that takes the vectors of items, or of users.

    Attributes:
        view: As Feast caches it; never changed.
        features: Name of the feature by recommender.
        path: Its source if that is a local Parquet file, or a folder with one for each materialization; None if it is
            something else.
    """

    view: Any
    features: Mapping[str, str]
    path: Path | None

    @property
    def is_folder(self) -> bool:
        """Whether `path` is a folder, or will be one."""
        return self.path is not None and (self.path.is_dir() or not (self.path.exists() or self.path.suffix))

    @property
    def references(self) -> dict[str, str]:
        """`view:feature` by recommender."""
        return {recommender: f"{self.view.name}:{feature}" for recommender, feature in self.features.items()}


def vector_views(repo: Repo, side: Side = Side.ITEM) -> list[VectorView]:
    """The views that the recommenders name in `retrieval.vectors`, or for users in `retrieval.user_vectors`.

    Raises:
        InvalidRepository: a view does not exist, or has a feature that no recommender fills.
    """
    wanted: dict[str, dict[str, str]] = {}
    for recommender, settings in repo.settings.recommenders.items():
        reference = settings.retrieval.vectors if side is Side.ITEM else settings.retrieval.user_vectors
        if reference is not None:
            view, _, feature = reference.partition(":")
            wanted.setdefault(view, {})[recommender] = feature
    found = []
    for name, features in wanted.items():
        view = get_view(repo, name)
        others = sorted({field.name for field in view.features} - set(features.values()))
        if others or not isinstance(view, FeatureView):
            raise InvalidRepository(
                f"feature view {name!r} is to take {side.value} vectors, but also has "
                f"{', '.join(others) or 'a transformation'}; give the vectors a plain feature view of their own",
                field=name,
            )
        if len(set(features.values())) < len(features):
            raise InvalidRepository(
                f"two recommenders write their vectors to the same feature of {name!r}; give each its own", field=name
            )
        found.append(VectorView(view, features, local_path(repo, view)))
    return found


def write_vectors(
    repo: Repo,
    target: VectorView,
    key: EntityKey,
    ids: Array,
    vectors: Mapping[str, Vectors],
    *,
    after: float,
    keep: int,
    rows: Rows | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> datetime:
    """Writes the vectors of items, or of users, to both stores.

    The offline store comes first: should the job die in between, Feast's own materialization brings the rest online.
    In the end Feast's registry learns how far the view is online, so that no materialization does it again.

    Args:
        repo: The repository.
        target: Where to.
        key: Of items, or of users.
        ids: [n] ids.
        vectors: By recommender, [n, d].
        after: Unix seconds that the rows must be newer than, because stores ignore rows that are not.
        keep: Number of own files with all vectors to keep in a folder of Parquet files, with the changes after the
            oldest of these.
        rows: Rows to write, ascending; None for all.
        progress: Called with the number of rows written online and of those to write.

    Returns:
        The event timestamp of the rows.

    Raises:
        JobFailed: a store refused the rows.
    """
    moment = datetime.now(timezone.utc)
    if moment.timestamp() <= after:
        moment = datetime.fromtimestamp(after, timezone.utc) + timedelta(seconds=1)
    name = str(target.view.name)
    every = np.arange(len(ids))
    some = every if rows is None else rows
    try:
        if target.view.batch_source is not None:
            all_offline = len(some) == len(ids) or _many_changes(target)
            offline = _frame(target, key, ids, vectors, every if all_offline else some, moment)
            _write_offline(repo, target, offline, moment, keep if all_offline else None)
        for start in range(0, len(some), _ROWS_PER_WRITE):
            part = some[start : start + _ROWS_PER_WRITE]
            repo.store.write_to_online_store(name, df=_frame(target, key, ids, vectors, part, moment))
            if progress is not None:
                progress(min(start + _ROWS_PER_WRITE, len(some)), len(some))
        if target.view.batch_source is not None:
            repo.store.registry.apply_materialization(target.view, repo.store.project, moment, moment)
    except RecsysError:
        raise
    except Exception as error:  # stores raise whatever their drivers raise
        raise JobFailed(
            f"vectors could not be written to feature view {name!r}: {type(error).__name__}: {error}", field=name
        ) from error
    return moment


def stored_vectors(repo: Repo, target: VectorView, key: EntityKey, ids: Sequence[int | str]) -> dict[str, Answer]:
    """What the online store holds for some items or users, by recommender.

    Raises:
        JobFailed: Feast can't answer.
    """
    references = target.references
    if not len(ids):
        return {recommender: Answer([], []) for recommender in references}
    answers = ask_feast(repo, key, list(references.values()), ids)
    return {recommender: answers[reference] for recommender, reference in references.items()}


def differing(answer: Answer, vectors: Vectors, rows: Rows) -> list[int]:
    """The rows whose stored vector is not, bit by bit, the given one."""
    pairs = zip(rows.tolist(), answer.values, strict=True)
    return [row for row, stored in pairs if not same_value(vectors[row].tolist(), stored)]


def _frame(
    target: VectorView, key: EntityKey, ids: Array, vectors: Mapping[str, Vectors], part: Rows, moment: datetime
) -> pd.DataFrame:
    """Rows under the names of the source's columns, which Feast maps to its own."""
    source = target.view.batch_source
    original = {new: old for old, new in ((source.field_mapping or {}) if source is not None else {}).items()}
    columns: dict[str, Any] = {original.get(key.join_key, key.join_key): ids[part]}
    for recommender, feature in target.features.items():
        columns[original.get(feature, feature)] = list(vectors[recommender][part])
    frame = pd.DataFrame(columns)
    stamp = source.timestamp_field if source is not None else "event_timestamp"
    frame[original.get(stamp, stamp)] = pd.Timestamp(moment)
    if source is not None and source.created_timestamp_column:
        created = source.created_timestamp_column
        frame[original.get(created, created)] = pd.Timestamp(moment)
    return frame


def _many_changes(target: VectorView) -> bool:
    """Whether a folder holds so many files with changes that one with all vectors should follow."""
    return target.is_folder and target.path is not None and len(list(target.path.glob(f"*{_CHANGES}"))) >= _MOST_CHANGES


def _write_offline(repo: Repo, target: VectorView, frame: pd.DataFrame, moment: datetime, keep: int | None) -> None:
    name = str(target.view.name)
    if target.path is None:
        repo.store.write_to_offline_store(name, frame)
        return
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if not target.is_folder:
        if target.path.exists():
            before = pq.read_table(target.path)
            table = pa.concat_tables([before, _as_in(before.schema, table, target)])
        _replace(target.path, table)
        return
    target.path.mkdir(parents=True, exist_ok=True)
    there = sorted(target.path.glob("*.parquet"))
    if there:
        table = _as_in(pq.read_schema(there[0]), table, target)
    ending = _CHANGES if keep is None else ".parquet"
    _replace(target.path / f"{_PREFIX}{moment:%Y%m%dT%H%M%S.%fZ}{ending}", table)
    if keep is None:
        return
    # What is older than the oldest kept file with all vectors counts no more.
    own = sorted(path.name for path in target.path.glob(f"{_PREFIX}*.parquet"))
    kept = [name for name in own if not name.endswith(_CHANGES)][-keep:]
    for name in own[: own.index(kept[0])]:
        (target.path / name).unlink()


def _replace(path: Path, table: pa.Table) -> None:
    """Writes the whole file or none of it. Feast would rewrite it in place, and lose all if it died on the way."""
    beside = path.with_name(f".{path.name}")  # readers of a folder pass over names with a dot
    pq.write_table(table, beside)
    os.replace(beside, path)


def _as_in(schema: pa.Schema, table: pa.Table, target: VectorView) -> pa.Table:
    """The table with the columns and types of the file that is there."""
    if set(schema.names) != set(table.schema.names):
        raise InvalidRepository(
            f"{target.path}, the source of feature view {target.view.name!r}, has the columns "
            f"{', '.join(schema.names)}; vectors need {', '.join(table.schema.names)}",
            field=str(target.view.name),
        )
    return table.select(schema.names).cast(schema)
