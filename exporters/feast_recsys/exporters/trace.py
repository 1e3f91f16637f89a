"""From a torch module to an ONNX graph with dynamic batch and list lengths."""

from __future__ import annotations

import re
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
# How torch says that a dimension is not dynamic.
_FIXED = re.compile(r"static shape of (\d+) for dimension inputs\['inputs'\]\['(\w+)'\]\.shape\[(\d)\]")
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


def equally_long(other: str) -> str:
    """What is wrong with a list that must be as long as another."""
    return (
        f"forward() needs it as long as {other}, but every list is padded for itself; pad both to one length inside "
        "forward(), with torch.nn.functional.pad"
    )


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
        field, message = _explain(graph, error)
        raise InvalidSignature(message, field=field) from error
    model.ir_version = IR_VERSION
    check_dimensions(model, graph)
    return model


def _dynamic_shapes(graph: Graph) -> dict[str, dict[int, Any]]:
    shapes: dict[str, dict[int, Any]] = {}
    for spec in graph.inputs:
        shapes[spec.name] = {} if single_row(graph.role, spec) else {0: Dim.DYNAMIC}
        if spec.max_length is not None and spec.max_length > 1:
            shapes[spec.name][1] = Dim.DYNAMIC
    return shapes


def _explain(graph: Graph, error: BaseException) -> tuple[str, str]:
    """The field and the message for an error of torch's exporter."""
    while error.__cause__ is not None:  # torch wraps what happened in advice about itself
        error = error.__cause__
    role = graph.role.value
    if (fixed := _FIXED.search(str(error))) is not None:
        size, name, axis = fixed.groups()
        what = "the batch size" if axis == "0" else "the length of the list"
        return name, _fixed(f"{role}: {graph.input(name).feature} (input {name!r}): forward() fixes {what}", size)
    lines = [line.strip(" .") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"graphs.{role}", (
        f"{role}: forward() can't be exported: {first}. Write masks instead of branches on values, "
        "no loops over rows, and only operators that ONNX has"
    )


def check_dimensions(model: onnx.ModelProto, graph: Graph) -> None:
    """Refuses fixed dimensions, then gives the dynamic ones names that people know.

    Args:
        model: As torch exports it, with inputs of `traced_name`; altered in place.
        graph: What the inputs are to be.

    Raises:
        InvalidSignature: an input is missing, a dimension is fixed, or two lists share one; names the feature.
    """
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
            raise InvalidSignature(f"{where}: {equally_long(other)}", field=spec.name)
        dims[1].dim_param = f"{spec.name}_length"
    rows = model.graph.output[0].type.tensor_type.shape.dim[0]
    output = f"graphs.{graph.role.value}.output"
    _expect_dynamic(rows, f"{graph.role.value}: forward() fixes the number of rows of its output", output)
    rows.dim_param = batch


def _expect_dynamic(dim: onnx.TensorShapeProto.Dimension, what: str, field: str) -> None:
    if not dim.dim_param:
        raise InvalidSignature(_fixed(what, dim.dim_value), field=field)


def _fixed(what: str, size: int | str) -> str:
    return (
        f"{what} to {size}; it must work for any: no int() of a shape, no loop over rows, no Linear over a padded list"
    )
