"""Where to cut: which tensors the user part and the item part hand over, and what is computed again instead."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from feast_recsys.bundle.split import DTYPES
from feast_recsys.exporters.split import costs
from feast_recsys.exporters.split.dependence import Causes, Kind, kinds
from feast_recsys.exporters.split.flops import Work, is_view
from feast_recsys.exporters.split.flow import Flow
from feast_recsys.exporters.split.net import Net, needed, reads
from feast_recsys.exporters.split.shapes import CANDIDATES, Observed, fixed

_SOURCE, _SINK = ("", -1), ("", -2)
_INFINITE = float("inf")


@dataclass(frozen=True)
class Cut:
    """How a net is divided.

    Attributes:
        user, item: Nodes of these parts, in order.
        cross: Nodes of the cross part; some of them may be in another part as well.
        from_user, from_item: Tensors handed over, in order.
        raw: Raw inputs that the cross part takes.
    """

    user: tuple[NodeProto, ...]
    item: tuple[NodeProto, ...]
    cross: tuple[NodeProto, ...]
    from_user: tuple[str, ...]
    from_item: tuple[str, ...]
    raw: tuple[str, ...]


def choose_cut(
    net: Net, causes: Mapping[str, Causes], seen: Observed, works: Sequence[Work], unfit: Collection[str]
) -> Cut:
    """The division that costs least for each candidate.

    A tensor of the item part can be handed over if exactly one of its axes is that of the candidates and the others are
    fixed; one of the user part if its axes don't depend on the number of candidates. Everything between what is handed
    over and the output belongs to the cross part.

    Args:
        net: The graph.
        causes: Of each of its tensors.
        seen: Its tensors.
        works: Of each of its nodes, for one candidate.
        unfit: Tensors of items that depend on the other items of a batch.
    """
    kind = kinds(causes)
    fit_item = {
        n for n, k in kind.items() if k is Kind.ITEM and n not in unfit and n not in net.inputs and _fit_item(seen, n)
    }
    fit_user = {n for n, k in kind.items() if k is Kind.USER and _fit_user(seen, n)}
    # Raw inputs of the user go through the user part, so that the cross part takes one kind of tensor of each side.
    again = _again(net, kind, Kind.ITEM, fit_item, seen, works) | _again(net, kind, Kind.USER, fit_user, seen, works)
    cross = [n for i, n in enumerate(net.nodes) if i in again or _of_cross(net, n, kind)]
    cross = needed(cross, {net.output.name})
    made = {name for node in cross for name in node.output}
    taken = dict.fromkeys(n for node in cross for n in sorted(reads(node)) if n not in made and n not in net.constants)
    order = {name: i for i, name in enumerate([*net.inputs, *(n for node in net.nodes for n in node.output)])}
    ordered = sorted((n for n in taken if n != net.count), key=order.__getitem__)
    from_user = tuple(n for n in ordered if n in fit_user)
    from_item = tuple(n for n in ordered if n in fit_item)
    return Cut(
        tuple(needed(net.nodes, from_user)),
        tuple(needed(net.nodes, from_item)),
        tuple(cross),
        from_user,
        from_item,
        tuple(n for n in ordered if n in net.inputs and n not in fit_user),
    )


def _of_cross(net: Net, node: NodeProto, kind: Mapping[str, Kind]) -> bool:
    """Whether only the cross part may run a node; the one that gives the output is always there."""
    return any(kind[n] in (Kind.CROSS, Kind.CONSTANT) or n == net.output.name for n in node.output if n)


def _again(
    net: Net, kind: Mapping[str, Kind], side: Kind, fit: Collection[str], seen: Observed, works: Sequence[Work]
) -> set[int]:
    """Numbers of the nodes of one side that the cross part computes again."""
    flow = Flow[tuple[str, int]]()
    own = {
        i
        for i, node in enumerate(net.nodes)
        if not _of_cross(net, node, kind) and side in {kind[n] for n in node.output if n}
    }
    for i in own:
        node = net.nodes[i]
        cost = node_cost(net, node, works[i]) if side is Kind.ITEM else costs.USER_NODE
        flow.edge(_SOURCE, ("", i), cost)
        for name in node.output:
            if name:
                flow.edge(("", i), (name, 0), _passing(name, side, seen) if name in fit else _INFINITE)
        for name in reads(node):
            if kind[name] is side:
                flow.edge((name, 0), ("", i), _INFINITE)
    for name in net.inputs:
        if kind.get(name) is side:
            raw = costs.KEY if side is Kind.ITEM else _passing(name, side, seen) if name in fit else 1000.0
            flow.edge(_SOURCE, (name, 0), raw)
    for i, node in enumerate(net.nodes):
        if i not in own:
            for name in reads(node):
                if kind[name] is side:
                    flow.edge((name, 0), _SINK, _INFINITE)
    return {number for name, number in flow.sink_side(_SOURCE, _SINK) if not name and number >= 0}


def _passing(name: str, side: Kind, seen: Observed) -> float:
    shape, size = seen.shapes[name], seen.dtype(name).itemsize
    if side is Kind.USER:
        return costs.USER_TENSOR + math.prod(dim[0] for dim in shape) * size * costs.USER_BYTE
    return costs.keeping(bytes_of(seen, name)) if size else 0.0


def node_cost(net: Net, node: NodeProto, work: Work) -> float:
    """Cost of a node in the cross part, for each candidate."""
    table = net.constants.get(node.input[0]) if node.op_type == "Gather" else None
    if table is None or table.ndim == 0:
        return costs.computing(work, view=is_view(node))
    return costs.computing(work, table=table.nbytes, row=table.nbytes // max(len(table), 1))


def bytes_of(seen: Observed, name: str) -> int:
    """Bytes of one candidate in a tensor of the item part."""
    return math.prod(dim[0] for dim in seen.shapes[name] if dim != CANDIDATES) * seen.dtype(name).itemsize


def _fit_item(seen: Observed, name: str) -> bool:
    shape = seen.shape(name)
    return (
        shape is not None
        and seen.dtype(name) in map(np.dtype, DTYPES)
        and shape.count(CANDIDATES) == 1
        and all(fixed(dim) for dim in shape if dim != CANDIDATES)
    )


def _fit_user(seen: Observed, name: str) -> bool:
    shape = seen.shape(name)
    return shape is not None and seen.dtype(name) in map(np.dtype, DTYPES) and CANDIDATES not in shape
