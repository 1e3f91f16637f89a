"""Splits rankers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from feast_recsys.bundle.errors import ParityFailed
from feast_recsys.bundle.signature import Graph, Scalar
from feast_recsys.bundle.split import Split
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.split import costs
from feast_recsys.exporters.split.cutting import Cut, bytes_of, choose_cut, node_cost
from feast_recsys.exporters.split.dependence import Kind, causes, kinds
from feast_recsys.exporters.split.flops import Work, total, work_by_node
from feast_recsys.exporters.split.folding import fold, pad_lists, paddable
from feast_recsys.exporters.split.independence import dependent_tensors
from feast_recsys.exporters.split.net import Net
from feast_recsys.exporters.split.parts import HALF, Parts, RunningParts, build_parts
from feast_recsys.exporters.split.proof import Agreement, prove_split
from feast_recsys.exporters.split.relaxing import Options, measure, quantized
from feast_recsys.exporters.split.rewriting import rewrite
from feast_recsys.exporters.split.shapes import CANDIDATES, Feed, Observed, Prober
from feast_recsys.exporters.split.stacking import is_stackable, stacking_axes
from feast_recsys.exporters.trace import OPSET

_TWO = (16, 48)  # numbers of candidates between which work is measured


@dataclass(frozen=True)
class SplitResult:
    """What became of a ranker.

    Attributes:
        split: The entry of the signature; None if nothing is gained by splitting.
        files: Contents by file name.
        metadata: Facts for people: plain YAML.
    """

    split: Split | None
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)


def split_ranker(
    model: ModelProto,
    graph: Graph,
    vocabularies: Mapping[str, Vocabulary],
    *,
    tolerance: float,
    seed: int = 0,
    probes: Mapping[str, Sequence[Scalar]] | None = None,
    options: Options | None = None,
) -> SplitResult:
    """Divides a ranker into what depends on the user, on the item, and on both.

    Args:
        model: The whole graph, with raw inputs as in `graph`; left as it is.
        graph: Its entry of the signature. `graph.file` gives the parts' files their names.
        vocabularies: By the names that the inputs give.
        tolerance: Largest difference from the whole graph, see `proof.Agreement.relative`.
        seed: Of the values that are tried.
        probes: Further values to try, by Feast reference.
        options: What may be given up for speed; nothing by default.

    Raises:
        ParityFailed: parts differ from the whole graph even without any rewriting; names the case. Or the options
            cost more accuracy than makes sense.
    """
    options = options or Options()
    if (why := _unknown_form(model)) is not None:
        return SplitResult(None, {}, {"hoisted": False, "why": why})
    sampler = Sampler(graph, vocabularies, seed, probes)
    prober = Prober(graph, sampler)
    dropped = list[str]()
    attempts = [(True, True), (False, True), (True, False), (False, False)]
    for attempt in attempts:
        rewriting, padding = attempt
        try:
            division = _divide(model, graph, prober, rewriting=rewriting, padding=padding)
            if (why := _no_gain(division)) is not None:
                return SplitResult(None, {}, {"hoisted": False, "why": why})
            parts = division.parts()
            running = RunningParts(parts, graph.output)
            agreement = prove_split(model, graph, running, Sampler(graph, vocabularies, seed, probes), tolerance)
        except Exception as error:  # a rewriting may meet what it does not know; then the graph is divided as it is
            if attempt == attempts[-1] or not (rewriting or isinstance(error, ParityFailed)):
                raise
            dropped.append(str(error) or type(error).__name__)
            continue
        stackable, axes = False, tuple[int, ...]()
        for axes in stacking_axes(parts.from_user, parts.from_item):
            stacked = division.parts(stacked=axes)
            if is_stackable(RunningParts(stacked, graph.output), graph, sampler, tolerance):
                stackable, parts = True, stacked
                break
        facts = _facts(division, agreement, dropped, stackable=stackable)
        if not options.exact:
            parts, cost = _relaxed(model, graph, division, prober, options, axes if stackable else ())
            facts |= {"quantize": options.quantize, "item_columns": options.item_columns, "cost": cost}
            facts["item_columns_bytes"] = sum(p.width * p.numpy.itemsize for p in parts.from_item)
        split, files = parts.describe(graph.file.removesuffix(".onnx"), stackable=stackable)
        return SplitResult(split, files, facts)
    raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True)
class _Division:
    """A divided net and what is known of it."""

    net: Net
    cut: Cut
    seen: Observed
    whole: Work
    served: Work
    cost: float
    rewrites: tuple[str, ...]

    def parts(self, *, half: bool = False, stacked: Sequence[int] = ()) -> Parts:
        """The models."""
        return build_parts(self.net, self.cut, self.seen, half=half, stacked=stacked)


def _divide(model: ModelProto, graph: Graph, prober: Prober, *, rewriting: bool, padding: bool) -> _Division:
    """The cheapest division: with rewriting only where that is cheaper than without."""
    original = Net.of(model)
    two = prober.longest(_TWO[0]), prober.longest(_TWO[1])
    plain = _divide_once(original, graph, prober.feeds(), two, rewriting=False, padding=padding)
    if not rewriting:
        return plain
    division = _divide_once(original, graph, prober.feeds(), two, rewriting=True, padding=padding)
    return division if division.rewrites and division.cost < plain.cost else plain


def _divide_once(
    original: Net, graph: Graph, feeds: Sequence[Feed], two: tuple[Feed, Feed], *, rewriting: bool, padding: bool
) -> _Division:
    lists = set(paddable(graph)) if padding else set()
    while True:
        net = original.copy()
        padded = pad_lists(net, graph, lists)
        seen = fold(net, graph, feeds)
        rewrites: tuple[str, ...] = ()
        if rewriting and (rewrites := rewrite(net, graph, seen)):
            seen = fold(net, graph, feeds)
        cut, works = _cut(net, graph, seen, two)
        made = {name for node in cut.cross for name in node.output}
        # Where the cross part takes the list itself, padding it there is wasted.
        idle = {name for name, tensor in padded.items() if tensor in made}
        if not idle:
            break
        lists -= idle
    whole = total(work_by_node(original, two, _TWO))
    cost = sum(node_cost(net, node, work) for node, work in zip(cut.cross, works, strict=True))
    cost += sum(costs.keeping(bytes_of(seen, name)) for name in cut.from_item)
    return _Division(net, cut, seen, whole, total(works), cost, rewrites)


def _cut(net: Net, graph: Graph, seen: Observed, two: tuple[Feed, Feed]) -> tuple[Cut, list[Work]]:
    """The cheapest cut, and what each node of its cross part does for a candidate."""
    works = work_by_node(net, two, _TWO)
    found = causes(net, graph)
    rows = [
        name
        for name, kind in kinds(found).items()
        if kind is Kind.ITEM and (seen.shape(name) or ()).count(CANDIDATES) == 1
    ]
    cut = choose_cut(net, found, seen, works, dependent_tensors(net, graph, seen, two[0], rows))
    by_node = {id(node): work for node, work in zip(net.nodes, works, strict=True)}
    return cut, [by_node[id(node)] for node in cut.cross]


def _relaxed(
    model: ModelProto, graph: Graph, division: _Division, prober: Prober, options: Options, stacked: Sequence[int]
) -> tuple[Parts, dict[str, Any]]:
    parts = division.parts(half=options.item_columns == HALF, stacked=stacked)
    if options.quantize == "int8":
        parts = quantized(parts)
    return parts, measure(model, graph, RunningParts(parts, graph.output), prober).to_dict()


def _unknown_form(model: ModelProto) -> str | None:
    """Why a model can't be taken apart here; None if it can."""
    version = next((entry.version for entry in model.opset_import if entry.domain == ""), 0)
    if version < OPSET:
        return f"the graph is of opset {version}; convert it to {OPSET}"
    if model.graph.sparse_initializer:
        return "the graph has sparse initializers; write them as dense ones"
    return None


def _no_gain(division: _Division) -> str | None:
    """Why splitting is of no use; None if it is."""
    if not division.cut.from_item and not division.cut.from_user:
        return "every node depends on both the user and values that only the caller knows"
    if division.served.lookups < division.whole.lookups - 0.5 or division.served.flops < 0.98 * division.whole.flops:
        return None
    return "what depends on the item alone is neither computed nor looked up"


def _facts(division: _Division, agreement: Agreement, dropped: Sequence[str], *, stackable: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "hoisted": True,
        "flops_per_candidate": {"whole": round(division.whole.flops), "served": round(division.served.flops)},
        "lookups_per_candidate": {"whole": round(division.whole.lookups), "served": round(division.served.lookups)},
        "item_columns_bytes": sum(bytes_of(division.seen, name) for name in division.cut.from_item),
        "rewrites": list(division.rewrites),
        "stackable": stackable,
        "parity": agreement.to_dict(),
    }
    if dropped:
        facts["dropped"] = list(dropped)
    return facts
