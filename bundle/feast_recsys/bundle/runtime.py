"""ONNX Runtime behind a signature: checked once at load, called with arrays afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnxruntime as ort

from feast_recsys.bundle.columns import Array, DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSettings, InvalidSignature
from feast_recsys.bundle.signature import Graph, Input, Role, Signature
from feast_recsys.bundle.split import Part, Split

_ORT_TYPES = {
    DType.INT64: "tensor(int64)",
    DType.FLOAT32: "tensor(float)",
    DType.BOOL: "tensor(bool)",
    DType.STRING: "tensor(string)",
}

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Execution:
    """Where and how graphs run.

    Attributes:
        device: `cpu` or `cuda`.
        threads: Threads inside one run. One is best for small models: scale by requests instead.
        spinning: Whether these threads burn their core while they wait for work.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    spinning: bool = False


ON_CPU = Execution()


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


@dataclass(frozen=True)
class LoadedPart:
    """One part of a split ranker, ready to run. Safe to share between threads."""

    part: Part
    session: ort.InferenceSession

    def run(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """What a user or item part hands over, by name, for its inputs by name; others may be among them."""
        results = self.session.run(None, {name: tensors[name] for name in self.part.inputs})
        return {passed.name: result for passed, result in zip(self.part.outputs, results, strict=True)}

    def score(self, tensors: Mapping[str, Array]) -> Array:
        """[N] probabilities that the cross part gives for exactly its inputs by name."""
        result: Array = self.session.run(None, dict(tensors))[0]
        return result


@dataclass(frozen=True)
class LoadedSplit:
    """A split ranker, ready to run.

    Attributes:
        user: None if nothing depends on the user alone.
        item: None if nothing depends on the item alone; opened by jobs only, for a server has its columns.
        cross: Gives the probabilities as its one output.
    """

    user: LoadedPart | None
    item: LoadedPart | None
    cross: LoadedPart


def load_graph(folder: Path, graph: Graph, execution: Execution = ON_CPU) -> LoadedGraph:
    """Opens a graph of an exported model and holds it against its signature.

    Args:
        folder: The exported model.
        graph: The entry of its signature.
        execution: Where and how it is to run.

    Raises:
        CorruptArtifact: the file is missing, altered, or no model that this ONNX Runtime reads.
        InvalidSettings: this ONNX Runtime can't run on that device.
        InvalidSignature: inputs or output differ from the signature; names the input.
    """
    path = folder / graph.file
    session = _open(path, graph.sha256, execution)
    _check(session, graph, path)
    return LoadedGraph(graph, session)


def load_split(folder: Path, split: Split, *, item: bool, execution: Execution = ON_CPU) -> LoadedSplit:
    """Opens the parts of a split ranker and holds them against its signature.

    Args:
        folder: The exported model.
        split: From its signature.
        item: Whether to open the item part: jobs run it, a server has what it gave.
        execution: Where and how they are to run.

    Raises:
        CorruptArtifact: a file is missing, altered, or no model that this ONNX Runtime reads.
        InvalidSettings: this ONNX Runtime can't run on that device.
        InvalidSignature: a part does not take or give what the signature says; names the tensor.
    """
    user, item_part = None, None
    if split.user is not None:
        # One row: the way to the device and back costs more than the part itself.
        user = _load_part(folder, split.user, split.user.inputs, replace(execution, device="cpu"))
    if split.item is not None and item:
        item_part = _load_part(folder, split.item, split.item.inputs, execution)
    passed = [output.name for part in (split.user, split.item) if part is not None for output in part.outputs]
    taken = (*split.cross.inputs, *passed, *([split.count] if split.count else ()))
    return LoadedSplit(user, item_part, _load_part(folder, split.cross, taken, execution))


def _load_part(folder: Path, part: Part, taken: Sequence[str], execution: Execution) -> LoadedPart:
    path = folder / part.file
    session = _open(path, part.sha256, execution)
    actual = {node.name for node in session.get_inputs()}
    for name in sorted(set(taken) ^ actual):
        where = "the signature but not the graph" if name in taken else "the graph but not the signature"
        raise InvalidSignature(f"{path}: input {name!r} is in {where}; export the model again", field=name)
    outputs = [node.name for node in session.get_outputs()]
    if part.outputs and outputs != [passed.name for passed in part.outputs]:
        raise InvalidSignature(f"{path} gives {outputs}, not what its signature says; export the model again")
    return LoadedPart(part, session)


def _open(path: Path, sha256: str, execution: Execution) -> ort.InferenceSession:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptArtifact(f"{path} can't be read: {error}") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CorruptArtifact(f"{path} differs from its checksum in the signature; export the model again")
    options = ort.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if execution.spinning else "0")
    options.log_severity_level = 3
    providers = _providers(execution)
    try:
        session = ort.InferenceSession(content, options, providers=providers)
    except Exception as error:  # ONNX Runtime has no common base class for its load errors
        raise CorruptArtifact(f"{path} is no model that ONNX Runtime {ort.__version__} reads: {error}") from error
    # Where CUDA's libraries are missing, ONNX Runtime logs a line and goes on with the CPU.
    if providers[0] not in session.get_providers():
        raise InvalidSettings(
            f"ONNX Runtime {ort.__version__} can't start on {execution.device}: is a GPU there, and do CUDA and cuDNN "
            "have the versions that it was built for? Mend that, or set recsys.serving.device to cpu",
            field="recsys.serving.device",
        )
    return session


def _providers(execution: Execution) -> list[str]:
    if execution.device == "cpu":
        return [CPU]
    if CUDA not in ort.get_available_providers():
        raise InvalidSettings(
            f"recsys.serving.device is cuda, but this ONNX Runtime {ort.__version__} was built without it; "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu",
            field="recsys.serving.device",
        )
    return [CUDA, CPU]


def load_model(
    folder: Path, roles: Sequence[Role] = tuple(Role), execution: Execution = ON_CPU
) -> tuple[Signature, dict[str, LoadedGraph]]:
    """Opens an exported model: its signature and its graphs by role.

    Args:
        folder: The exported model.
        roles: Which graphs to open.
        execution: Where and how they are to run.

    Raises:
        CorruptArtifact, InvalidSignature, InvalidSettings: see `load_graph` and `Signature.load`.
    """
    signature = Signature.load(folder)
    wanted = {role: graph for role, graph in signature.graphs.items() if role in roles}
    return signature, {role.value: load_graph(folder, graph, execution) for role, graph in wanted.items()}


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
