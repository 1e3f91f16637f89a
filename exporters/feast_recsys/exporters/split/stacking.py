"""Whether candidates of several users can go through the cross part in one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Graph, Side
from feast_recsys.bundle.split import Passed
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.parity import difference
from feast_recsys.exporters.split.parts import RunningParts
from feast_recsys.exporters.split.shapes import Feed

_COUNTS = (4, 1, 9)  # candidates of the users that are tried
_LENGTHS = 1 << 30  # the greatest that lists have


def stack(passed: Sequence[Passed], from_last: int, users: Sequence[Feed], counts: Sequence[int]) -> dict[str, Array]:
    """Tensors of several users, each repeated for that user's candidates.

    A server does the same. Let `from_last` be `Split.candidates_from_last`. A tensor `t` of the user part has size 1
    along `t.ndim - from_last` and becomes `numpy.repeat(t, n, axis=t.ndim - from_last)`; the results of all users are
    concatenated along that axis. Tensors of items are concatenated along their own axis of candidates and raw inputs
    along their first, in the same order; the number of candidates is the sum, and the output comes in that order.
    The other axes of a tensor must be equal for all users: where one is None, pad the users' lists to one length before
    the user part runs, or keep users apart whose tensors differ in shape.

    Args:
        passed: What the user part hands over.
        from_last: The candidates' axis, counted from the last one, which is 1.
        users: What it handed over, by name, for each user.
        counts: Candidates of each user.
    """
    stacked = {}
    for p in passed:
        axis = len(p.shape) - from_last
        rows = [np.repeat(user[p.name], n, axis) for user, n in zip(users, counts, strict=True)]
        stacked[p.name] = np.concatenate(rows, axis)
    return stacked


def can_stack(passed: Sequence[Passed], from_last: int) -> bool:
    """Whether tensors of the user part have one row along the axis of the candidates."""
    return all(len(p.shape) >= from_last and p.shape[len(p.shape) - from_last] == 1 for p in passed)


def is_stackable(running: RunningParts, graph: Graph, sampler: Sampler, tolerance: float) -> bool:
    """Runs the candidates of three users apart and together and compares."""
    parts = running.parts
    sides = {spec.name: spec.side for spec in graph.inputs}
    if any(sides[name] is not Side.ITEM for name in parts.cross_inputs):
        return False
    feeds = [sampler.feed(count, _LENGTHS) for count in _COUNTS]
    users = [running.user(feed) for feed in feeds]
    items = [running.item(feed) for feed in feeds]
    apart = [running.cross(u, i, f, n) for u, i, f, n in zip(users, items, feeds, _COUNTS, strict=True)]
    together = {p.name: np.concatenate([each[p.name] for each in items], p.axis) for p in parts.from_item}
    raw = {name: np.concatenate([feed[name] for feed in feeds]) for name in parts.cross_inputs}
    try:
        actual = running.cross(
            stack(parts.from_user, parts.candidates_from_last, users, _COUNTS), together, raw, sum(_COUNTS)
        )
    except Exception:  # ONNX Runtime has no common base class for its errors, and refuses shapes that don't fit
        return False
    expected = np.concatenate(apart)
    return actual.shape == expected.shape and difference(expected, actual)[1] <= tolerance
