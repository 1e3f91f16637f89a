"""Tensors that are known as pieces side by side, so that what is done to the whole can be done to each piece alone.

A Concat of a user's and an item's values mixes what could be computed apart. Its pieces are followed through the nodes
behind it instead, until a product or a sum takes them up (see `linear`), or a node that needs the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from onnx import NodeProto

from feast_recsys.exporters.split.bench import Bench, broadcast
from feast_recsys.exporters.split.net import attribute
from feast_recsys.exporters.split.shapes import ONE, Shape, fixed
from feast_recsys.exporters.split.views import Pieces, reshape, slice_, transpose, unsqueeze

_UNARY = (
    "Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish "
    "Neg Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu"
)
_BINARY = (
    "Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow "
    "Sub Sum Where Xor"
)
ELEMENTWISE = frozenset(f"{_UNARY} {_BINARY}".split())
_REDUCTIONS = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceL1", "ReduceSumSquare"}
)


def carry(bench: Bench, node: NodeProto, known: Mapping[str, Pieces]) -> Pieces | None:
    """The pieces of what a node gives, from those of what it takes; None if it needs the whole.

    Args:
        bench: Gets the nodes that compute the pieces.
        node: As it was.
        known: Pieces by the names that the node reads.
    """
    if len(node.output) != 1 or (shape := bench.shape(node.output[0])) is None:
        return None
    if node.op_type == "Concat":
        return _concat(bench, node, known, shape)
    if node.op_type in ("Expand", "Tile"):
        return _expand(bench, node, known, shape)
    if node.op_type == "Gather":
        return _gather(bench, node, known, shape)
    if not any(name in known for name in node.input):
        return None
    if node.op_type in ELEMENTWISE:
        return _elementwise(bench, node, known, shape)
    if node.op_type in _REDUCTIONS:
        return _reduce(bench, node, known, shape)
    rule = _RULES.get(node.op_type)
    pieces = known.get(node.input[0])
    return None if rule is None or pieces is None else rule(bench, node, pieces, shape)


def _concat(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    axis = int(attribute(node, "axis")) % len(shape)
    names = list[str]()
    for name in node.input:
        pieces = known.get(name)
        if pieces is not None and (pieces.axis == axis or len(pieces.names) == 1):
            names += pieces.names
        else:
            names.append(bench.name(name))
    shapes = [bench.shape(name) for name in names]
    if any(s is None or not fixed(s[axis]) for s in shapes):
        return None
    return Pieces(axis, tuple(_merge(bench, names, axis)), shape)


def _merge(bench: Bench, names: Sequence[str], axis: int) -> list[str]:
    """Neighbours of one kind as one piece, but for known products and sums: those may be taken apart further."""
    merged, group = list[str](), list[str]()

    def alike(a: str, b: str) -> bool:
        first, second = bench.known_shape(a), bench.known_shape(b)
        known = bench.factors.keys() | bench.sums.keys()
        plain = a not in known and b not in known and bench.kind(a) is bench.kind(b)
        return plain and first[:axis] == second[:axis] and first[axis + 1 :] == second[axis + 1 :]

    for name, after in pairwise([*names, ""]):
        group.append(name)
        if not after or not alike(name, after):
            merged.append(bench.concat(group, axis))
            group = []
    return merged


def _expand(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    """What is only repeated is taken as it is."""
    pieces = known.get(node.input[0])
    name = bench.name(node.input[0]) if pieces is None else pieces.names[0]
    own = bench.shape(name)
    if own is None or (pieces is not None and len(pieces.names) > 1) or not shape:
        return None
    if missing := len(shape) - len(own):
        name = bench.emit("Unsqueeze", [name, bench.ints(*range(missing))], (ONE,) * missing + own)
        own = bench.known_shape(name)
    if any(dim not in (ONE, whole) for dim, whole in zip(own, shape, strict=True)):
        return None
    # Along the last axis only as a vector: pieces are as wide as the whole.
    if own[-1] != shape[-1] and len(shape) > 1:
        return None
    return Pieces(len(shape) - 1, (name,), shape)


def _elementwise(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    rank = len(shape)
    taken = [known[name] for name in node.input if name in known]
    most = max(taken, key=lambda p: len(p.names))
    axis = most.axis + rank - len(most.shape)
    widths = [bench.width(name, most.axis) for name in most.names]
    columns = list[Sequence[str]]()
    for name in node.input:
        column = _operand(bench, name, known.get(name), axis - rank, widths)
        if column is None:
            return None
        columns.append(column)
    names = list[str]()
    for operands in zip(*columns, strict=True):
        own = broadcast(*(bench.known_shape(name) for name in operands if name))
        own = (ONE,) * (rank - len(own)) + own
        names.append(bench.emit_like(node, operands, own))
    return Pieces(axis, tuple(names), shape)


def _operand(bench: Bench, name: str, pieces: Pieces | None, back: int, widths: Sequence[int]) -> Sequence[str] | None:
    """What stands for an operand at each piece; `back` is the axis, counted from the last."""
    count = len(widths)
    if not name:
        return [""] * count
    if pieces is not None and len(pieces.names) > 1:
        same = pieces.axis - len(pieces.shape) == back
        own = [bench.width(piece, pieces.axis) for piece in pieces.names]
        return pieces.names if same and own == list(widths) else None
    name = bench.name(name) if pieces is None else pieces.names[0]
    shape = bench.shape(name)
    if shape is None:
        return None
    if count == 1 or len(shape) < -back or shape[back] == ONE:
        return [name] * count
    if shape[back] != (sum(widths),) * len(ONE):
        return None
    if (value := bench.value(name)) is not None:
        parts = np.split(value, np.cumsum(widths)[:-1], len(shape) + back)
        return [bench.constant(part) for part in parts]
    return None


def _reduce(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    pieces = known.get(node.input[0])
    axes = reduced_axes(bench, node, len(pieces.shape)) if pieces is not None else None
    if pieces is None or axes is None or pieces.axis in axes or not whole_along(bench, pieces, axes):
        return None
    keep = attribute(node, "keepdims", 1)
    axis = pieces.axis if keep else pieces.axis - sum(a < pieces.axis for a in axes)
    names = []
    for name in pieces.names:
        own = bench.known_shape(name)
        left = tuple(ONE if n in axes else dim for n, dim in enumerate(own) if keep or n not in axes)
        names.append(bench.emit_like(node, [name, *node.input[1:]], left))
    return Pieces(axis, tuple(names), shape)


def reduced_axes(bench: Bench, node: NodeProto, rank: int) -> set[int] | None:
    """The axes over which a node reduces; None if they are not known."""
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1 and node.input[1]:
        value = bench.value(node.input[1])
        if value is None:
            return None
        given = value.tolist()
    if not given:
        return None if attribute(node, "noop_with_empty_axes", 0) else set(range(rank))
    return {int(axis) % rank for axis in given}


def whole_along(bench: Bench, pieces: Pieces, axes: set[int]) -> bool:
    """Whether no piece is repeated along the axes."""
    return all(bench.known_shape(name)[a] == pieces.shape[a] for name in pieces.names for a in axes - {pieces.axis})


def _gather(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    """Rows of one table for pieces of indices."""
    pieces, table = known.get(node.input[1]), bench.shape(node.input[0])
    if pieces is None or table is None or attribute(node, "axis", 0) != 0 or bench.value(node.input[0]) is None:
        return None
    rest = table[1:]
    names = [bench.emit_like(node, [node.input[0], n], (*bench.known_shape(n), *rest)) for n in pieces.names]
    return Pieces(pieces.axis, tuple(names), shape)


_RULES: Mapping[str, Callable[[Bench, NodeProto, Pieces, Shape], Pieces | None]] = {
    "Unsqueeze": unsqueeze,
    "Squeeze": reshape,
    "Reshape": reshape,
    "Flatten": reshape,
    "Transpose": transpose,
    "Slice": slice_,
}
