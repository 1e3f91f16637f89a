"""How long a call may still take, and whether anybody still waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from feast_recsys.bundle.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of one call.

    Attributes:
        expires: On the clock of `time.monotonic`, in seconds; infinite for none.
        active: Whether the caller still waits.
    """

    expires: float = math.inf
    active: Callable[[], bool] = lambda: True

    @classmethod
    def within(cls, seconds: float | None, active: Callable[[], bool] = lambda: True) -> Deadline:
        """A deadline that many seconds from now; None for none."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds, active)

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(self.expires - time.monotonic(), 0.0)

    def check(self, done: str) -> None:
        """Ends a call that nobody waits for.

        Args:
            done: What was finished last, for the message.

        Raises:
            DeadlineExceeded: the time is up, or the caller cancelled.
        """
        if time.monotonic() >= self.expires:
            raise DeadlineExceeded(f"the deadline passed; the last thing done was: {done}")
        if not self.active():
            raise DeadlineExceeded(f"the call was cancelled; the last thing done was: {done}")
