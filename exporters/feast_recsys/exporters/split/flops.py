"""How much work a graph is for each candidate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from feast_recsys.exporters.split.net import Net, attribute
from feast_recsys.exporters.split.shapes import Feed, Tracer

Sizes = tuple[int, ...]

# Only the way in which elements lie in memory, or nothing at all.
_MOVES = frozenset({
    "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose", "Concat", "Slice", "Split", "Expand", "Tile",
    "Shape", "Size", "Constant", "ConstantOfShape", "Pad", "Range", "ScatterElements", "ScatterND", "EyeLike", "Cast",
    "DynamicQuantizeLinear", "DequantizeLinear", "QuantizeLinear",
})  # fmt: skip
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size"})
_LOOKUPS = frozenset({"Gather", "GatherND", "GatherElements", "LabelEncoder", "CategoryMapper"})
_SCANS = frozenset({"Softmax", "LogSoftmax", "LayerNormalization", "CumSum", "Hardmax", "LpNormalization"})
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"})


@dataclass(frozen=True)
class Work:
    """Work of a node or a graph.

    Attributes:
        flops: Floating-point operations. A product of [m, k] and [k, n] counts 2 m n k, what is done element by element
            one for each element of the output, and a reduction one for each element of the input.
        lookups: Rows or keys looked up in a table; they count no operations.
    """

    flops: float = 0.0
    lookups: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.lookups + other.lookups)

    def slope(self, other: Work, sizes: int) -> Work:
        """Work of one candidate, from the work at `sizes` candidates fewer."""
        return Work((self.flops - other.flops) / sizes, (self.lookups - other.lookups) / sizes)


def is_view(node: NodeProto) -> bool:
    """Whether a node computes and copies nothing."""
    return node.op_type in _VIEWS


def work_of(node: NodeProto, inputs: Sequence[Sizes | None], outputs: Sequence[Sizes | None]) -> Work:
    """Work of one node, from the shapes of what it takes and gives; None for what has no shape."""
    given = [shape for shape in inputs if shape is not None]
    made = [shape for shape in outputs if shape is not None]
    size = sum(math.prod(shape) for shape in made)
    if node.op_type in _PRODUCTS and given and given[0]:
        return Work(2.0 * size * given[0][-1])
    if node.op_type == "Gemm" and len(given) >= 2:
        inner = given[0][0 if attribute(node, "transA", 0) else 1]
        return Work(2.0 * size * inner + (size if len(given) > 2 else 0))
    if node.op_type == "Einsum" and given:
        return Work(2.0 * size * _summed(node, given))
    if node.op_type in ("Conv", "ConvTranspose") and len(given) >= 2:
        return Work(2.0 * size * math.prod(given[1][1:]))
    if node.op_type in _LOOKUPS:
        # A Gather with constant indices picks columns, and that of a whole row of a table is one lookup.
        index = given[1] if node.op_type != "LabelEncoder" and len(given) > 1 else (given or [()])[0]
        return Work(0.0, math.prod(index))
    if node.op_type in _MOVES:
        return Work()
    if node.op_type.startswith("Reduce") or node.op_type in ("ArgMax", "ArgMin", "TopK"):
        return Work(float(math.prod(given[0])) if given else 0.0)
    if node.op_type in _SCANS:
        return Work(4.0 * size)
    return Work(float(size))


def _summed(node: NodeProto, given: Sequence[Sizes]) -> int:
    """Elements that are summed up for each element of the output of an Einsum."""
    equation = attribute(node, "equation", b"").decode().replace(" ", "")
    left, _, right = equation.partition("->")
    sizes = {
        letter: n
        for term, shape in zip(left.split(","), given, strict=False)
        for letter, n in zip(term, shape, strict=False)
    }
    return math.prod(n for letter, n in sizes.items() if letter not in right)


def work_by_node(net: Net, feeds: tuple[Feed, Feed], sizes: tuple[int, int]) -> list[Work]:
    """Work of each node for one candidate: exact, as the difference between two numbers of candidates.

    Args:
        net: The graph.
        feeds: Raw inputs with lists of the same lengths, of so many candidates.
        sizes: The two numbers of candidates, the smaller first.
    """
    tracer = Tracer(net)
    fewer, more = (tracer.run(feed, size) for feed, size in zip(feeds, sizes, strict=True))
    works = []
    for node in net.nodes:
        few, many = (
            work_of(
                node,
                [_shape(values, net, name) for name in node.input if name],
                [_shape(values, net, name) for name in node.output if name],
            )
            for values in (fewer, more)
        )
        works.append(many.slope(few, sizes[1] - sizes[0]))
    return works


def _shape(values: Feed, net: Net, name: str) -> Sizes | None:
    value = values.get(name, net.constants.get(name))
    return None if value is None else tuple(np.shape(value))


def total(works: Sequence[Work]) -> Work:
    """The sum."""
    return sum(works, Work())
