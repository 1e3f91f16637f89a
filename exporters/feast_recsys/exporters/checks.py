"""Whether a module, its signature and its vocabularies fit, with messages that name the feature."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import PurePath

import torch
from torch import Tensor, nn

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import InvalidSignature
from feast_recsys.bundle.signature import Graph, Input, Role, Side, Signature
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.inputs import module_dtype, shape_text
from feast_recsys.exporters.trace import equally_long

_INT64 = range(-(2**63), 2**63)


def check_roles(modules: Mapping[Role, nn.Module], signature: Signature) -> None:
    """Checks that there is one module for each graph.

    Raises:
        InvalidSignature: names the role that is missing or too many.
    """
    for role in signature.graphs:
        if role not in modules:
            raise InvalidSignature(
                f"{signature.name}: no module for {role.value}; a {signature.stage.value} model has "
                f"{[r.value for r in signature.graphs]}",
                field=f"graphs.{role.value}",
            )
    for role in modules:
        if role not in signature.graphs:
            raise InvalidSignature(
                f"{signature.name}: a module for {role.value}, which the signature does not have",
                field=f"graphs.{role.value}",
            )


def check_vocabularies(signature: Signature, vocabularies: Mapping[str, Vocabulary]) -> None:
    """Checks that every vocabulary is there, fits the dtype of its inputs, and leaves padding unknown.

    Items whose sound is not read must be among those that the graph knows.

    Raises:
        InvalidSignature: names the feature and the vocabulary.
    """
    for graph in signature.graphs.values():
        for spec in graph.inputs:
            if spec.vocabulary is not None:
                _check_vocabulary(spec, spec.vocabulary, vocabularies)
        for spec in graph.inputs:
            if spec.known is not None:
                _check_known(spec, spec.known, graph, vocabularies)


def check_probes(signature: Signature, probes: Iterable[str]) -> None:
    """Checks that the features with values to try are numbers of the model.

    Raises:
        InvalidSignature: names the feature.
    """
    inputs = [spec for graph in signature.graphs.values() for spec in graph.inputs]
    numbers = {spec.feature for spec in inputs if spec.vocabulary is None}
    for feature in probes:
        if feature not in numbers:
            raise InvalidSignature(
                f"values to try for {feature}, which is no number of {signature.name}; those are {sorted(numbers)}",
                field="probes",
            )


def flat_names(signature: Signature, vocabularies: Mapping[str, Vocabulary]) -> dict[str, str]:
    """File names in the exported model by the names that the inputs give, which may be paths.

    Raises:
        InvalidSignature: two different vocabularies would get the same file name; names the features.
    """
    flat: dict[str, str] = {}
    owners: dict[str, tuple[str, Vocabulary]] = {}
    for graph in signature.graphs.values():
        for spec in graph.inputs:
            for file in spec.files:
                name = f"{PurePath(file).stem}.json"
                vocabulary = vocabularies[file]
                feature, other = owners.setdefault(name, (spec.feature, vocabulary))
                if other.keys != vocabulary.keys:
                    raise InvalidSignature(
                        f"{feature} and {spec.feature} have different vocabularies with the file name {name}; rename "
                        "one",
                        field=spec.name,
                    )
                flat[file] = name
    return flat


def check_module(module: nn.Module, graph: Graph) -> None:
    """Checks the device and the parameters of `forward` before anything is run.

    Raises:
        InvalidSignature: names the feature, or the parameter of `forward`, that has no counterpart.
    """
    role = graph.role.value
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type != "cpu":
            raise InvalidSignature(
                f"{role}: {name} is on {tensor.device}; export from the CPU, after module.cpu()", field=f"graphs.{role}"
            )
    if not any(_counts_rows(graph.role, spec) for spec in graph.inputs):
        side = "item" if graph.role is Role.RANKER else "any"
        raise InvalidSignature(
            f"{role} needs at least one input of {side} side, which gives the number of rows", field=f"graphs.{role}"
        )
    if graph.output in {spec.name for spec in graph.inputs}:
        raise InvalidSignature(
            f"{role}: {graph.output!r} is the name of an input and of the output; rename the output",
            field=f"graphs.{role}.output",
        )
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for spec in graph.inputs:
        if spec.name not in named and not takes_any:
            raise InvalidSignature(
                f"{role}: forward() does not take {spec.feature} (input {spec.name!r}); it takes "
                f"{', '.join(named) or 'nothing by name'}. Rename the input or the parameter",
                field=spec.name,
            )
    declared = {spec.name for spec in graph.inputs}
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if needed and name not in declared:
            raise InvalidSignature(
                f"{role}: forward() takes {name!r}, which the signature lacks; add an input of that name",
                field=name,
            )
        if needed and name not in named:
            raise InvalidSignature(
                f"{role}: forward() takes {name!r} by position only; inputs are given by name", field=name
            )


def check_forward(module: nn.Module, graph: Graph, sample: Mapping[str, Tensor], rows: int, dimension: int) -> None:
    """Runs the module once on inputs of the declared dtypes and shapes and looks at what comes out.

    Args:
        module: In eval mode.
        graph: Its inputs.
        sample: Module inputs by name.
        rows: Rows that the output must have.
        dimension: Width of a retrieval model's vectors.

    Raises:
        InvalidSignature: forward() fails, with the feature whose declared dtype or shape is to blame where
            that can be found out; or its output is not what the role gives.
    """
    role = graph.role.value
    try:
        with torch.no_grad():
            output = module(**sample)
    except Exception as error:  # whatever the user's code raises
        culprit, message = _diagnose(module, graph, sample, rows, error)
        raise InvalidSignature(message, field=culprit) from error
    field = f"graphs.{role}.output"
    if not isinstance(output, Tensor):
        raise InvalidSignature(f"{role}: forward() gives a {type(output).__name__}; return one tensor", field=field)
    if output.dtype is not torch.float32:
        raise InvalidSignature(f"{role}: forward() gives {output.dtype}; return float32", field=field)
    have = list(output.shape)
    if graph.role is Role.RANKER:
        if have != [rows]:
            raise InvalidSignature(
                f"{role}: forward() gives shape {have} for {rows} candidates; return one probability a candidate, "
                f"[{rows}]" + (": squeeze(-1) the last dimension" if have == [rows, 1] else ""),
                field=field,
            )
    elif len(have) != 2 or have[0] != rows:
        raise InvalidSignature(
            f"{role}: forward() gives shape {have} for a batch of {rows}; return one vector a row, "
            f"[{rows}, {dimension}]",
            field=field,
        )
    elif have[1] != dimension:
        raise InvalidSignature(
            f"{role}: forward() gives vectors of width {have[1]}, the signature says dimension {dimension}",
            field="dimension",
        )


def _check_vocabulary(spec: Input, file: str, vocabularies: Mapping[str, Vocabulary]) -> None:
    if file not in vocabularies:
        raise InvalidSignature(
            f"{spec.feature}: no vocabulary {file!r}; there are {sorted(vocabularies) or 'none'}", field=spec.name
        )
    if spec.dtype not in (DType.INT64, DType.STRING):
        raise InvalidSignature(
            f"{spec.feature} is {spec.dtype.value}; only int64 and string inputs can have a vocabulary", field=spec.name
        )
    vocabulary = vocabularies[file]
    if vocabulary.keys and vocabulary.dtype is not spec.dtype:
        raise InvalidSignature(
            f"{spec.feature} is {spec.dtype.value}, the keys of vocabulary {file!r} are {vocabulary.dtype.value}; "
            "make them alike",
            field=spec.name,
        )
    for key in vocabulary.keys:
        if not (key in _INT64 if isinstance(key, int) else _is_unicode(key)):
            raise InvalidSignature(
                f"{spec.feature}: key {key!r} of vocabulary {file!r} is no {spec.dtype.value}", field=spec.name
            )
    if spec.is_list and spec.pad in vocabulary.keys:
        raise InvalidSignature(
            f"{spec.feature}: {spec.pad!r} pads its lists and is a key of vocabulary {file!r}, so that padding would "
            "count as a value; choose another pad or drop the key",
            field=spec.name,
        )


def _check_known(spec: Input, file: str, graph: Graph, vocabularies: Mapping[str, Vocabulary]) -> None:
    if file not in vocabularies:
        raise InvalidSignature(
            f"{spec.feature}: no list of known ids {file!r}; there are {sorted(vocabularies) or 'none'}",
            field=spec.name,
        )
    of_ids = [i.vocabulary for i in graph.inputs if i.source == "entity" and i.vocabulary is not None]
    ids = {key for name in of_ids for key in vocabularies[name].keys}
    stranger = next((key for key in vocabularies[file].keys if key not in ids), None)
    if stranger is not None:
        raise InvalidSignature(
            f"{spec.feature}: {file!r} says that the graph knows item {stranger!r} without its sound, but no "
            "vocabulary of an input entity:<join key> has it; take it out",
            field=spec.name,
        )


def _is_unicode(key: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in key)


def _counts_rows(role: Role, spec: Input) -> bool:
    return role is not Role.RANKER or spec.side is Side.ITEM


def _diagnose(
    module: nn.Module, graph: Graph, sample: Mapping[str, Tensor], rows: int, error: Exception
) -> tuple[str, str]:
    """Which input is to blame for an error of forward(), and the message."""
    role = graph.role.value
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    lists = [spec for spec in graph.inputs if spec.is_list]
    same = {spec.name: sample[spec.name][:, :1].expand(-1, 2) for spec in lists}
    if len(lists) > 1 and _works(module, {**sample, **same}, rows):
        others = ", ".join(spec.feature for spec in lists[:-1])
        return lists[-1].name, f"{role}: {lists[-1].feature} (input {lists[-1].name!r}): {equally_long(others)}"
    for spec in graph.inputs:
        for remedy, changed in _changes(spec, sample[spec.name]).items():
            if _works(module, {**sample, spec.name: changed}, rows):
                return spec.name, (
                    f"{role}: forward() fails on {spec.feature} (input {spec.name!r}) as the signature has it, "
                    f"{_as_declared(spec)}; it works with {remedy}. {what}"
                )
    declared = ", ".join(f"{s.feature} as {_as_declared(s)}" for s in graph.inputs)
    return f"graphs.{role}", f"{role}: forward() fails on the inputs as the signature has them ({declared}). {what}"


def _changes(spec: Input, have: Tensor) -> dict[str, Tensor]:
    """What a wrong declaration would have to become, and a tensor that is so."""
    if spec.vocabulary is None:
        zeros = "zeros, so keep values inside the module's tables with clamp() or torch.where()"
    else:
        zeros = "row 0 only, so give the embedding as many rows as len(vocabulary)"
    shape = "[batch], so leave out max_length" if spec.is_list else "[batch, length], so give max_length"
    return {
        zeros: torch.zeros_like(have),
        shape: have[:, 0] if spec.is_list else have.unsqueeze(-1),
        "float32, so declare that, without a vocabulary": have.to(torch.float32),
        "int64, so declare that, or give it a vocabulary": torch.zeros_like(have, dtype=torch.int64),
        "bool, so declare that": have.to(torch.bool),
    }


def _works(module: nn.Module, tensors: Mapping[str, Tensor], rows: int) -> bool:
    try:
        with torch.no_grad():
            output = module(**tensors)
    except Exception:  # any failure is the answer
        return False
    return isinstance(output, Tensor) and output.shape[:1] == (rows,)


def _as_declared(spec: Input) -> str:
    dtype = str(module_dtype(spec)).removeprefix("torch.")
    return f"{dtype} {shape_text(spec)}" + (" row numbers of its vocabulary" if spec.vocabulary is not None else "")
