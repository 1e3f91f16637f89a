"""Tensors as pieces side by side, and what nodes that only change how elements are seen do to them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from feast_recsys.exporters.split.bench import Bench
from feast_recsys.exporters.split.net import attribute
from feast_recsys.exporters.split.shapes import ONE, Dim, Shape, fixed


@dataclass(frozen=True)
class Pieces:
    """A tensor as pieces.

    Attributes:
        axis: Along which they stand side by side.
        names: Of the pieces, in order. They have the rank of the whole; where an axis is 1 and that of the whole is
            not, the piece is repeated along it.
        shape: Of the whole.
    """

    axis: int
    names: tuple[str, ...]
    shape: Shape


def unsqueeze(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    """More axes of 1."""
    value = bench.value(node.input[1])
    if value is None:
        return None
    added = {int(axis) % len(shape) for axis in value.reshape(-1)}
    kept = [n for n in range(len(shape)) if n not in added]

    def wider(own: Shape) -> Shape:
        rest = iter(own)
        return tuple(ONE if n in added else next(rest) for n in range(len(shape)))

    axes = bench.ints(*sorted(added))
    names = [bench.emit("Unsqueeze", [n, axes], wider(bench.known_shape(n))) for n in pieces.names]
    return Pieces(kept[pieces.axis], tuple(names), shape)


def transpose(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
    """Axes in another order."""
    order = list(attribute(node, "perm", range(len(shape))[::-1]))
    names = []
    for name in pieces.names:
        own = bench.known_shape(name)
        names.append(bench.emit("Transpose", [name], tuple(own[n] for n in order), perm=order))
    return Pieces(order.index(pieces.axis), tuple(names), shape)


def slice_(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
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
        size = bench.width(name, pieces.axis)
        first, last = max(start - place, 0), min(end - place, size)
        place += size
        if first >= last:
            continue
        if (first, last) != (0, size):
            own = bench.known_shape(name)
            left = (*own[: pieces.axis], (last - first,) * len(ONE), *own[pieces.axis + 1 :])
            bounds = [bench.ints(first), bench.ints(last), bench.ints(pieces.axis)]
            name = bench.emit("Slice", [name, *bounds], left)
        names.append(name)
    return Pieces(pieces.axis, tuple(names), shape) if names else None


def reshape(bench: Bench, node: NodeProto, pieces: Pieces, shape: Shape) -> Pieces | None:
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
        lead = [dim for dim in bench.known_shape(name)[: pieces.axis] if dim != ONE]
        full = [dim for dim in pieces.shape[: pieces.axis] if dim != ONE]
        if lead and lead != full:
            return None
        size = bench.width(name, pieces.axis) * factor
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
