"""What long work tells while it runs. Whoever calls owns the terminal."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Hears how far the work is. Steps come one after the other, in the thread that does the work."""

    def start(self, step: str) -> None:
        """A step begins; `step` names it for people."""

    def progress(self, done: int, total: int) -> None:
        """So much of the current step is done. Steps that can't tell never call it."""

    def done(self, outcome: str) -> None:
        """The current step has succeeded; `outcome` says in a few words what it did."""


class Silent:
    """A reporter that tells nobody."""

    def start(self, step: str) -> None:
        """See Reporter."""

    def progress(self, done: int, total: int) -> None:
        """See Reporter."""

    def done(self, outcome: str) -> None:
        """See Reporter."""


SILENT = Silent()
"""A reporter that tells nobody."""
