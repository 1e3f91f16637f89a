"""First steps with a graph: lists are padded, constants computed, and shapes named by the number of candidates."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from onnx import NodeProto
from onnx import helper as oh

from feast_recsys.bundle.signature import Graph
from feast_recsys.exporters.split.dependence import Cause, Kind, cause_of, causes, kind_of, shaped_only
from feast_recsys.exporters.split.net import Net, value_info
from feast_recsys.exporters.split.shapes import CANDIDATES, Feed, Observed, fixed, observe

_LARGEST_SHAPE = 16  # elements of what counts as shape arithmetic
_LARGEST_FOLDED = 1 << 24  # bytes


def paddable(graph: Graph) -> tuple[str, ...]:
    """Lists of the catalogue's items, which can be padded to one length for all."""
    return tuple(s.name for s in graph.inputs if cause_of(s) is Cause.ITEM and (s.max_length or 0) > 1)


def pad_lists(net: Net, graph: Graph, names: Collection[str]) -> dict[str, str]:
    """Pads lists to their greatest length, so that what is made of them has one shape for all items.

    Args:
        net: Altered in place.
        graph: The inputs.
        names: Which lists.

    Returns:
        The padded tensors by the names of the lists.
    """
    padded, nodes = dict[str, str](), list[NodeProto]()
    for spec in graph.inputs:
        if spec.name not in names or spec.name not in net.inputs or spec.max_length is None:
            continue
        most = net.constant(np.array([spec.max_length], np.int64))
        value = np.empty((1, 1), spec.dtype.numpy)
        value[:] = spec.pad
        pad = net.constant(value)
        rows, length, missing, shape, tail, whole = (
            net.fresh(f"split/{spec.name}/{what}") for what in ("rows", "length", "missing", "shape", "tail", "padded")
        )
        nodes += [
            oh.make_node("Shape", [spec.name], [rows], start=0, end=1),
            oh.make_node("Shape", [spec.name], [length], start=1, end=2),
            oh.make_node("Sub", [most, length], [missing]),
            oh.make_node("Concat", [rows, missing], [shape], axis=0),
            oh.make_node("Expand", [pad, shape], [tail]),
            oh.make_node("Concat", [spec.name, tail], [whole], axis=1),
        ]
        padded[spec.name] = whole
    net.substitute(padded)
    net.nodes = [*nodes, *net.nodes]
    return padded


def fold(net: Net, graph: Graph, feeds: Sequence[Feed]) -> Observed:
    """Replaces constant tensors by their values, and shapes by the number of candidates where that is all they hold.

    Args:
        net: Altered in place; gets `net.count` as an input if something needs it.
        graph: The inputs.
        feeds: At each of SIZES.

    Returns:
        The tensors of the altered graph.
    """
    seen = observe(net, feeds)
    free, found = shaped_only(net), causes(net, graph)
    kept = list[NodeProto]()
    for node in net.nodes:
        if len(node.output) == 1 and (name := node.output[0]) in seen.shapes:
            value = seen.values[0][name]
            constant = kind_of(found[name]) is Kind.CONSTANT and value.nbytes <= _LARGEST_FOLDED
            if constant or (name in free and _same_everywhere(seen, name)):
                net.constants[name] = np.asarray(value)
                continue
            if name in free and (made := _from_count(net, seen, name)) is not None:
                kept += made
                continue
        kept.append(node)
    net.nodes = kept
    net.prune()
    return observe(net, feeds)


def _is_shape(seen: Observed, name: str) -> bool:
    value = seen.values[0][name]
    return (
        value.dtype in (np.int64, np.int32)
        and value.ndim <= 1
        and value.size <= _LARGEST_SHAPE
        and all(map(fixed, seen.shapes[name]))
    )


def _same_everywhere(seen: Observed, name: str) -> bool:
    first = seen.values[0][name]
    return _is_shape(seen, name) and all(np.array_equal(first, each[name]) for each in seen.values)


def _from_count(net: Net, seen: Observed, name: str) -> list[NodeProto] | None:
    """Nodes that make a shape of the number of candidates; None if it holds other sizes as well."""
    if not _is_shape(seen, name) or seen.dtype(name) != np.int64:
        return None
    sizes = [tuple(map(int, each)) for each in zip(*(np.atleast_1d(v[name]) for v in seen.values), strict=True)]
    if not all(fixed(size) or size == CANDIDATES for size in sizes):
        return None
    net.inputs.setdefault(net.count, value_info(net.count, np.dtype(np.int64), [1]))
    if seen.values[0][name].ndim == 0:
        axes = net.constant(np.array([0], np.int64))
        return [oh.make_node("Squeeze", [net.count, axes], [name])]
    if len(sizes) == 1:
        return [oh.make_node("Identity", [net.count], [name])]
    elements = [net.constant(np.array(size[:1], np.int64)) if fixed(size) else net.count for size in sizes]
    return [oh.make_node("Concat", elements, [name], axis=0)]
