"""Puts vocabularies in front of a traced graph, so that it takes raw Feast values under their own names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx import helper as oh

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input
from feast_recsys.bundle.vocabulary import OUT_OF_VOCABULARY, Vocabulary
from feast_recsys.exporters.trace import OUTPUT, traced_name

ML_DOMAIN = "ai.onnx.ml"
ML_OPSET = 3  # LabelEncoder with plain lists of keys
INNER = "net/"  # before every name inside the graph; input names are identifiers and can't begin so
ROWS = "rows/"

_ELEMENT = {DType.INT64: TensorProto.INT64, DType.STRING: TensorProto.STRING}


def attach_lookups(
    model: ModelProto, graph: Graph, vocabularies: Mapping[str, Vocabulary], properties: Mapping[str, str]
) -> ModelProto:
    """The graph that takes raw values: inputs named and ordered as in the signature.

    Where an input has a vocabulary, a LabelEncoder turns keys into rows 1..n and all else into row 0. Its
    default must be set: unset it is -1, and Gather takes -1 for the last row without a word.

    Args:
        model: As `trace` gives it; altered in place.
        graph: Its entry of the signature.
        vocabularies: By the names that the inputs give.
        properties: Written into the file's `metadata_props`.

    Raises:
        onnx.checker.ValidationError: the result is no valid ONNX, which is a defect here or in torch.
    """
    names = {OUTPUT: graph.output}
    for position, spec in enumerate(graph.inputs):
        names[traced_name(position)] = spec.name if spec.vocabulary is None else ROWS + spec.name
    _rename(model.graph, lambda name: names.get(name, INNER + name) if name else name)
    used = consumed(model.graph)
    lookups = []
    for value, spec in zip(model.graph.input, graph.inputs, strict=True):
        if spec.vocabulary is None:
            continue
        value.name = spec.name
        value.type.tensor_type.elem_type = _ELEMENT[spec.dtype]
        if ROWS + spec.name in used:
            lookups.append(_label_encoder(spec, vocabularies[spec.vocabulary]))
    nodes = [*lookups, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.name = graph.role.value
    if lookups:
        _require(model, ML_DOMAIN, ML_OPSET)
    _strip(model)
    oh.set_model_props(model, dict(properties))
    onnx.checker.check_model(model, full_check=True)
    return model


def unused_inputs(model: ModelProto) -> list[str]:
    """Inputs of the finished graph that no node reads."""
    used = consumed(model.graph) | {value.name for value in model.graph.output}
    return [value.name for value in model.graph.input if value.name not in used]


def consumed(graph: GraphProto) -> set[str]:
    """Every name that a node of the graph, or of a graph inside it, reads."""
    return {name for inner in _graphs(graph) for node in inner.node for name in node.input}


def _label_encoder(spec: Input, vocabulary: Vocabulary) -> NodeProto:
    strings = spec.dtype is DType.STRING
    # The operator wants at least one key: that of an empty vocabulary stands for row 0 like everything else.
    keys: list[Any] = list(vocabulary.keys) or ["" if strings else 0]
    first = 1 if vocabulary.keys else OUT_OF_VOCABULARY
    node = oh.make_node("LabelEncoder", [spec.name], [ROWS + spec.name], name=f"lookup/{spec.name}", domain=ML_DOMAIN)
    attributes = {
        "keys_strings" if strings else "keys_int64s": keys,
        "values_int64s": list(range(first, first + len(keys))),
        "default_int64": OUT_OF_VOCABULARY,
    }
    node.attribute.extend(oh.make_attribute(name, value) for name, value in attributes.items())
    return node


def _rename(graph: GraphProto, new: Callable[[str], str]) -> None:
    for inner in _graphs(graph):
        parts: list[Any] = [*inner.input, *inner.output, *inner.initializer]
        for part in parts:
            part.name = new(part.name)
        for sparse in inner.sparse_initializer:
            sparse.values.name = new(sparse.values.name)
        for node in inner.node:
            node.input[:] = [new(name) for name in node.input]
            node.output[:] = [new(name) for name in node.output]
        # Shapes of inner values carry torch's symbols; ONNX Runtime finds them itself.
        del inner.value_info[:]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph inside it: bodies of Loop, If and Scan."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
            elif attribute.type == AttributeProto.GRAPHS:
                for inner in attribute.graphs:
                    yield from _graphs(inner)


def _require(model: ModelProto, domain: str, version: int) -> None:
    """Makes the model import each domain once, and `domain` at `version` or later."""
    versions = {domain: version}
    for entry in model.opset_import:
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 0))
    del model.opset_import[:]
    model.opset_import.extend(oh.make_opsetid(name, number) for name, number in versions.items())


def _strip(model: ModelProto) -> None:
    """Drops what torch notes about its source: stack traces with paths of the machine that exported."""
    for inner in _graphs(model.graph):
        del inner.metadata_props[:]
        parts: list[Any] = [*inner.node, *inner.input, *inner.output, *inner.initializer]
        for part in parts:
            part.doc_string = ""
            del part.metadata_props[:]
