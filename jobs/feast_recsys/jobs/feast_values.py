"""Feast's own answer about items, taken apart without the code that it is meant to check."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feast_recsys.bundle.errors import JobFailed
from feast_recsys.features.repo import EntityKey, Repo

_NULL_TIMESTAMP = -(2**63)


@dataclass(frozen=True)
class Answer:
    """Values of one feature as `get_online_features` gives them.

    Attributes:
        values: One per item: None, a Python scalar or a list; timestamps as unix seconds.
        moments: Event time of each in unix seconds, 0 where there is no row.
    """

    values: list[Any]
    moments: list[float]


def ask_feast(repo: Repo, key: EntityKey, references: Sequence[str], ids: Sequence[int | str]) -> dict[str, Answer]:
    """Answers by reference, for items in the given order.

    Raises:
        JobFailed: Feast can't answer.
    """
    try:
        response = repo.store.get_online_features(
            features=list(references), entity_rows={key.join_key: list(ids)}, full_feature_names=True
        ).proto
    except Exception as error:  # stores raise whatever their drivers raise
        raise JobFailed(f"get_online_features failed: {type(error).__name__}: {error}") from error
    by_name = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    answers = {}
    for reference in references:
        vector = by_name[reference.replace(":", "__", 1)]
        moments = [t.seconds + t.nanos / 1e9 for t in vector.event_timestamps] or [0.0] * len(ids)
        answers[reference] = Answer([_python(value) for value in vector.values], moments)
    return answers


def same_value(ours: Any, theirs: Any) -> bool:
    """Whether a value of ours is Feast's, bit by bit; doubles count as the float32 that models take."""
    if ours is None or theirs is None:
        return ours is theirs
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return False
        return all(same_value(a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, float):
        if not isinstance(theirs, float):
            return False
        with np.errstate(over="ignore"):
            narrow = float(np.float32(theirs))
        return (math.isnan(ours) and math.isnan(narrow)) or ours == narrow
    return type(ours) is type(theirs) and bool(ours == theirs)


def _python(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    content = getattr(value, kind)
    if kind.endswith("_list_val"):
        return list(content.val)
    if kind == "unix_timestamp_val" and content == _NULL_TIMESTAMP:
        return None
    if isinstance(content, float) and math.isnan(content):
        return None
    return content
