"""No queue before a server that is down: while it is, one request in a while tries, and the others fail at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from feast_recsys.bundle.errors import IndexUnavailable

_PAUSE_SECONDS = 1.0

_Result = TypeVar("_Result")


class Breaker:
    """Guards calls of one server. Threads share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._again = 0.0

    def call(self, asked: Callable[[], _Result]) -> _Result:
        """What `asked` gives.

        Raises:
            IndexUnavailable: `asked` raised it; or did so lately, and has not been asked again.
        """
        self._admit()
        try:
            result = asked()
        except IndexUnavailable as error:
            with self._lock:
                self._failure, self._again = error.message, time.monotonic() + _PAUSE_SECONDS
            raise
        if self._failure is not None:
            with self._lock:
                self._failure = None
        return result

    def _admit(self) -> None:
        if self._failure is None:
            return
        with self._lock:
            now = time.monotonic()
            if self._failure is not None and now < self._again:
                raise IndexUnavailable(self._failure)
            # This one tries; the others wait for what it finds, though not for ever.
            self._again = now + _PAUSE_SECONDS
