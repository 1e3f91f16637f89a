"""Rankers written node by node, as another tool than torch may write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx import helper as oh

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.signature import Graph, Input, Role, Side

_TYPES = {DType.INT64: TensorProto.INT64, DType.FLOAT32: TensorProto.FLOAT, DType.BOOL: TensorProto.BOOL}


class HandMade:
    """Collects nodes and constants; every method gives the name of what it adds."""

    def __init__(self, *inputs: Input) -> None:
        self.inputs = inputs
        self.nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []

    def constant(self, value: Array) -> str:
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **attributes: object) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(oh.make_node(kind, list(inputs), [output], **attributes))
        return output

    def end(self, logits: str) -> tuple[ModelProto, Graph]:
        """The model and its entry of the signature; `logits` is [N]."""
        self.node("Sigmoid", [logits], "probability")
        inputs = []
        for spec in self.inputs:
            shape: list[int | str] = ["candidates" if spec.side is Side.ITEM else 1]
            shape += [f"{spec.name}_length"] if spec.is_list else []
            inputs.append(oh.make_tensor_value_info(spec.name, _TYPES[spec.dtype], shape))
        output = oh.make_tensor_value_info("probability", TensorProto.FLOAT, ["candidates"])
        graph = oh.make_graph(self.nodes, "hand_made", inputs, [output], self._constants)
        model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model, Graph(Role.RANKER, self.inputs, "probability", file="ranker.onnx")
