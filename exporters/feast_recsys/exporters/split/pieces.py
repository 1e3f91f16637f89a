"""Tensors that are known as pieces side by side, so that what is done to the whole can be done to each piece alone.

A Concat of a user's and an item's values mixes what could be computed apart. Its pieces are followed through the nodes
behind it instead, until a product or a sum takes them up (see `linear`), or a node that needs the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from onnx import NodeProto

from feast_recsys.exporters.split.bench import Bench, broadcast
from feast_recsys.exporters.split.net import attribute
from feast_recsys.exporters.split.shapes import ONE, Dim, Shape, fixed

_UNARY = (
    "Abs Cast Ceil Celu Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg "
    "Not Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu"
)
_BINARY = (
    "Add And BitwiseAnd BitwiseOr Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu Pow Sub "
    "Sum Where Xor"
)
ELEMENTWISE = frozenset(f"{_UNARY} {_BINARY}".split())
_REDUCTIONS = frozenset(
    {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceL1", "ReduceSumSquare"}
)


@dataclass(frozen=True)
class Pieces:
    """A tensor as pieces.

    Attributes:
        axis: Along which they stand side by side.
        names: Of the pieces, in order. They have the rank of the whole; an axis may be 1 where that of the whole is not,
            which means that the piece is repeated along it.
        shape: Of the whole.
    """

    axis: int
    names: tuple[str, ...]
    shape: Shape


def shape_of(bench: Bench, name: str) -> Shape:
    """The shape of a piece; pieces always have one."""
    shape = bench.shape(name)
    assert shape is not None
    return shape


def width(bench: Bench, name: str, axis: int) -> int:
    """Size of a piece along the axis."""
    return shape_of(bench, name)[axis][0]


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
        first, second = shape_of(bench, a), shape_of(bench, b)
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
        own = shape_of(bench, name)
    if any(dim not in (ONE, whole) for dim, whole in zip(own, shape, strict=True)) or own[-1] != shape[-1]:
        # Along the last axis only as a vector: pieces are as wide as the whole.
        if len(shape) != 1 or own != (ONE,):
            return None
    return Pieces(len(shape) - 1, (name,), shape)


def _elementwise(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    rank = len(shape)
    taken = [known[name] for name in node.input if name in known]
    most = max(taken, key=lambda p: len(p.names))
    axis = most.axis + rank - len(most.shape)
    widths = [width(bench, name, most.axis) for name in most.names]
    columns = list[Sequence[str]]()
    for name in node.input:
        column = _operand(bench, name, known.get(name), axis - rank, widths)
        if column is None:
            return None
        columns.append(column)
    names = list[str]()
    for operands in zip(*columns, strict=True):
        own = broadcast(*(shape_of(bench, name) for name in operands if name))
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
        own = [width(bench, piece, pieces.axis) for piece in pieces.names]
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
        own = shape_of(bench, name)
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
    return all(shape_of(bench, name)[a] == pieces.shape[a] for name in pieces.names for a in axes - {pieces.axis})


def _gather(bench: Bench, node: NodeProto, known: Mapping[str, Pieces], shape: Shape) -> Pieces | None:
    """Rows of one table for pieces of indices."""
    pieces, table = known.get(node.input[1]), bench.shape(node.input[0])
    if pieces is None or table is None or attribute(node, "axis", 0) != 0 or bench.value(node.input[0]) is None:
        return None
    rest = table[1:]
    names = [bench.emit_like(node, [node.input[0], n], (*shape_of(bench, n), *rest)) for n in pieces.names]
    return Pieces(pieces.axis, tuple(names), shape)


def _unsqueeze(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    value = bench.value(node.input[1])
    if value is None:
        return None
    added = {int(axis) % len(shape) for axis in value.reshape(-1)}
    kept = [n for n in range(len(shape)) if n not in added]

    def wider(own: Shape) -> Shape:
        rest = iter(own)
        return tuple(ONE if n in added else next(rest) for n in range(len(shape)))

    axes = bench.ints(*sorted(added))
    names = [bench.emit("Unsqueeze", [n, axes], wider(shape_of(bench, n))) for n in pieces.names]
    return Pieces(kept[pieces.axis], tuple(names), shape)


def _transpose(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    order = list(attribute(node, "perm", range(len(shape))[::-1]))
    names = []
    for name in pieces.names:
        own = shape_of(bench, name)
        names.append(bench.emit("Transpose", [name], tuple(own[n] for n in order), perm=order))
    return Pieces(order.index(pieces.axis), tuple(names), shape)


def _slice(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    """Some of the pieces, where a slice takes them whole or in part."""
    given = [bench.value(name) for name in node.input[1:]]
    if len(given) < 3 or any(v is None or v.size != 1 for v in given):
        return None
    start, end, axis, step = (*(int(v.reshape(-1)[0]) for v in given if v is not None), 1)[:4]
    total = pieces.shape[pieces.axis][0]
    if axis % len(shape) != pieces.axis or step != 1 or not fixed(pieces.shape[pieces.axis]):
        return None
    start, end, _ = slice(start, end).indices(total)
    names, place = [], 0
    for name in pieces.names:
        size = width(bench, name, pieces.axis)
        first, last = max(start - place, 0), min(end - place, size)
        place += size
        if first >= last:
            continue
        if (first, last) != (0, size):
            own = shape_of(bench, name)
            left = (*own[: pieces.axis], (last - first,) * len(ONE), *own[pieces.axis + 1 :])
            bounds = [bench.ints(first), bench.ints(last), bench.ints(pieces.axis)]
            name = bench.emit("Slice", [name, *bounds], left)
        names.append(name)
    return Pieces(pieces.axis, tuple(names), shape) if names else None


def _reshape(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    """Squeezes, unsqueezes and flattens that leave the order of pieces as it is."""
    before, after = pieces.shape[: pieces.axis], pieces.shape[pieces.axis + 1 :]
    own = pieces.shape[pieces.axis]
    if all(fixed(dim) for dim in after):
        inner = int(np.prod([dim[0] for dim in after], dtype=np.int64))
        for axis in range(len(shape)):
            # The axis as it was with all behind it, or both as one.
            for behind, factor in ((after, 1), ((), inner)):
                size: Dim = tuple(n * factor for n in own)
                if shape[axis] == size and shape[axis + 1 :] == behind and _alike(before, shape[:axis]):
                    return _views(bench, pieces, shape, axis, factor)
    return None


def _views(bench: Bench, pieces: Pieces, shape: Shape, axis: int, factor: int) -> Pieces | None:
    names = []
    for name in pieces.names:
        lead = [dim for dim in shape_of(bench, name)[: pieces.axis] if dim != ONE]
        full = [dim for dim in pieces.shape[: pieces.axis] if dim != ONE]
        if lead and lead != full:
            return None
        size = width(bench, name, pieces.axis) * factor
        front = shape[:axis] if lead else (ONE,) * axis
        target = (*front, (size,) * len(ONE), *shape[axis + 1 :])
        if sum(not fixed(dim) for dim in target) > 1:
            return None
        if factor == 1 and axis == len(shape) - 1:
            names.append(bench.view(name, target))
            continue
        sizes = bench.ints(*(dim[0] if fixed(dim) else -1 for dim in target))
        names.append(bench.emit("Reshape", [name, sizes], target))
    return Pieces(axis, tuple(names), shape)


def _alike(a: Shape, b: Shape) -> bool:
    return [dim for dim in a if dim != ONE] == [dim for dim in b if dim != ONE]


_RULES: Mapping[str, Callable[[Bench, NodeProto, Pieces, Shape], Pieces | None]] = {
    "Unsqueeze": _unsqueeze,
    "Squeeze": _reshape,
    "Reshape": _reshape,
    "Flatten": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
}
