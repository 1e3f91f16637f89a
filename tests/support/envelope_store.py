"""An online store that, like Feast's remote one, only answers through `get_online_features`."""

from __future__ import annotations

from typing import Any, Literal

from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig


class EnvelopeSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    type: Literal["support.envelope_store.EnvelopeSqliteOnlineStore"] = (  # type: ignore[assignment]
        "support.envelope_store.EnvelopeSqliteOnlineStore"
    )


class EnvelopeSqliteOnlineStore(SqliteOnlineStore):
    """SQLite whose envelope is its own."""

    def get_online_features(self, *args: Any, **options: Any) -> Any:
        return super().get_online_features(*args, **options)
