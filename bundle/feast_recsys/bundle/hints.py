"""What messages say beside what is wrong: the name that was likely meant, and a value at a length that can be read."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

_LONGEST_NAME = 200
_SHOWN = 60
_ALIKE = 0.75


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'view:feature'?`, where exactly one known name is likely meant; else nothing.

    Likely are those of the same feature, in whatever view (`year` for `catalogue:year`), else those whose feature is
    written nearly alike. Where there are several, the view decides.
    """
    if not name or len(name) > _LONGEST_NAME:
        return ""
    view, _, feature = name.rpartition(":")
    parts = {other: other.rpartition(":")[::2] for other in known}
    likely = [other for other, (_, its) in parts.items() if its.lower() == feature.lower()]
    likely = likely or [other for other, (_, its) in parts.items() if _alike(its, feature)]
    if len(likely) > 1:
        likely = [other for other in likely if _alike(parts[other][0], view)]
    return f"; did you mean {likely[0]!r}?" if len(likely) == 1 else ""


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _alike(one: str, other: str) -> bool:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio() >= _ALIKE
