"""Products and sums of pieces: each side's share is computed apart, and what concerns one candidate is one product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from feast_recsys.bundle.columns import Array
from feast_recsys.exporters.split.bench import Bench, Factor, broadcast
from feast_recsys.exporters.split.costs import worth_keeping
from feast_recsys.exporters.split.dependence import Kind
from feast_recsys.exporters.split.net import attribute
from feast_recsys.exporters.split.pieces import reduced_axes, whole_along
from feast_recsys.exporters.split.shapes import ONE, Shape, fixed
from feast_recsys.exporters.split.views import Pieces

_CLEARLY = 0.9  # of the operations, at most, must be left after a rewriting


@dataclass(frozen=True)
class Share:
    """A tensor on the left of a product, with the rows of the right side that it meets.

    Attributes:
        name: The tensor, [..., stop - start].
        start, stop: The rows.
        sign: 1 or -1.
    """

    name: str
    start: int
    stop: int
    sign: int = 1

    @property
    def width(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Weight:
    """The right side of a product, [d, k] or [..., d, k].

    Attributes:
        name: The tensor.
        value: Its value, if it is a constant.
    """

    name: str
    value: Array | None

    def rows(self, bench: Bench, shares: Sequence[Share]) -> str:
        """The rows of some shares, one after another, with their signs."""
        if self.value is not None:
            taken = [self.value[..., s.start : s.stop, :] * np.float32(s.sign) for s in shares]
            return bench.constant(np.concatenate(taken, -2))
        shape = bench.known_shape(self.name)
        axis = len(shape) - 2
        names = []
        for share in shares:
            bounds = [bench.ints(share.start), bench.ints(share.stop), bench.ints(axis)]
            own = (*shape[:-2], (share.width,) * len(ONE), shape[-1])
            name = bench.emit("Slice", [self.name, *bounds], own)
            names.append(name if share.sign > 0 else bench.emit("Neg", [name], own))
        return bench.concat(names, axis)


def weight_of(bench: Bench, node: NodeProto) -> Weight | None:
    """The right side of a MatMul or Gemm; None if it is not the user's or a constant."""
    name = bench.name(node.input[1])
    value, shape = bench.value(name), bench.shape(name)
    if shape is None or len(shape) < 2 or not bench.of_user(name) or not fixed(shape[-1]):
        return None
    if node.op_type == "MatMul":
        return Weight(name, value)
    if value is None or attribute(node, "transA", 0):
        return None
    value = value.T if attribute(node, "transB", 0) else value
    value = np.ascontiguousarray(value * np.float32(attribute(node, "alpha", 1.0)))
    return Weight(bench.constant(value), value)


def bias_of(bench: Bench, node: NodeProto) -> list[str] | None:
    """The summand of a Gemm; None if it can't be taken apart."""
    if node.op_type != "Gemm" or len(node.input) < 3 or not node.input[2]:
        return []
    name, beta = bench.name(node.input[2]), attribute(node, "beta", 1.0)
    if beta == 1.0:
        return [name]
    value = bench.value(name)
    return None if value is None else [bench.constant(np.asarray(value * np.float32(beta), np.float32))]


def product(bench: Bench, node: NodeProto, pieces: Pieces) -> list[str] | None:
    """Summands of a MatMul or Gemm of pieces; None if nothing is gained by taking it apart."""
    weight, bias = weight_of(bench, node), bias_of(bench, node)
    if weight is None or bias is None or pieces.axis != len(pieces.shape) - 1:
        return None
    outer = bench.known_shape(weight.name)[-1][0]
    place, shares = 0, list[Share]()
    for name in pieces.names:
        stop = place + bench.width(name, pieces.axis)
        shares += [Share(part, place, stop, sign) for sign, part in bench.sums.get(name, ((1, name),))]
        place = stop
    terms, left = _factored(bench, shares, weight, outer)
    groups = dict[tuple[str, Shape], list[Share]]()
    for share in left:
        groups.setdefault((_side(bench, share.name), bench.known_shape(share.name)[:-1]), []).append(share)
    _leave_small(groups, outer)
    if not terms and len(groups) == 1 and not _repeated(bench, pieces):
        return None
    for group in groups.values():
        whole = bench.concat([share.name for share in group], pieces.axis)
        terms.append(_matmul(bench, whole, weight.rows(bench, group)))
    return [*terms, *bias]


def _side(bench: Bench, name: str) -> str:
    if bench.of_user(name):
        return "user"
    return "item" if bench.kind(name) is Kind.ITEM else "cross"


def _leave_small(groups: dict[tuple[str, Shape], list[Share]], outer: int) -> None:
    """Gives an item's values to the cross part's product where a product of their own is not worth keeping."""
    for side, lead in list(groups):
        inner = sum(share.width for share in groups[side, lead])
        if side == "item" and ("cross", lead) in groups and not worth_keeping(inner, outer):
            groups["cross", lead] += groups.pop((side, lead))


def _repeated(bench: Bench, pieces: Pieces) -> bool:
    """Whether the whole is larger than what it is made of."""
    return any(bench.known_shape(name)[:-1] != pieces.shape[:-1] for name in pieces.names)


def _matmul(bench: Bench, left: str, right: str) -> str:
    a, b = bench.known_shape(left), bench.known_shape(right)
    return bench.emit("MatMul", [left, right], (*broadcast(a[:-2], b[:-2]), a[-2], b[-1]))


