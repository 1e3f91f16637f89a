"""Rewrites a graph so that more of it depends on one side alone. What it computes stays the same but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from feast_recsys.bundle.signature import Graph
from feast_recsys.exporters.split.bench import Bench, broadcast
from feast_recsys.exporters.split.dependence import Kind, causes
from feast_recsys.exporters.split.linear import add_up, chained, find_factor, find_sum, product, reduced_sum
from feast_recsys.exporters.split.net import Net, renamed
from feast_recsys.exporters.split.pieces import ELEMENTWISE, carry
from feast_recsys.exporters.split.shapes import Observed
from feast_recsys.exporters.split.views import Pieces


def rewrite(net: Net, graph: Graph, seen: Observed) -> tuple[str, ...]:
    """Takes products and sums apart by what their operands depend on.

    Args:
        net: Altered in place.
        graph: Its inputs.
        seen: Its tensors.

    Returns:
        What was done, for people; empty if nothing was.
    """
    rewriter = _Rewriter(net, seen, graph)
    for node in net.nodes:
        rewriter.take(node)
    return rewriter.finish()


class _Rewriter:
    def __init__(self, net: Net, seen: Observed, graph: Graph) -> None:
        self._net = net
        self._bench = Bench(net, seen, causes(net, graph))
        self._pieces: dict[str, Pieces] = {}
        self._sums: dict[str, list[str]] = {}
        self._done: dict[str, None] = {}

    def take(self, node: NodeProto) -> None:
        """The next node: as it was, on what stands for its inputs; and what can be known of its output."""
        bench = self._bench
        bench.nodes.append(renamed(node, {name: bench.name(name) for name in node.input if name}))
        if len(node.output) != 1 or (shape := bench.shape(node.output[0])) is None:
            return
        output = node.output[0]
        if (terms := self._terms(node)) is not None:
            self._settle(output, terms)
            return
        if (chain := chained(bench, node)) is not None:
            name, factor = chain
            bench.factors[name] = factor
            bench.replace(output, name)
            self._note("a chain of products with matrices of the user as one")
            return
        # What is done to all pieces of a concatenation alike, such as scaling, goes to each of them.
        joined = any(name in self._pieces for name in node.input)
        pieces = carry(bench, node, self._pieces) if joined else None
        if pieces is None and (found := find_factor(bench, node)) is not None and shape:
            bench.factors[output] = found
            return
        if not joined:
            pieces = carry(bench, node, self._pieces)
        if (summands := self._summands(node)) is not None:
            for name in (output, *(pieces.names if pieces is not None else ())):
                bench.sums[name] = summands
        if pieces is None:
            return
        if len(pieces.names) == 1 and bench.known_shape(pieces.names[0]) == shape:
            bench.replace(output, pieces.names[0])
            if node.op_type in ELEMENTWISE:
                self._note("repetition for all candidates left to broadcasting")
            return
        self._pieces[output] = pieces

    def _terms(self, node: NodeProto) -> list[str] | None:
        """Summands of the output, if it is a product, a sum of pieces, or a sum that is worth arranging anew."""
        bench, pieces = self._bench, self._pieces.get(node.input[0]) if node.input else None
        if node.op_type in ("MatMul", "Gemm"):
            terms = product(bench, node, pieces) if pieces is not None else None
            return self._noted(terms, "a product of values of both sides as a sum of products")
        if node.op_type == "ReduceSum" and pieces is not None:
            return self._noted(reduced_sum(bench, node, pieces), "a sum over values of both sides as two sums")
        if node.op_type == "Add" and bench.is_float(node.output[0]):
            return self._arranged(node)
        return None

    def _summands(self, node: NodeProto) -> tuple[tuple[int, str], ...] | None:
        """The summands of an Add or Sub whose operands are one piece each."""
        names = list[str]()
        for name in node.input:
            pieces = self._pieces.get(name)
            if pieces is not None and len(pieces.names) > 1:
                return None
            names.append(self._bench.name(name) if pieces is None else pieces.names[0])
        return find_sum(self._bench, node, names)

    def _arranged(self, node: NodeProto) -> list[str] | None:
        """The summands of a sum of sums, if some of one side can be added up first."""
        bench = self._bench
        if any(name in self._pieces and bench.shape(name) != bench.shape(node.output[0]) for name in node.input):
            return None
        terms = list[str]()
        for name in node.input:
            pieces = self._pieces.get(name)
            single = pieces.names[0] if pieces is not None and len(pieces.names) == 1 else bench.name(name)
            terms += self._sums.get(name, [single])
        sides = [bench.kind(term) for term in terms]
        self._sums[node.output[0]] = terms
        known = Kind.USER if Kind.USER in sides else Kind.ITEM
        merged = sides.count(Kind.ITEM) > 1 or sides.count(Kind.USER) + sides.count(Kind.CONSTANT) > 1
        return terms if len(terms) > 2 and Kind.CROSS in {*sides, _joint(sides)} and merged and known in sides else None

    def _settle(self, output: str, terms: Sequence[str]) -> None:
        """Lets the sum of some summands stand for a tensor."""
        bench = self._bench
        self._sums[output] = list(terms)
        shape, total = bench.known_shape(output), add_up(bench, terms)
        if broadcast(*(bench.known_shape(term) for term in terms)) == shape:
            bench.replace(output, total)
        elif len(bench.known_shape(total)) == len(shape):
            self._pieces[output] = Pieces(len(shape) - 1, (total,), shape)

    def _noted(self, terms: list[str] | None, what: str) -> list[str] | None:
        if terms is not None:
            self._note(what)
        return terms

    def _note(self, what: str) -> None:
        self._done[what] = None

    def finish(self) -> tuple[str, ...]:
        """Puts the new nodes in place."""
        bench, net = self._bench, self._net
        output = net.output.name
        nodes = bench.nodes
        if (name := bench.name(output)) != output:
            spare = net.fresh("split/spare")
            nodes = [renamed(node, {output: spare, name: output}) for node in nodes]
        net.nodes = nodes
        net.prune()
        return tuple(self._done)


def _joint(sides: Sequence[Kind]) -> Kind:
    """What a sum of both sides' values is."""
    return Kind.CROSS if {Kind.USER, Kind.ITEM} <= set(sides) else Kind.CONSTANT
