"""Progress of long work on the terminal: one line a step, with a bar while it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


@contextmanager
def waiting(text: str, console: Console | None = None) -> Iterator[None]:
    """Shows that something goes on which can't say how far it is. Where no person looks on, it prints nothing.

    Args:
        text: What goes on.
        console: Where to draw; standard error by default.
    """
    console = console or Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as shown:
        shown.add_task(text, total=None)
        yield


class StepProgress:
    """Shows steps that come one after the other. Where no person looks on, it prints only the finished ones.

    Args:
        console: Where to draw; standard error by default, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._step = ""
        self._started = 0.0

    def __enter__(self) -> StepProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None and self._task is not None:
            self._line("red", "✗", "failed")
        self._progress.stop()

    def start(self, step: str) -> None:
        """A step begins."""
        self._step, self._started = step, time.monotonic()
        self._task = self._progress.add_task(step, total=None)

    def progress(self, done: int, total: int) -> None:
        """So much of the current step is done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=total)

    def done(self, outcome: str) -> None:
        """The current step has succeeded."""
        self._line("green", "✓", outcome)

    def _line(self, colour: str, mark: str, outcome: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        seconds = time.monotonic() - self._started
        self._console.print(f"  [{colour}]{mark}[/{colour}] {self._step}: {outcome} [dim]{seconds:.1f} s[/dim]")
