"""Whether candidates of several users can go through the cross part in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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


def stack(passed: Sequence[Passed], users: Sequence[Feed], counts: Sequence[int]) -> dict[str, Array]:
    """Tensors of several users, each repeated for that user's candidates.

    A server does the same: a tensor `t` of the user part becomes `numpy.repeat(t, n, axis=stack)`, with the axis that
    the signature names, and the results of all users are concatenated along it. Tensors of items are concatenated along
    their own axis of candidates and raw inputs along their first, in the same order; the number of candidates is the
    sum, and the output comes in that order. The other axes of a tensor must be equal for all users: where one is None,
    users whose tensors differ in shape are kept apart.

    Args:
        passed: What the user part hands over, with its axes.
        users: What it handed over, by name, for each user.
        counts: Candidates of each user.
    """
    stacked = {}
    for p in passed:
        assert p.stack is not None
        rows = [np.repeat(user[p.name], n, p.stack) for user, n in zip(users, counts, strict=True)]
        stacked[p.name] = np.concatenate(rows, p.stack)
    return stacked


def stacking_axes(from_user: Sequence[Passed], from_item: Sequence[Passed]) -> Iterator[tuple[int, ...]]:
    """What may be the axis of the candidates in each tensor of the user part, the likeliest first.

    It has size 1 there. Broadcasting aligns last axes, so it stands as far from the last one as that of the items'
    tensors; where these don't agree, it may be the first of all.
    """
    from_last = dict.fromkeys(len(p.shape) - p.axis for p in from_item) or (1, 2)
    choices = [[len(p.shape) - distance for p in from_user] for distance in from_last] + [[0] * len(from_user)]
    for axes in dict.fromkeys(map(tuple, choices)):
        if all(0 <= axis < len(p.shape) and p.shape[axis] == 1 for p, axis in zip(from_user, axes, strict=True)):
            yield axes


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
        actual = running.cross(stack(parts.from_user, users, _COUNTS), together, raw, sum(_COUNTS))
    except Exception:  # ONNX Runtime has no common base class for its errors, and refuses shapes that don't fit
        return False
    expected = np.concatenate(apart)
    return actual.shape == expected.shape and difference(expected, actual)[1] <= tolerance
