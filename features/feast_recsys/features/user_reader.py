"""The read of a user on the path of a request, or of several at once: begun, left alone while the caller works, and
then waited for.

A reader is for a store whose reads can be bounded on the calling thread. For any other there is none, and the server
reads through `OnlineReader` in threads of its own, which may hang without the request hanging with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from feast_recsys.bundle.columns import Column
from feast_recsys.features.plan import ReadPlan
from feast_recsys.features.repo import Repo
from feast_recsys.features.request_values import NO_REQUEST


class Pending(Protocol):
    """A read that has begun. One of its two methods is to be called, once."""

    def result(self, timeout: float) -> dict[str, Column]:
        """Waits for the read.

        Args:
            timeout: Seconds from now.

        Returns:
            By reference, in the order of the plan, a column of one row for each key.

        Raises:
            OnlineStoreUnavailable: the store failed, or did not answer in time.
            StaleFeature: see `recsys.serving.stale`.
            InvalidRepository: a stored value does not fit the declared type.
        """

    def abandon(self) -> None:
        """Gives the read up: nobody will wait for it."""


class UserReader(Protocol):
    """Reads rows of what a plan names. Threads may share it."""

    def begin(self, key: Mapping[str, int | str], request: Mapping[str, Any] = NO_REQUEST) -> Pending:
        """Begins a read, without waiting for the store.

        Args:
            key: An id by each of the plan's join keys; it may be the text of a number. Further ones are ignored.
            request: A value by each of the plan's request fields.

        Raises:
            InvalidArgument: a join key is missing, null or of another type; names it.
        """

    def begin_many(self, keys: Sequence[Mapping[str, int | str]], request: Mapping[str, Any] = NO_REQUEST) -> Pending:
        """As `begin` for one key at least, the same request for all, in one round trip."""


def as_rows(rows: Sequence[dict[str, Column]]) -> dict[str, Column]:
    """One row each, by reference, as columns of as many rows."""
    if len(rows) == 1:
        return rows[0]
    return {reference: Column.concatenate([row[reference] for row in rows]) for reference in rows[0]}


def user_reader(repo: Repo, plan: ReadPlan) -> UserReader | None:
    """A reader for a plan; None if its store has none, or if some of its views only `get_online_features` can read.

    Args:
        repo: The repository. A connection to the store is made when the first read begins.
        plan: What to read, compiled from the same repository.
    """
    if any(view.table is None for view in plan.views):
        return None
    store = type(repo.store.provider.online_store)
    # By name, because importing a store demands its driver.
    if (store.__module__, store.__name__) == ("feast.infra.online_stores.redis", "RedisOnlineStore"):
        from feast_recsys.features.redis_reader import redis_reader

        return redis_reader(repo, plan)
    if (store.__module__, store.__name__) == ("feast.infra.online_stores.sqlite", "SqliteOnlineStore"):
        from feast_recsys.features.sqlite_reader import SqliteReader

        return SqliteReader(repo, plan)
    return None
