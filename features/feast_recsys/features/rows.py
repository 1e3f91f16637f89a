"""From the rows that an online store gives to columns, and what goes wrong on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from feast_recsys.bundle.columns import Column
from feast_recsys.bundle.errors import OnlineStoreUnavailable
from feast_recsys.features.decode import Decoder
from feast_recsys.features.feast_api import Value
from feast_recsys.features.plan import ViewPlan
from feast_recsys.features.row_decoder import RowDecoder

LARGEST_READ = 10_000
"""Keys in one read: SQLite takes 32,766 in one statement unless built otherwise."""

Rows = Sequence[tuple[datetime | None, dict[str, Value] | None]]
"""What `OnlineStore.online_read` returns."""


class ViewDecoder:
    """Decodes rows of one view.

    Args:
        view: The view; read by `OnlineStore.online_read`.
    """

    def __init__(self, view: ViewPlan) -> None:
        self._view = view
        self._decoders = tuple((slot.reference, slot.feature, Decoder(slot, view.stale)) for slot in view.slots)
        self._one = RowDecoder(view)

    def decode(self, rows: Rows) -> dict[str, Column]:
        """The columns of n rows, by reference; raises what `Decoder.decode` raises."""
        features = [row or {} for _, row in rows]
        if len(rows) == 1:
            columns: dict[str, Column] = {}
            messages = [features[0].get(name) for name in self._view.features]
            self._one.decode(messages, unix_seconds(rows[0][0]), columns)
            return columns
        timestamps = np.array([unix_seconds(moment) for moment, _ in rows], np.int64)
        stale = stale_rows(self._view, timestamps)
        return {
            reference: decoder.decode([row.get(feature) for row in features], timestamps, stale)
            for reference, feature, decoder in self._decoders
        }


def unix_seconds(moment: datetime | None) -> int:
    """An event time as whole seconds; 0 for none. Without a time zone it is UTC."""
    if moment is None:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return int(moment.timestamp())


def stale_rows(view: ViewPlan, timestamps: npt.NDArray[np.int64]) -> list[bool] | None:
    """Whether each row is older than the view's ttl; None if the view has none."""
    if view.ttl <= 0:
        return None
    oldest = time.time() - view.ttl
    return [0 < t < oldest for t in timestamps.tolist()]


def unavailable(views: str, error: Exception) -> OnlineStoreUnavailable:
    """The error for whatever a store's driver raised."""
    return OnlineStoreUnavailable(
        f"reading {views} from the online store failed: {type(error).__name__}: {error}", field=views
    )
