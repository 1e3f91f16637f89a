"""Which tensors of items hold one row an item, whatever else is in the batch and however long lists are padded."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Graph, Side
from feast_recsys.exporters.split.dependence import Cause, cause_of
from feast_recsys.exporters.split.net import Net
from feast_recsys.exporters.split.shapes import CANDIDATES, Feed, Observed, Tracer

_CLOSE = 1e-4  # of the scale of a tensor: products of other sizes are summed in another order


def dependent_tensors(net: Net, graph: Graph, seen: Observed, feed: Feed, tensors: Collection[str]) -> set[str]:
    """Those of the tensors in which the row of an item depends on the other items, or on the padding of its lists.

    Args:
        net: The graph.
        graph: Its inputs.
        seen: Its tensors.
        feed: Raw inputs of at least three candidates.
        tensors: Of items, each with one axis of candidates.
    """
    items = [s.name for s in graph.inputs if cause_of(s) in (Cause.ITEM, Cause.REQUEST) and s.name in net.inputs]
    size = len(feed[items[0]])
    tracer = Tracer(net)
    together = tracer.run(feed, size)
    wrong = set[str]()
    for rows in (np.arange(size)[::-1], np.array([size - 1]), np.array([0, 0, 1])):
        part = tracer.run({**feed, **{name: feed[name][rows] for name in items}}, len(rows))
        wrong |= {n for n in tensors if not _same_rows(seen, n, together, part, rows)}
    short, every = _shortened(graph, feed), np.arange(size)
    longer, shorter = (tracer.run(each, size) for each in (pad_items(graph, short), short))
    return wrong | {n for n in tensors if not _same_rows(seen, n, longer, shorter, every)}


def pad_items(graph: Graph, feed: Feed) -> dict[str, Array]:
    """The feed with lists of items padded to their greatest length."""
    padded = dict(feed)
    for spec in graph.inputs:
        if spec.side is Side.ITEM and spec.max_length is not None:
            values = feed[spec.name]
            padded[spec.name] = np.full((len(values), spec.max_length), spec.pad, spec.dtype.numpy)
            padded[spec.name][:, : values.shape[1]] = values
    return padded


def _shortened(graph: Graph, feed: Feed) -> dict[str, Array]:
    """The feed with lists of items cut to half their greatest length."""
    lists = {s.name: (s.max_length + 1) // 2 for s in graph.inputs if s.side is Side.ITEM and s.max_length is not None}
    return {name: values[:, : lists[name]] if name in lists else values for name, values in feed.items()}


def _same_rows(seen: Observed, name: str, all_: Mapping[str, Array], part: Mapping[str, Array], rows: Array) -> bool:
    axis = seen.shapes[name].index(CANDIDATES)
    expected, actual = np.take(all_[name], rows, axis), part[name]
    if expected.shape != actual.shape:
        return False
    if expected.dtype.kind != "f":
        return bool((expected == actual).all())
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return bool(np.allclose(actual, expected, rtol=0, atol=_CLOSE * scale, equal_nan=True))
