"""A graph under work: nodes in order, constants as arrays, and from there back to a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, inliner, numpy_helper
from onnx import helper as oh

from feast_recsys.bundle.columns import Array
from feast_recsys.exporters.trace import IR_VERSION

COUNT = "count"  # the number of candidates, int64 [1]
_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


class Net:
    """A graph whose nodes are rewritten. Nodes themselves are never altered, only replaced.

    Attributes:
        nodes: In an order in which they can run.
        constants: By name: initializers and the values of Constant nodes.
        inputs: Raw inputs by name.
        output: The one output.
        opsets: Versions by domain.
        count: Name of the input with the number of candidates; in `inputs` once it is used.
    """

    def __init__(
        self,
        nodes: Sequence[NodeProto],
        constants: Mapping[str, Array],
        inputs: Mapping[str, ValueInfoProto],
        output: ValueInfoProto,
        opsets: Mapping[str, int],
        count: str = "",
    ) -> None:
        self.nodes = list(nodes)
        self.constants = dict(constants)
        self.inputs = dict(inputs)
        self.output = output
        self.opsets = dict(opsets)
        self._taken = {*self.constants, *self.inputs, *(name for node in self.nodes for name in node.output)}
        self._taken |= {name for node in self.nodes for name in reads(node)}
        self.count = count or self.fresh(COUNT)

    @classmethod
    def of(cls, model: ModelProto) -> Net:
        """The graph of a model; functions of its own are written out."""
        if model.functions:
            model = inliner.inline_local_functions(model)
        graph = model.graph
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        nodes = []
        for node in graph.node:
            if node.op_type == "Constant" and (value := _constant(node)) is not None:
                constants[node.output[0]] = value
            else:
                nodes.append(node)
        inputs = {value.name: value for value in graph.input if value.name not in constants}
        return cls(nodes, constants, inputs, graph.output[0], {o.domain: o.version for o in model.opset_import})

    def copy(self) -> Net:
        """Another net with the same nodes."""
        return Net(self.nodes, self.constants, self.inputs, self.output, self.opsets, self.count)

    def fresh(self, stem: str) -> str:
        """A name that nothing has yet."""
        name, number = stem, 0
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def constant(self, value: Array, stem: str = "split/constant") -> str:
        """The name of a new constant."""
        name = self.fresh(stem)
        self.constants[name] = value
        return name

    def model(
        self,
        nodes: Iterable[NodeProto],
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        name: str = "part",
    ) -> ModelProto:
        """A model of some nodes, with the constants that they read and no more."""
        nodes = list(nodes)
        used = {read for node in nodes for read in reads(node)} | {value.name for value in outputs}
        initializers = [numpy_helper.from_array(np.ascontiguousarray(v), n) if v.ndim else numpy_helper.from_array(v, n)
                        for n, v in self.constants.items() if n in used]  # fmt: skip
        domains = {node.domain for inner in nodes for node in _nested(inner)} | {""}
        opsets = [oh.make_opsetid(domain, version) for domain, version in self.opsets.items() if domain in domains]
        graph = oh.make_graph(nodes, name, list(inputs), list(outputs), initializers)
        return oh.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="feast-recsys")

    def whole(self) -> ModelProto:
        """The model of all nodes."""
        return self.model(self.nodes, list(self.inputs.values()), [self.output])

    def prune(self) -> None:
        """Drops nodes that nothing needs."""
        self.nodes = needed(self.nodes, {self.output.name})

    def substitute(self, names: Mapping[str, str]) -> None:
        """Makes every node read other tensors in place of those named."""
        self.nodes = [renamed(node, names) for node in self.nodes]


def is_random(node: NodeProto) -> bool:
    """Whether a node gives something else each time."""
    return node.op_type in _RANDOM


def needed(nodes: Sequence[NodeProto], wanted: Iterable[str]) -> list[NodeProto]:
    """The nodes without which some tensors can't be computed."""
    wanted, kept = set(wanted), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= reads(node)
    return kept[::-1]


def reads(node: NodeProto) -> set[str]:
    """Every outer name that a node reads, itself or in a graph inside it."""
    return {name for name in node.input if name} | {name for graph in _bodies(node) for name in _captured(graph)}


def renamed(node: NodeProto, names: Mapping[str, str]) -> NodeProto:
    """The node, reading and writing other names; itself if none of its names is meant."""
    if not (names.keys() & ({*node.output} | reads(node))):
        return node
    made = NodeProto()
    made.CopyFrom(node)
    made.input[:] = [names.get(name, name) for name in node.input]
    made.output[:] = [names.get(name, name) for name in node.output]
    for graph in _bodies(made):
        _rename_captured(graph, names)
    return made


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute."""
    for entry in node.attribute:
        if entry.name == name:
            return oh.get_attribute_value(entry)
    return default


def _bodies(node: NodeProto) -> Iterator[GraphProto]:
    for entry in node.attribute:
        if entry.type == AttributeProto.GRAPH:
            yield entry.g
        elif entry.type == AttributeProto.GRAPHS:
            yield from entry.graphs


def _nested(node: NodeProto) -> Iterator[NodeProto]:
    yield node
    for graph in _bodies(node):
        for inner in graph.node:
            yield from _nested(inner)


def _own(graph: GraphProto) -> set[str]:
    declared = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    return declared | {name for node in graph.node for name in node.output}


def _captured(graph: GraphProto) -> set[str]:
    used = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    return used - _own(graph)


def _rename_captured(graph: GraphProto, names: Mapping[str, str]) -> None:
    outer = {old: new for old, new in names.items() if old not in _own(graph)}
    for node in graph.node:
        node.input[:] = [outer.get(name, name) for name in node.input]
        for inner in _bodies(node):
            _rename_captured(inner, outer)
    for value in graph.output:
        value.name = outer.get(value.name, value.name)


def _constant(node: NodeProto) -> Array | None:
    for entry in node.attribute:
        value = oh.get_attribute_value(entry)
        if entry.name == "value":
            return numpy_helper.to_array(value)
        if entry.name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


def onnx_type(dtype: np.dtype[Any]) -> int:
    """ONNX's number of an element type."""
    return int(oh.np_dtype_to_tensor_dtype(dtype))


def value_info(name: str, dtype: np.dtype[Any], shape: Sequence[int | str | None]) -> ValueInfoProto:
    """The declaration of a tensor."""
    return oh.make_tensor_value_info(name, onnx_type(dtype), list(shape))


def untyped(name: str) -> ValueInfoProto:
    """A tensor whose type ONNX Runtime finds itself."""
    return onnx.ValueInfoProto(name=name)
