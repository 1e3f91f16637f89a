"""What `doctor` finds, and how a check that fails in an unforeseen way becomes a finding too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from feast_recsys.bundle.errors import RecsysError

Severity = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One fact about a repository.

    Attributes:
        severity: `error` can't be served, `warning` can but should not stay so, `ok` is as it should be.
        subject: What it is about: a setting, view, model or bundle.
        message: What was found.
        remedy: What to do; empty if nothing.
    """

    severity: Severity
    subject: str
    message: str
    remedy: str = ""


Check = Callable[[], Iterable[Finding]]


def ok(subject: str, message: str) -> Finding:
    """A finding that needs nothing."""
    return Finding("ok", subject, message)


def run_checks(checks: Iterable[tuple[str, Check]]) -> Iterator[Finding]:
    """Runs checks one after the other; one that raises yields what it has found so far, and its error.

    Args:
        checks: Subject and check.
    """
    for subject, check in checks:
        try:
            yield from check()
        except RecsysError as error:
            yield Finding("error", error.field or subject, error.message)
        except Exception as error:
            yield Finding("error", subject, f"could not be checked: {type(error).__name__}: {error}")
