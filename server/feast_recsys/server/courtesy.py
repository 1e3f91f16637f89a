"""Background work that leaves the interpreter to the calls as soon as one of them wants it."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

SECONDS = 0.0002
"""How long a thread may keep the interpreter while others wait for it. Python's own 5 ms are several calls long, and a
call waits for the interpreter several times."""


class Courtesy:
    """Shortens Python's switch interval as long as anybody is inside. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._usual = 0.0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._usual = sys.getswitchinterval()
                sys.setswitchinterval(SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._usual)
