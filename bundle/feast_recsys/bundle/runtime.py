"""ONNX Runtime behind a signature: checked once at load, called with arrays afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.signature import Graph, Input, Signature

_ORT_TYPES = {
    DType.INT64: "tensor(int64)",
    DType.FLOAT32: "tensor(float)",
    DType.BOOL: "tensor(bool)",
    DType.STRING: "tensor(string)",
}


@dataclass(frozen=True)
class LoadedGraph:
    """A graph ready to run. Safe to share between threads."""

    graph: Graph
    session: ort.InferenceSession

    def run(self, tensors: Mapping[str, Array]) -> Array:
        """The graph's one output for the given inputs, by input name."""
        feed = {spec.name: tensors[spec.name] for spec in self.graph.inputs}
        result: Array = self.session.run([self.graph.output], feed)[0]
        return result


def load_graph(folder: Path, graph: Graph, *, threads: int = 1) -> LoadedGraph:
    """Opens a graph of an exported model and holds it against its signature.

    Args:
        folder: The exported model.
        graph: The entry of its signature.
        threads: Threads inside one call. One is best for small models: scale by requests instead.

    Raises:
        CorruptArtifact: the file is missing, altered, or no model that this ONNX Runtime reads.
        InvalidSignature: inputs or output differ from the signature; names the input.
    """
    path = folder / graph.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != graph.sha256:
        raise CorruptArtifact(f"{path} differs from its checksum in the signature; export the model again")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has no common base class for its load errors
        raise CorruptArtifact(f"{path} is no model that ONNX Runtime {ort.__version__} reads: {error}") from error
    _check(session, graph, path)
    return LoadedGraph(graph, session)


def load_model(folder: Path) -> tuple[Signature, dict[str, LoadedGraph]]:
    """Opens an exported model: its signature and its graphs by role.

    Raises:
        CorruptArtifact, InvalidSignature: see `load_graph` and `Signature.load`.
    """
    signature = Signature.load(folder)
    return signature, {role.value: load_graph(folder, graph) for role, graph in signature.graphs.items()}


def _check(session: ort.InferenceSession, graph: Graph, path: Path) -> None:
    actual = {node.name: node for node in session.get_inputs()}
    declared = {spec.name for spec in graph.inputs}
    for name in sorted(declared ^ set(actual)):
        where = "the signature but not the graph" if name in declared else "the graph but not the signature"
        raise InvalidSignature(f"{path}: input {name!r} is in {where}", field=name)
    for spec in graph.inputs:
        _check_input(actual[spec.name], spec, path)
    outputs = {node.name: node.type for node in session.get_outputs()}
    if graph.output not in outputs:
        raise InvalidSignature(f"{path}: output {graph.output!r} is not among {list(outputs)}", field=graph.output)
    if outputs[graph.output] != _ORT_TYPES[DType.FLOAT32]:
        kind = outputs[graph.output]
        raise InvalidSignature(f"{path}: output {graph.output!r} is {kind}, not float32", field=graph.output)


def _check_input(node: ort.NodeArg, spec: Input, path: Path) -> None:
    if node.type != _ORT_TYPES[spec.dtype]:
        raise InvalidSignature(
            f"{path}: input {spec.name!r} is {node.type} in the graph, {spec.dtype.value} in the signature",
            field=spec.name,
        )
    rank = 2 if spec.is_list else 1
    if len(node.shape) != rank:
        raise InvalidSignature(
            f"{path}: input {spec.name!r} has rank {len(node.shape)} in the graph, {rank} in the signature",
            field=spec.name,
        )
