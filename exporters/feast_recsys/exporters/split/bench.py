"""Where a graph is rewritten: nodes are added one by one, with their shapes and causes known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto
from onnx import helper as oh

from feast_recsys.bundle.columns import Array
from feast_recsys.exporters.split.dependence import Causes, Kind, kind_of
from feast_recsys.exporters.split.net import Net
from feast_recsys.exporters.split.shapes import ONE, SIZES, Observed, Shape, fixed


@dataclass(frozen=True)
class Factor:
    """A tensor as a product with something of the user: `x * scale`, or `x @ matrix`.

    Attributes:
        x: What is multiplied, [..., d].
        scale: [1, ..., d]; empty if there is a matrix.
        matrix: [..., d, k].
    """

    x: str
    scale: str = ""
    matrix: str = ""


class Bench:
    """A net that is being rewritten, from the inputs to the output.

    Attributes:
        net: The net as it was; new constants are put there.
        nodes: What was added so far, in order.
        factors: Tensors known to be products.
        sums: Tensors known to be sums of what each is of one side alone, with the signs of the summands.
    """

    def __init__(self, net: Net, seen: Observed, causes: Mapping[str, Causes]) -> None:
        self.net = net
        self.nodes: list[NodeProto] = []
        self.factors: dict[str, Factor] = {}
        self.sums: dict[str, tuple[tuple[int, str], ...]] = {}
        self._seen = seen
        self._shapes: dict[str, Shape] = {}
        self._causes = dict(causes)
        self._alias: dict[str, str] = {}
        self._views: dict[str, str] = {}  # sources of views that only add or drop axes of 1 before the last

    def replace(self, old: str, new: str) -> None:
        """Makes all that follows read another tensor of the same value."""
        self._alias[old] = new

    def name(self, tensor: str) -> str:
        """What stands for a tensor of the net as it was."""
        return self._alias.get(tensor, tensor)

    @property
    def replaced(self) -> Mapping[str, str]:
        """New tensors by those that they stand for."""
        return self._alias

    def shape(self, tensor: str) -> Shape | None:
        """Shape of a tensor, old or new."""
        return self._shapes[tensor] if tensor in self._shapes else self._seen.shape(tensor)

    def known_shape(self, tensor: str) -> Shape:
        """Shape of a tensor that has one: a piece, or a new tensor."""
        shape = self.shape(tensor)
        assert shape is not None
        return shape

    def width(self, tensor: str, axis: int) -> int:
        """Size of a piece along an axis that is fixed."""
        return self.known_shape(tensor)[axis][0]

    def kind(self, tensor: str) -> Kind:
        """Which part may compute a tensor."""
        return kind_of(self._causes[tensor])

    def of_user(self, tensor: str) -> bool:
        """Whether a tensor is computed once a request at most."""
        return self.kind(tensor) in (Kind.USER, Kind.CONSTANT)

    def is_float(self, tensor: str) -> bool:
        """Whether a tensor of the net as it was holds float32."""
        return tensor in self._seen.values[0] and self._seen.dtype(tensor) == np.float32

    def value(self, tensor: str) -> Array | None:
        """The value of a constant; None if it is none."""
        return self.net.constants.get(tensor)

    def constant(self, value: Array) -> str:
        """A new constant."""
        name = self.net.constant(value)
        self._causes[name] = frozenset()
        self._shapes[name] = tuple((size,) * len(SIZES) for size in value.shape)
        return name

    def ints(self, *values: int) -> str:
        """A new int64 vector: axes, a shape."""
        return self.constant(np.array(values, np.int64))

    def emit(self, kind: str, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Adds a node with one output of the given shape and returns the output's name."""
        return self.emit_like(oh.make_node(kind, [], []), inputs, shape, **attributes)

    def emit_like(self, node: NodeProto, inputs: Sequence[str], shape: Shape, **attributes: Any) -> str:
        """Adds a node of the same operator and attributes on other inputs."""
        made = NodeProto()
        made.CopyFrom(node)
        name = self.net.fresh(f"split/{node.op_type.lower()}")
        made.name = ""
        made.input[:] = inputs
        made.output[:] = [name]
        made.attribute.extend(oh.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(made)
        self._shapes[name] = shape
        self._causes[name] = frozenset[Any]().union(*(self._causes[i] for i in inputs if i))
        return name

    def view(self, tensor: str, shape: Shape) -> str:
        """The tensor with axes of 1 added or dropped, its last axis kept; at most one axis may vary."""
        sizes = self.ints(*(dim[0] if fixed(dim) else -1 for dim in shape))
        name = self.emit("Reshape", [tensor, sizes], shape)
        self._views[name] = tensor
        return name

    def concat(self, tensors: Sequence[str], axis: int) -> str:
        """Tensors one after another along an axis; a single one as it is."""
        if len(tensors) == 1:
            return tensors[0]
        known = [self.known_shape(tensor) for tensor in tensors]
        if axis == len(known[0]) - 1 and (sources := self._sources(tensors)) is not None:
            joint = self.concat(sources, len(self.known_shape(sources[0])) - 1)
            return self.view(joint, (*known[0][:-1], self.known_shape(joint)[-1]))
        width = tuple(sum(sizes) for sizes in zip(*(shape[axis] for shape in known), strict=True))
        shape = (*known[0][:axis], width, *known[0][axis + 1 :])
        return self.emit("Concat", tensors, shape, axis=axis)

    def _sources(self, tensors: Sequence[str]) -> list[str] | None:
        """What tensors are views of, if all are and their sources fit side by side."""
        sources = [self._views.get(tensor, "") for tensor in tensors]
        if not all(sources) or len({self.known_shape(source)[:-1] for source in sources}) > 1:
            return None
        return sources

    def add(self, tensors: Sequence[str]) -> str:
        """The sum of tensors."""
        result, *rest = tensors
        for tensor in rest:
            shape = broadcast(self.known_shape(result), self.known_shape(tensor))
            result = self.emit("Add", [result, tensor], shape)
        return result


def broadcast(*shapes: Shape) -> Shape:
    """The shape of an elementwise result."""
    rank = max(map(len, shapes))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(next((dim for dim in dims if dim != ONE), ONE) for dims in zip(*padded, strict=True))
