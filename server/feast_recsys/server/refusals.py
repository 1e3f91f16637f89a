"""What is not taken into service: told once per attempt, and tried again after pauses that double."""

from __future__ import annotations

import logging
import time

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.server.metrics import Metrics

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 60.0
"""Seconds between attempts to load a bundle that was refused; they double up to this."""


class Refusals:
    """The last bundle that was refused, and when to try it again.

    Args:
        metrics: Where attempts are counted.
        pause: Seconds before the second attempt, halved.
    """

    def __init__(self, metrics: Metrics, pause: float) -> None:
        self._metrics, self._first_pause = metrics, pause
        self._name: str | None = None
        self._pause = 0.0
        self._retry_at = 0.0

    def pausing(self, name: str) -> bool:
        """Whether it is too early to try this one again."""
        return name == self._name and time.monotonic() < self._retry_at

    def refuse(self, name: str, error: Exception, stays: str | None) -> None:
        """Tells that a bundle was refused.

        Args:
            name: The bundle, or the pointer where that can't be read.
            error: Why.
            stays: The bundle that is in service instead, None if there is none.
        """
        if name != self._name:
            self._name, self._pause = name, self._first_pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self._retry_at = time.monotonic() + self._pause
        logger.error(
            "bundle %s is refused: %s (%s; next attempt in %.1f s)",
            name,
            error,
            f"bundle {stays} stays in service" if stays is not None else "there is no other",
            self._pause,
            exc_info=None if isinstance(error, RecsysError) else error,
        )
        self._metrics.bundle_refused()

    def forget(self) -> None:
        """Takes note that a bundle was not refused."""
        self._name, self._pause = None, 0.0
