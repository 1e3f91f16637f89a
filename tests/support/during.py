"""A reporter that does something in the middle of a job."""

from __future__ import annotations

from collections.abc import Callable

from feast_recsys.bundle.progress import Silent


class During(Silent):
    """Does something the moment a step begins, or first tells its progress."""

    def __init__(self, step: str, action: Callable[[], None], *, on_progress: bool = False) -> None:
        self._step, self._action, self._on_progress = step, action, on_progress
        self._now = ""

    def start(self, step: str) -> None:
        self._now = step
        if step.startswith(self._step) and not self._on_progress:
            self._action()

    def progress(self, done: int, total: int) -> None:
        if self._now.startswith(self._step) and self._on_progress and done == total:
            self._action()
