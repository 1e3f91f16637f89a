"""Shapes as they are: every tensor of a graph is computed at several sizes, and its axes are compared with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import ModelProto

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.signature import Graph
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.split.net import Net, untyped

SIZES = (5, 8, 1, 11)  # numbers of candidates that are tried

Dim = tuple[int, ...]
"""An axis: its size at each of SIZES."""
ONE: Dim = (1,) * len(SIZES)
CANDIDATES: Dim = SIZES
Shape = tuple[Dim, ...]
Feed = Mapping[str, Array]


def fixed(dim: Dim) -> bool:
    """Whether an axis has the same size at all sizes."""
    return len(set(dim)) == 1


@dataclass(frozen=True)
class Observed:
    """What was computed at each of SIZES.

    Attributes:
        shapes: By tensor; those that are no tensors (sequences) are left out.
        values: The same tensors, by name, at each size.
    """

    shapes: Mapping[str, Shape]
    values: tuple[Mapping[str, Array], ...]

    def dtype(self, name: str) -> np.dtype[Any]:
        """Element type of a tensor."""
        return self.values[0][name].dtype

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor; None if it is none, or has not the same rank at all sizes."""
        return self.shapes.get(name)


def session(model: ModelProto, *, optimise: bool = True) -> ort.InferenceSession:
    """ONNX Runtime on one thread. What fails is raised, and not printed as well."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class Prober:
    """Raw inputs at chosen sizes.

    Args:
        graph: The ranker's inputs.
        sampler: Draws values.
    """

    def __init__(self, graph: Graph, sampler: Sampler) -> None:
        self._graph = graph
        self._sampler = sampler

    def feeds(self) -> tuple[dict[str, Array], ...]:
        """One at each of SIZES; lists are of lengths that vary in ways of their own."""
        return tuple(self.feed(size, number) for number, size in enumerate(SIZES))

    def feed(self, size: int, number: int) -> dict[str, Array]:
        """`size` candidates with lists of lengths that depend on `number`."""
        feed = self._sampler.feed(size, 1 << 30)
        for position, spec in enumerate(self._graph.inputs):
            if spec.max_length is not None and spec.max_length > 1:
                # 7 and 3 have no common factor with most lengths, so that two lists seldom go together.
                length = (
                    1 + (spec.max_length - 1 + number * (1 + 7 * position + 3 * position * number)) % spec.max_length
                )
                feed[spec.name] = feed[spec.name][:, :length]
        return feed

    def longest(self, size: int) -> dict[str, Array]:
        """`size` candidates, all lists padded to their greatest length."""
        return self._sampler.feed(size, 1 << 30)


class Tracer:
    """Runs a graph and gives every tensor that it computes.

    Args:
        net: The graph.
    """

    def __init__(self, net: Net) -> None:
        self._count = net.count if net.count in net.inputs else ""
        self._inputs = [name for name in net.inputs if name != self._count]
        names = [name for node in net.nodes for name in node.output if name]
        model = net.model(net.nodes, list(net.inputs.values()), [untyped(name) for name in names])
        self._names = names
        self._session = session(model, optimise=False)

    def run(self, feed: Feed, size: int) -> dict[str, Array]:
        """Tensors by name, raw inputs among them."""
        given = {name: feed[name] for name in self._inputs}
        if self._count:
            given[self._count] = np.array([size], np.int64)
        results = self._session.run(self._names, given) if self._names else []
        # Sequences come as lists: they are no tensors and have no shape.
        return given | {n: np.asarray(r) for n, r in zip(self._names, results, strict=True) if not isinstance(r, list)}


def observe(net: Net, feeds: Sequence[Feed]) -> Observed:
    """Every tensor of the graph at each of SIZES."""
    tracer = Tracer(net)
    values = tuple(tracer.run(feed, size) for feed, size in zip(feeds, SIZES, strict=True))
    shapes = {}
    for name in values[0]:
        if all(name in each for each in values) and len({np.ndim(each[name]) for each in values}) == 1:
            shapes[name] = tuple(zip(*(np.shape(each[name]) for each in values), strict=True))
    for name, constant in net.constants.items():
        shapes[name] = tuple((size,) * len(SIZES) for size in constant.shape)
    values = tuple({**each, **net.constants} for each in values)
    return Observed(shapes, values)
