"""What a job tells while it runs, and what it did in the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from feast_recsys.bundle.progress import Reporter

Mode = Literal["incremental", "full"]


@dataclass(frozen=True)
class Step:
    """What one step did.

    Attributes:
        name: As the reporter heard it.
        outcome: In a few words.
        counts: Numbers by name, for machines.
        seconds: How long it took.
    """

    name: str
    outcome: str
    counts: Mapping[str, int]
    seconds: float


@dataclass(frozen=True)
class Summary:
    """What a materialization did.

    Attributes:
        mode: `incremental` or `full`.
        as_of: The moment it brought everything up to.
        bundle_id: The current bundle afterwards.
        published: Whether this job published it; False means that there was nothing new.
        items: Number of items in the catalogue.
        steps: In order.
        notes: What people should know: views that were left out, and why.
    """

    mode: Mode
    as_of: datetime
    bundle_id: str
    published: bool
    items: int
    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of all steps."""
        return sum(step.seconds for step in self.steps)

    def __str__(self) -> str:
        if not self.published:
            return f"nothing new: {self.bundle_id} stays current ({self.items} items)"
        return f"published {self.bundle_id} ({self.items} items)"


@dataclass
class Outcome:
    """Filled in by a step while it runs."""

    text: str = "done"
    counts: dict[str, int] = field(default_factory=dict)


class Journal:
    """Collects the steps of one job and passes them on to a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.steps: list[Step] = []
        self.notes: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[Outcome]:
        """Runs the body as a step; a step that raises is not counted as done."""
        outcome, start = Outcome(), time.monotonic()
        self._reporter.start(name)
        yield outcome
        self.steps.append(Step(name, outcome.text, outcome.counts, time.monotonic() - start))
        self._reporter.done(outcome.text)

    def progress(self, done: int, total: int) -> None:
        """Passed on."""
        self._reporter.progress(done, total)
