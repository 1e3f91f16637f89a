"""Feast's own materialization, view by view."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.features.repo import Repo
from feast_recsys.jobs.new_rows import write_new_rows
from feast_recsys.jobs.report import Mode

BEGINNING = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class FeastOutcome:
    """What became of the feature views.

    Attributes:
        materialized: Views that were brought up to date.
        current: Views that were there already.
        skipped: Views that can't be materialized, with the reason.
    """

    materialized: tuple[str, ...]
    current: tuple[str, ...]
    skipped: Mapping[str, str]


def materialize_views(
    repo: Repo, mode: Mode, as_of: datetime, progress: Callable[[int, int], None] | None = None
) -> FeastOutcome:
    """Copies features from the offline to the online store, by Feast's own means and with Feast's own engine.

    Incremental continues each view where it stood; a view that never was materialized, and every view in full mode,
    starts from the beginning. (Feast's own incremental run would begin at now minus ttl, or fail without a ttl.)
    Where the source is local, only the new rows are read; see `new_rows`.

    Args:
        repo: The repository.
        mode: `incremental` or `full`.
        as_of: End of the range; not in the future, because Feast's next incremental run starts from there.
        progress: Called with the number of views done and the total. Feast tells nothing finer.

    Raises:
        JobFailed: Feast failed; names the view.
    """
    repo.store.refresh_registry()  # type: ignore[no-untyped-call]  # Feast has no annotation here
    views, skipped = _views(repo)
    materialized, current = [], []
    for n, view in enumerate(views):
        if progress is not None:
            progress(n, len(views))
        if _materialize(repo, view, mode, as_of):
            materialized.append(view.name)
        else:
            current.append(view.name)
    if progress is not None:
        progress(len(views), len(views))
    return FeastOutcome(tuple(materialized), tuple(current), skipped)


def _views(repo: Repo) -> tuple[list[Any], dict[str, str]]:
    """Views to materialize, on-demand ones after the views that they are made of."""
    registry, project = repo.store.registry, repo.store.project
    plain = [*registry.list_feature_views(project), *registry.list_stream_feature_views(project)]
    views, skipped = [], {}
    for view in sorted(plain, key=lambda v: str(v.name)):
        if not view.enabled:
            skipped[view.name] = "it is disabled"
        elif not view.online:
            skipped[view.name] = "it is declared online=False"
        elif view.batch_source is None:
            skipped[view.name] = "it has no batch source, only what is pushed"
        else:
            views.append(view)
    on_demand = sorted(registry.list_on_demand_feature_views(project), key=lambda v: str(v.name))
    return [*views, *(v for v in on_demand if v.write_to_online_store and v.enabled)], skipped


def _materialize(repo: Repo, view: Any, mode: Mode, as_of: datetime) -> bool:
    """Whether there was anything to do."""
    # On-demand views keep no record of what was done.
    reached = getattr(view, "most_recent_end_time", None)
    if reached is not None and reached.tzinfo is None:
        reached = reached.replace(tzinfo=timezone.utc)
    if mode == "incremental" and reached is not None and reached >= as_of:
        return False
    # Feast prints coloured lines, which would tear the progress bars; the libraries below it warn about one another.
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            if mode == "incremental" and reached is not None and write_new_rows(repo, view, reached, as_of):
                return True
            if mode == "incremental" and reached is not None:
                repo.store.materialize_incremental(as_of, feature_views=[view.name])
            else:
                repo.store.materialize(BEGINNING, as_of, feature_views=[view.name])
        except Exception as error:  # sources, engines and stores raise whatever their drivers raise
            raise JobFailed(
                f"Feast could not materialize feature view {view.name!r}: {type(error).__name__}: {error}",
                field=str(view.name),
            ) from error
    return True
