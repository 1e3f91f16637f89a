"""What a person sees while something goes on, and a log does not."""

from __future__ import annotations

import io

from rich.console import Console

from feast_recsys.cli.progress import StepProgress, waiting


def test_a_person_sees_what_goes_on_and_no_trace_of_it_afterwards():
    seen = io.StringIO()
    with waiting("open the repository", Console(file=seen, force_terminal=True, width=80)):
        pass
    assert "open the repository" in seen.getvalue()
    assert seen.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_a_log_has_nothing_but_finished_steps():
    log = io.StringIO()
    with waiting("open the repository", Console(file=log)):
        pass
    assert log.getvalue() == ""
    with StepProgress(Console(file=log, width=80)) as progress:
        progress.start("read")
        progress.progress(1, 2)
        progress.done("2 items")
    assert "✓ read: 2 items" in log.getvalue()
    assert "1/2" not in log.getvalue()
