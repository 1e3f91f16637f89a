"""From a torch module to an ONNX graph with dynamic batch and list lengths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.signature import Graph, Role
from feast_recsys.exporters.inputs import single_row
from feast_recsys.exporters.quiet import quiet_exporter

OPSET = 18  # torch's operator library is written at 18: nothing is converted
IR_VERSION = 10  # read by ONNX Runtime 1.18 and newer
MAX_BYTES = 1_500_000_000  # one protobuf message ends at 2 GB

TRACE_BATCH = 5
OUTPUT = "/output"  # the slash keeps these names apart from those that torch gives


class _Keywords(nn.Module):
    """Takes all inputs as one mapping, so that modules with named and with `**` parameters trace alike."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self.module(**inputs)
        return output


def traced_name(position: int) -> str:
    """Name of an input in the traced graph, before lookups are put in front."""
    return f"/input/{position}"


def trace(module: nn.Module, graph: Graph, sample: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The module as ONNX: inputs `traced_name(i)` in the order of the graph, output `OUTPUT`.

    Args:
        module: In eval mode, on the CPU.
        graph: Its inputs.
        sample: One tensor an input, batch and lengths at least 2 wherever they are dynamic.

    Raises:
        InvalidSignature: torch can't trace the module, the module fixes a dimension that must be dynamic, or
            its weights don't fit one file. Names the feature where one is to blame.
    """
    role = graph.role.value
    size = sum(t.numel() * t.element_size() for t in {*module.parameters(), *module.buffers()})
    if size > MAX_BYTES:
        raise InvalidSignature(
            f"{role} has {size / 1e9:.1f} GB of weights; one ONNX file holds {MAX_BYTES / 1e9:.1f} GB",
            field=f"graphs.{role}",
        )
    try:
        with quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                _Keywords(module).eval(),
                (),
                kwargs={"inputs": dict(sample)},
                dynamic_shapes={"inputs": _dynamic_shapes(graph)},
                input_names=[traced_name(n) for n in range(len(graph.inputs))],
                output_names=[OUTPUT],
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
                external_data=False,
            )
            assert program is not None
            model = program.model_proto
    except Exception as error:  # torch raises its own errors, and those of every layer below
        reason = error.__cause__ or error
        first = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
        raise InvalidSignature(
            f"forward() of {role} can't be exported: {first}. Write masks instead of branches on values, "
            "and no loops over rows",
            field=f"graphs.{role}",
        ) from error
    model.ir_version = IR_VERSION
    _check_dimensions(model, graph)
    return model


def _dynamic_shapes(graph: Graph) -> dict[str, dict[int, Any]]:
    # AUTO, unlike a named dimension, lets a fixed one through: _check_dimensions then names the feature.
    shapes: dict[str, dict[int, Any]] = {}
    for spec in graph.inputs:
        shapes[spec.name] = {} if single_row(graph.role, spec) else {0: Dim.AUTO}
        if spec.max_length is not None and spec.max_length > 1:
            shapes[spec.name][1] = Dim.AUTO
    return shapes


def _check_dimensions(model: onnx.ModelProto, graph: Graph) -> None:
    """Refuses fixed dimensions, then gives the dynamic ones names that people know."""
    batch = "candidates" if graph.role is Role.RANKER else "batch"
    lengths: dict[str, str] = {}
    actual = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    for position, spec in enumerate(graph.inputs):
        dims = actual.get(traced_name(position))
        where = f"{graph.role.value}: {spec.feature} (input {spec.name!r})"
        if dims is None:
            raise InvalidSignature(f"{where} got lost in the export", field=spec.name)
        if not single_row(graph.role, spec):
            _expect_dynamic(dims[0], f"{where}: forward() fixes the batch size", spec.name)
            dims[0].dim_param = batch
        if spec.max_length is None or spec.max_length == 1:
            continue
        _expect_dynamic(dims[1], f"{where}: forward() fixes the length of the list", spec.name)
        if (other := lengths.setdefault(dims[1].dim_param, spec.feature)) != spec.feature:
            raise InvalidSignature(
                f"{where}: forward() needs it as long as {other}, but every list is padded for itself; "
                "pad both to one length inside forward(), with torch.nn.functional.pad",
                field=spec.name,
            )
        dims[1].dim_param = f"{spec.name}_length"
    rows = model.graph.output[0].type.tensor_type.shape.dim[0]
    output = f"graphs.{graph.role.value}.output"
    _expect_dynamic(rows, f"{graph.role.value}: forward() fixes the number of rows of its output", output)
    rows.dim_param = batch


def _expect_dynamic(dim: onnx.TensorShapeProto.Dimension, what: str, field: str) -> None:
    if not dim.dim_param:
        raise InvalidSignature(
            f"{what} to {dim.dim_value}; it must work for any: no int() of a shape, no loop over rows, "
            "no Linear over a padded list",
            field=field,
        )
