"""Writes exported models."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnx import ModelProto
from torch import nn

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.folders import replace_folder
from feast_recsys.bundle.runtime import load_graph
from feast_recsys.bundle.signature import SIGNATURE_FILE, Graph, Role, Scalar, Signature
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.cases import Sampler
from feast_recsys.exporters.checks import (
    check_forward,
    check_module,
    check_probes,
    check_roles,
    check_vocabularies,
    flat_names,
)
from feast_recsys.exporters.inputs import to_torch
from feast_recsys.exporters.lookup import attach_lookups, unused_inputs
from feast_recsys.exporters.parity import prove_parity
from feast_recsys.exporters.split.ranker import split_ranker
from feast_recsys.exporters.split.relaxing import Options
from feast_recsys.exporters.trace import TRACE_BATCH, trace

TOLERANCE = 1e-5
LIBRARIES = ("feast-recsys", "torch", "onnx", "onnxscript", "onnxruntime")


def export_model(
    modules: Mapping[Role, nn.Module],
    signature: Signature,
    vocabularies: Mapping[str, Vocabulary],
    folder: Path,
    *,
    tolerance: float = TOLERANCE,
    seed: int = 0,
    probes: Mapping[str, Sequence[Scalar]] | None = None,
    options: Options | None = None,
) -> Signature:
    """Turns torch modules into an exported model, proved equal to them.

    A ranker is written as a whole and, where that saves work for each candidate, in three parts as well: what depends
    on the user, on the item, and on both.

    The folder appears whole or not at all. An exported model that is there already is replaced by two renames
    once the new one is proved; any failure leaves it as it was.

    Args:
        modules: By role, on the CPU. Inputs are given by name: row numbers where there is a vocabulary, raw
            values elsewhere. They are run in eval mode and left in the mode they came in.
        signature: Without file names, checksums and splits; those it has are replaced.
        vocabularies: By the names that the inputs give.
        folder: The exported model to write; its parent is made if need be.
        tolerance: Largest difference allowed, see `parity.Parity.relative`.
        seed: Of the values on which module and graph are compared.
        probes: Further values to compare at, by Feast reference: the bounds of buckets, for instance.
        options: What the parts of a ranker may give up for speed; nothing by default. The whole graph stays exact.

    Returns:
        The signature as a reader gets it: with files, checksums and metadata.

    Raises:
        InvalidSignature: module, signature and vocabularies don't fit; names the feature.
        ParityFailed: graph and module differ, or the module breaks a rule of serving; names the case. Or the options
            cost more accuracy than makes sense.
        InvalidArgument: the folder holds something else than an exported model.
    """
    check_roles(modules, signature)
    check_vocabularies(signature, vocabularies)
    check_probes(signature, probes or ())
    flat = flat_names(signature, vocabularies)
    for role, graph in signature.graphs.items():
        check_module(modules[role], graph)
    folder = folder.absolute()
    _check_target(folder)
    by_file = {flat[name]: vocabulary for name, vocabulary in vocabularies.items() if name in flat}
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        for file, vocabulary in by_file.items():
            vocabulary.save(draft / file)
        graphs: dict[Role, Graph] = {}
        parity: dict[str, Any] = {}
        unused: dict[str, list[str]] = {}
        split: dict[str, Any] = {}
        for role, graph in signature.graphs.items():
            inputs = tuple(
                dataclasses.replace(i, vocabulary=flat.get(i.vocabulary or ""), known=flat.get(i.known or ""))
                for i in graph.inputs
            )
            graph = dataclasses.replace(graph, inputs=inputs, file=f"{role.value}.onnx", sha256="", split=None)
            with _eval(modules[role]) as module:
                graph, model = _write_graph(module, graph, by_file, signature, draft, seed)
                proof = prove_parity(
                    module,
                    load_graph(draft, graph),
                    by_file,
                    signature.dimension,
                    tolerance=tolerance,
                    seed=seed,
                    probes=probes,
                )
            parity[role.value] = proof.to_dict()
            if role is Role.RANKER:
                result = split_ranker(
                    model, graph, by_file, tolerance=tolerance, seed=seed, probes=probes, options=options
                )
                for file, content in result.files.items():
                    (draft / file).write_bytes(content)
                graph, split = dataclasses.replace(graph, split=result.split), {"split": dict(result.metadata)}
            graphs[role] = graph
            if idle := unused_inputs(model):
                unused[role.value] = idle
        written = dataclasses.replace(
            signature,
            graphs=graphs,
            metadata={
                **signature.metadata,
                "exported_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "versions": _versions(),
                "features": {role.value: [i.feature for i in graph.inputs] for role, graph in graphs.items()},
                "vocabularies": {f: {"keys": len(v.keys), "fingerprint": v.fingerprint} for f, v in by_file.items()},
                "parity": {"tolerance": tolerance, "seed": seed, "graphs": parity},
                "unused_inputs": unused,
                **split,
            },
        )
        written.save(draft)
        written = Signature.load(draft)
        replace_folder(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return written


def _write_graph(
    module: nn.Module,
    graph: Graph,
    vocabularies: Mapping[str, Vocabulary],
    signature: Signature,
    folder: Path,
    seed: int,
) -> tuple[Graph, ModelProto]:
    """Writes the ONNX file; gives the graph with its checksum, and the model."""
    sample = to_torch(Sampler(graph, vocabularies, seed).trace_feed(TRACE_BATCH), graph, vocabularies)
    check_forward(module, graph, sample, TRACE_BATCH, signature.dimension)
    files = dict.fromkeys(file for i in graph.inputs for file in i.files)
    properties = {
        "feast_recsys.model": signature.name,
        "feast_recsys.role": graph.role.value,
        "feast_recsys.features": json.dumps([i.feature for i in graph.inputs]),
        "feast_recsys.vocabularies": json.dumps({f: vocabularies[f].fingerprint for f in files}),
        "feast_recsys.versions": json.dumps(_versions()),
    }
    model = attach_lookups(trace(module, graph, sample), graph, vocabularies, properties)
    content = model.SerializeToString(deterministic=True)
    (folder / graph.file).write_bytes(content)
    return dataclasses.replace(graph, sha256=hashlib.sha256(content).hexdigest()), model


@contextlib.contextmanager
def _eval(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode; every part is in its own mode again afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def _versions() -> dict[str, Any]:
    return {name: version(name) for name in LIBRARIES}


def _check_target(folder: Path) -> None:
    """Refuses to replace anything but an exported model."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise InvalidArgument(f"{folder} is no folder; export elsewhere or remove it", field="folder")
    names = [entry.name for entry in folder.iterdir()]
    foreign = [n for n in names if n != SIGNATURE_FILE and Path(n).suffix not in (".onnx", ".json")]
    exported = SIGNATURE_FILE in names and any(n.endswith(".onnx") for n in names)
    if names and (foreign or not exported):
        raise InvalidArgument(
            f"{folder} holds {', '.join(sorted(foreign or names))}, and would be replaced; "
            "export into a folder of its own",
            field="folder",
        )