def _factored(bench: Bench, shares: Sequence[Share], weight: Weight, outer: int) -> tuple[list[str], list[Share]]:
    """Products of one tensor with several things of the user, as one product with a matrix of the user.

    (u * x) W = x (diag(u) W) and (x U) W = x (U W): the matrices of one x are added up.

    Returns:
        The products, and the shares that are in none.
    """
    groups = dict[str, list[Share]]()
    for share in shares:
        if (factor := bench.factors.get(share.name)) is not None:
            groups.setdefault(factor.x, []).append(share)
    terms, left = [], list(shares)
    for x, group in groups.items():
        inner = max(bench.known_shape(x)[-1])
        before = sum(
            2 * s.width * outer + (s.width if bench.factors[s.name].scale else 2 * s.width * inner) for s in group
        )
        if 2 * inner * outer > _CLEARLY * before:
            continue
        matrices = [_matrix(bench, bench.factors[share.name], weight.rows(bench, [share])) for share in group]
        terms.append(_matmul(bench, x, bench.add(matrices)))
        left = [share for share in left if share not in group]
    return terms, left


def _matrix(bench: Bench, factor: Factor, rows: str) -> str:
    shape = bench.known_shape(rows)
    if factor.matrix:
        return _matmul(bench, factor.matrix, rows)
    column = bench.emit("Reshape", [factor.scale, bench.ints(-1, 1)], (shape[-2], ONE))
    return bench.emit("Mul", [column, rows], shape)


def find_factor(bench: Bench, node: NodeProto) -> Factor | None:
    """The product that an elementwise Mul is, or the MatMul of a candidate's tensor with a matrix of the user."""
    if len(node.input) != 2:
        return None
    a, b = (bench.name(name) for name in node.input)
    if node.op_type == "Mul" and bench.is_float(node.output[0]):
        for user, x in ((a, b), (b, a)):
            u, v = bench.shape(user), bench.shape(x)
            if not bench.of_user(user) or bench.of_user(x) or not u or not v or u[-1] != v[-1] or not fixed(v[-1]):
                continue
            if all(dim == ONE for dim in u[:-1]) and u[-1] != ONE and len(v) >= len(u) and len(v) >= 2:
                return Factor(x, scale=user)
    if node.op_type == "MatMul" and bench.is_float(node.output[0]):
        left, right = bench.shape(a), bench.shape(b)
        if bench.of_user(b) and not bench.of_user(a) and len(left or ()) >= 2 and len(right or ()) >= 2:
            return Factor(a, matrix=b)
    return None


def find_sum(bench: Bench, node: NodeProto, names: Sequence[str]) -> tuple[tuple[int, str], ...] | None:
    """The summands of an Add or Sub of a user's and an item's values, on `names`; None if they are of other sides.

    A product with them can be taken apart: nothing of it is left for each candidate.
    """
    if node.op_type not in ("Add", "Sub") or not bench.is_float(node.output[0]):
        return None
    a, b = (bench.shape(name) for name in names)
    if not a or not b or a[-1] != b[-1] or len(a) != len(b) or {_side(bench, n) for n in names} != {"user", "item"}:
        return None
    return (1, names[0]), (1 if node.op_type == "Add" else -1, names[1])


def chained(bench: Bench, node: NodeProto) -> tuple[str, Factor] | None:
    """(x A) B as x (A B), where that is fewer operations for a candidate and not all is constant."""
    factor = find_factor(bench, node)
    if node.op_type != "MatMul" or factor is None or (first := bench.factors.get(factor.x)) is None or not first.matrix:
        return None
    a, b = bench.known_shape(first.matrix), bench.known_shape(factor.matrix)
    inner, middle, outer = max(a[-2]), max(a[-1]), max(b[-1])
    if inner * outer > _CLEARLY * (inner * middle + middle * outer):
        return None
    matrix = _matmul(bench, first.matrix, factor.matrix)
    return _matmul(bench, first.x, matrix), Factor(first.x, matrix=matrix)


def reduced_sum(bench: Bench, node: NodeProto, pieces: Pieces) -> list[str] | None:
    """Summands of a ReduceSum over the axis along which pieces stand."""
    axes = reduced_axes(bench, node, len(pieces.shape))
    if axes is None or pieces.axis not in axes or not whole_along(bench, pieces, axes) or len(pieces.names) < 2:
        return None
    keep = attribute(node, "keepdims", 1)
    terms = []
    for name in pieces.names:
        own = bench.known_shape(name)
        left = tuple(ONE if n in axes else dim for n, dim in enumerate(own) if keep or n not in axes)
        terms.append(bench.emit_like(node, [name, *node.input[1:]], left))
    return terms


def add_up(bench: Bench, terms: Sequence[str]) -> str:
    """The sum, what belongs to one side first: constants with the user's, or else with the item's."""
    sides: dict[str, list[str]] = {"cross": [], "item": [], "user": []}
    constants = []
    for term in terms:
        if bench.kind(term) is Kind.CONSTANT:
            constants.append(term)
        else:
            sides[_side(bench, term)].append(term)
    home = next((side for side in ("user", "item", "cross") if sides[side]), "user")
    sides[home] += constants
    return bench.add([bench.add(group) for group in sides.values() if group])
