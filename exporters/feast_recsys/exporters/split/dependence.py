"""What each tensor depends on: the user, the item of the catalogue, the request, or the number of candidates."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from feast_recsys.bundle.signature import Graph, Input, Side
from feast_recsys.exporters.split.net import Net, is_random, reads


class Cause(str, Enum):
    """What a value may depend on."""

    USER = "user"  # user and context inputs, batch 1
    ITEM = "item"  # item inputs that the catalogue holds
    REQUEST = "request"  # item inputs that only the caller knows, or that are read anew at each request
    COUNT = "count"  # the number of candidates


class Kind(str, Enum):
    """Which part may compute a value."""

    CONSTANT = "constant"
    USER = "user"
    ITEM = "item"
    CROSS = "cross"


Causes = frozenset[Cause]


def cause_of(spec: Input) -> Cause:
    """What an input stands for."""
    if spec.side is not Side.ITEM:
        return Cause.USER
    return Cause.REQUEST if spec.source == "request" or spec.fresh else Cause.ITEM


def kind_of(causes: Causes) -> Kind:
    """The part that may compute what has these causes."""
    if not causes:
        return Kind.CONSTANT
    if causes == {Cause.USER}:
        return Kind.USER
    if Cause.ITEM in causes and causes <= {Cause.ITEM, Cause.COUNT}:
        return Kind.ITEM
    return Kind.CROSS


def causes(net: Net, graph: Graph) -> dict[str, Causes]:
    """The causes of every tensor, constants and inputs included."""
    found: dict[str, Causes] = {name: frozenset() for name in net.constants}
    for spec in graph.inputs:
        if spec.name in net.inputs:
            found[spec.name] = frozenset({cause_of(spec)})
    found[net.count] = frozenset({Cause.COUNT})
    for node in net.nodes:
        # What differs from run to run belongs to the request.
        own = frozenset({Cause.REQUEST}) if is_random(node) else frozenset()
        of_node = own.union(*(found[name] for name in reads(node)))
        found |= {name: of_node for name in node.output if name}
    return found


def shaped_only(net: Net) -> set[str]:
    """Tensors that depend on the shapes of inputs and on no value."""
    free = set(net.constants)
    for node in net.nodes:
        if not is_random(node) and (node.op_type in ("Shape", "Size") or reads(node) <= free):
            free |= {name for name in node.output if name}
    return free


def kinds(found: Mapping[str, Causes]) -> dict[str, Kind]:
    """The kind of every tensor."""
    return {name: kind_of(of_tensor) for name, of_tensor in found.items()}
