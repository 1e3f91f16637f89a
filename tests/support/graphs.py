"""Small exported models, written with onnx.helper, whose output a few lines of NumPy can check.

Every graph sums, over its inputs, a vector of `dimension` floats: for a number the number times a weight, for a key the
key's row of a table, for a list the sum over its elements. A ranker adds the vectors' elements up and squashes
them. Weights are whole numbers and the sums small, so that float32 is exact in any order of summation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature, Stage
from feast_recsys.bundle.vocabulary import Vocabulary

ONNX_TYPES = {
    DType.INT64: TensorProto.INT64,
    DType.FLOAT32: TensorProto.FLOAT,
    DType.BOOL: TensorProto.BOOL,
    DType.STRING: TensorProto.STRING,
}


def weights(spec: Input, rows: int, dimension: int, seed: int) -> np.ndarray:
    """[rows, dimension] float32 whole numbers from -4 to 4, always the same for one input and seed."""
    digest = hashlib.sha256(f"{spec.name}/{seed}".encode()).digest()
    generator = np.random.default_rng(list(digest[:8]))
    return generator.integers(-4, 5, (rows, dimension)).astype(np.float32)


def expected(
    inputs: Sequence[Input],
    vocabularies: Mapping[str, Vocabulary],
    row: Mapping[str, Any],
    dimension: int,
    seed: int = 0,
) -> np.ndarray:
    """[dimension] float32: what an encoder gives for one row of raw values by reference; None is null.

    Written without the code under test: it pads nothing, and looks keys up in a dict.
    """
    total = np.zeros(dimension, np.float32)
    for spec in inputs:
        value = row[spec.feature]
        scalar = spec.default if value is None else value
        elements = list(value or [])[: spec.max_length] if spec.is_list else [scalar]
        if spec.vocabulary is None:
            table = weights(spec, 1, dimension, seed)
            total += sum((np.float32(e) * table[0] for e in elements), np.zeros(dimension, np.float32))
        else:
            keys = list(vocabularies[spec.vocabulary].keys)
            table = weights(spec, len(keys) + 1, dimension, seed)
            total += sum((table[keys.index(e) + 1] for e in elements if e in keys), np.zeros(dimension, np.float32))
    return total


def graph(
    inputs: Sequence[Input],
    vocabularies: Mapping[str, Vocabulary],
    dimension: int,
    *,
    ranker: bool = False,
    output: str = "output",
    seed: int = 0,
) -> onnx.ModelProto:
    """The graph described above; row 0 of each table is zero, so padding and unknown keys add nothing."""
    nodes: list[Any] = []
    constants: list[Any] = []
    parts = []
    for spec in inputs:
        name = spec.name
        rank = 2 if spec.is_list else 1
        if spec.vocabulary is None:
            constants.append(numpy_helper.from_array(weights(spec, 1, dimension, seed), f"{name}_table"))
            constants.append(numpy_helper.from_array(np.array([rank], np.int64), f"{name}_last"))
            nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
            nodes.append(helper.make_node("Unsqueeze", [f"{name}_float", f"{name}_last"], [f"{name}_column"]))
            nodes.append(helper.make_node("MatMul", [f"{name}_column", f"{name}_table"], [f"{name}_vector"]))
        else:
            keys = vocabularies[spec.vocabulary].keys
            table = weights(spec, len(keys) + 1, dimension, seed)
            table[0] = 0
            constants.append(numpy_helper.from_array(table, f"{name}_table"))
            kind = "keys_strings" if spec.dtype is DType.STRING else "keys_int64s"
            encode = {kind: list(keys), "values_int64s": list(range(1, len(keys) + 1)), "default_int64": 0}
            nodes.append(helper.make_node("LabelEncoder", [name], [f"{name}_rows"], domain="ai.onnx.ml", **encode))
            nodes.append(helper.make_node("Gather", [f"{name}_table", f"{name}_rows"], [f"{name}_vector"]))
        if spec.is_list:
            constants.append(numpy_helper.from_array(np.array([1], np.int64), f"{name}_axis"))
            nodes.append(
                helper.make_node("ReduceSum", [f"{name}_vector", f"{name}_axis"], [f"{name}_part"], keepdims=0)
            )
        parts.append(f"{name}_part" if spec.is_list else f"{name}_vector")
    total = output if not ranker else "total"
    nodes.append(helper.make_node("Sum", parts, [total]))
    shape: list[Any] = ["N" if all(spec.side is Side.ITEM for spec in inputs) else "B", dimension]
    if ranker:
        shape = ["N"]
        constants.append(numpy_helper.from_array(np.array([1], np.int64), "columns"))
        nodes.append(helper.make_node("ReduceSum", [total, "columns"], ["logit"], keepdims=0))
        nodes.append(helper.make_node("Sigmoid", ["logit"], [output]))
    body = helper.make_graph(
        nodes,
        "model",
        [input_info(spec) for spec in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    return model


def input_info(spec: Input, dtype: DType | None = None, rank: int | None = None) -> Any:
    """The graph's declaration of an input, right or, by the last two arguments, wrong."""
    # A ranker has one user and many items: sizes of one name must be equal.
    dimensions = ["N" if spec.side is Side.ITEM else "B", f"L_{spec.name}"][: rank or (2 if spec.is_list else 1)]
    return helper.make_tensor_value_info(spec.name, ONNX_TYPES[dtype or spec.dtype], dimensions)


def save_graph(folder: Path, declared: Graph, model: onnx.ModelProto) -> Graph:
    """Writes an ONNX file and returns the graph's entry with its name and checksum."""
    content = model.SerializeToString()
    name = f"{declared.role.value}.onnx"
    (folder / name).write_bytes(content)
    return replace(declared, file=name, sha256=hashlib.sha256(content).hexdigest())


def export(
    folder: Path,
    name: str,
    stage: Stage,
    inputs: Mapping[Role, Sequence[Input]],
    vocabularies: Mapping[str, Vocabulary] | None = None,
    *,
    dimension: int = 4,
    feature_services: Mapping[Role, str] | None = None,
    seed: int = 0,
) -> Signature:
    """Writes an exported model into `folder` (made here) and returns its signature."""
    folder.mkdir(parents=True, exist_ok=True)
    known = vocabularies or {}
    graphs = {}
    for role, specs in inputs.items():
        declared = Graph(role, tuple(specs), "output", (feature_services or {}).get(role))
        model = graph(specs, known, dimension, ranker=role is Role.RANKER, seed=seed)
        graphs[role] = save_graph(folder, declared, model)
    for file, vocabulary in known.items():
        (folder / file).write_text(json.dumps(vocabulary.keys, ensure_ascii=False), encoding="utf-8")
    signature = Signature(name, stage, graphs, dimension if stage is Stage.RETRIEVAL else 0, {"seed": seed})
    signature.save(folder)
    return signature
