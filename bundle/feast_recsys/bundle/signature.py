"""The signature of an exported model: what each graph takes from Feast, and what comes out.

`model.yaml` beside the ONNX files holds one `Signature`. It is written by the exporter and read by the jobs,
the server and `doctor`; users write the same form, without the file names, to export models of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature

SIGNATURE_FILE = "model.yaml"
FORMAT = 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Scalar = int | float | bool | str


class Side(str, Enum):
    """Whose feature an input is."""

    USER = "user"
    ITEM = "item"
    CONTEXT = "context"


class Stage(str, Enum):
    """Which call a model serves."""

    RETRIEVAL = "retrieval"
    RANKING = "ranking"


class Role(str, Enum):
    """What a graph does."""

    QUERY_ENCODER = "query_encoder"  # user and context inputs [B, ...] to vectors [B, d]
    ITEM_ENCODER = "item_encoder"  # item inputs [B, ...] to vectors [B, d]
    RANKER = "ranker"  # user and context inputs [1, ...], item inputs [N, ...] to probabilities [N]


ROLES = {Stage.RETRIEVAL: (Role.QUERY_ENCODER, Role.ITEM_ENCODER), Stage.RANKING: (Role.RANKER,)}
SIDES = {
    Role.QUERY_ENCODER: (Side.USER, Side.CONTEXT),
    Role.ITEM_ENCODER: (Side.ITEM,),
    Role.RANKER: (Side.USER, Side.ITEM, Side.CONTEXT),
}


@dataclass(frozen=True)
class Input:
    """One named input of a graph.

    Attributes:
        name: Name of the graph's input.
        feature: Where the value comes from: `view:feature` in Feast, `entity:<join key>` for the id itself, or
            `request:<name>` for what only the caller knows.
        side: Whose feature it is.
        dtype: Type of the raw value, as the graph takes it.
        max_length: None for a scalar, input shape [B]. Else a list, [B, L] with L at most this; the first
            `max_length` values are kept and shorter lists are padded.
        pad: What fills up a list.
        default: What stands for a null or missing scalar. A missing list is an empty one.
        required: Whether a missing value is an error instead.
        vocabulary: File (a JSON list, beside the signature) of the keys that the graph knows; None if the
            input is not categorical.
    """

    name: str
    feature: str
    side: Side
    dtype: DType
    max_length: int | None = None
    pad: Scalar = 0
    default: Scalar = 0
    required: bool = False
    vocabulary: str | None = None

    @property
    def is_list(self) -> bool:
        """Whether the input is a padded list."""
        return self.max_length is not None

    @property
    def source(self) -> str:
        """The part of `feature` before the colon: a view's name, `entity` or `request`."""
        return self.feature.partition(":")[0]

    @property
    def from_store(self) -> bool:
        """Whether the value is a Feast feature (and neither the id nor a request value)."""
        return self.source not in ("entity", "request")


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a model.

    Attributes:
        role: What it does.
        inputs: In the order of the graph.
        output: Name of its one output.
        feature_service: The Feast feature service that names its features; None if there is none.
        file: ONNX file, beside `model.yaml`; empty before the export.
        sha256: Checksum of that file; empty before the export.
    """

    role: Role
    inputs: tuple[Input, ...]
    output: str
    feature_service: str | None = None
    file: str = ""
    sha256: str = ""

    def input(self, name: str) -> Input:
        """The input of that name; KeyError if there is none."""
        for candidate in self.inputs:
            if candidate.name == name:
                return candidate
        raise KeyError(name)

    def references(self, side: Side) -> tuple[str, ...]:
        """Feast references of one side, in order, each once."""
        return tuple(dict.fromkeys(i.feature for i in self.inputs if i.side is side and i.from_store))


@dataclass(frozen=True)
class Signature:
    """What a model needs and gives.

    Attributes:
        name: Name of the model.
        stage: Which call it serves.
        graphs: By role: both encoders for retrieval, the ranker for ranking.
        dimension: Width of the vectors of a retrieval model; 0 for a ranker.
        metadata: Facts for people and `doctor`: library versions, training data, metrics, parity. Plain YAML.
    """

    name: str
    stage: Stage
    graphs: Mapping[Role, Graph]
    dimension: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def references(self, side: Side) -> tuple[str, ...]:
        """Feast references of one side over all graphs, each once."""
        return tuple(dict.fromkeys(r for g in self.graphs.values() for r in g.references(side)))

    def save(self, folder: Path) -> Path:
        """Writes `model.yaml` into the folder and returns its path."""
        path = folder / SIGNATURE_FILE
        text = yaml.safe_dump(to_dict(self), sort_keys=False, allow_unicode=True, width=110)
        path.write_text(text, encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Signature:
        """Reads a signature from a file, or from `model.yaml` of a folder.

        Raises:
            CorruptArtifact: the file is missing or no YAML.
            InvalidSignature: it is YAML, but no valid signature; names the input and the key.
        """
        file = path / SIGNATURE_FILE if path.is_dir() else path
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CorruptArtifact(f"signature {file} can't be read: {error}") from error
        return from_dict(document)


def to_dict(signature: Signature) -> dict[str, Any]:
    """Plain YAML types, in the order in which people read them."""
    graphs = {}
    for role, graph in signature.graphs.items():
        entry: dict[str, Any] = {"file": graph.file, "sha256": graph.sha256} if graph.file else {}
        if graph.feature_service is not None:
            entry["feature_service"] = graph.feature_service
        entry["output"] = graph.output
        entry["inputs"] = [_input_to_dict(i) for i in graph.inputs]
        graphs[role.value] = entry
    document: dict[str, Any] = {"format": FORMAT, "name": signature.name, "stage": signature.stage.value}
    if signature.dimension:
        document["dimension"] = signature.dimension
    return document | {"graphs": graphs, "metadata": dict(signature.metadata)}


def from_dict(document: Any) -> Signature:
    """The inverse of `to_dict`.

    Raises:
        InvalidSignature: names the input and the key that is wrong.
    """
    _expect(isinstance(document, dict), "a signature is a YAML mapping with name, stage and graphs")
    _only(document, {"format", "name", "stage", "dimension", "graphs", "metadata"}, "signature")
    version = document.get("format", FORMAT)
    _expect(
        version == FORMAT,
        f"signature format {version} is not known here; export with this version again",
        "format",
    )
    _expect(isinstance(document.get("graphs"), dict), "graphs must be a mapping of role to graph", "graphs")
    graphs = {}
    for key, entry in document["graphs"].items():
        role = _enum(Role, key, "graphs")
        _expect(isinstance(entry, dict), f"{key} must be a mapping", f"graphs.{key}")
        _only(entry, {"file", "sha256", "feature_service", "output", "inputs"}, f"graphs.{key}")
        _expect(isinstance(entry.get("inputs"), list), f"{key} needs a list of inputs", f"graphs.{key}.inputs")
        graphs[role] = Graph(
            role,
            tuple(_input_from_dict(i, f"graphs.{key}.inputs[{n}]") for n, i in enumerate(entry["inputs"])),
            entry.get("output", "output"),
            entry.get("feature_service"),
            entry.get("file", ""),
            entry.get("sha256", ""),
        )
    return Signature(
        document.get("name", ""),
        _enum(Stage, document.get("stage"), "stage"),
        graphs,
        document.get("dimension", 0),
        document.get("metadata") or {},
    )


def _input_to_dict(spec: Input) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": spec.name,
        "feature": spec.feature,
        "side": spec.side.value,
        "dtype": spec.dtype.value,
    }
    if spec.max_length is not None:
        entry |= {"max_length": spec.max_length, "pad": spec.pad}
    else:
        entry["default"] = spec.default
    if spec.required:
        entry["required"] = True
    if spec.vocabulary is not None:
        entry["vocabulary"] = spec.vocabulary
    return entry


def _input_from_dict(entry: Any, path: str) -> Input:
    _expect(isinstance(entry, dict), "an input is a mapping with feature, side and dtype", path)
    known = {"name", "feature", "side", "dtype", "max_length", "pad", "default", "required", "vocabulary"}
    _only(entry, known, path)
    for key in ("feature", "side", "dtype"):
        _expect(
            key in entry,
            f"{entry.get('name') or entry.get('feature') or path} lacks `{key}`",
            f"{path}.{key}",
        )
    dtype = _enum(DType, entry["dtype"], f"{path}.dtype")
    feature = str(entry["feature"])
    return Input(
        str(entry.get("name") or feature.replace(":", "__")),
        feature,
        _enum(Side, entry["side"], f"{path}.side"),
        dtype,
        entry.get("max_length"),
        entry.get("pad", dtype.zero),
        entry.get("default", dtype.zero),
        bool(entry.get("required", False)),
        entry.get("vocabulary"),
    )


def _check(signature: Signature) -> None:
    _expect(bool(_NAME.fullmatch(signature.name)), f"name {signature.name!r} must be an identifier", "name")
    wanted = ROLES[signature.stage]
    _expect(
        set(signature.graphs) == set(wanted),
        f"a {signature.stage.value} model has the graphs {[r.value for r in wanted]}, "
        f"not {[r.value for r in signature.graphs]}",
        "graphs",
    )
    if signature.stage is Stage.RETRIEVAL:
        _expect(signature.dimension > 0, "a retrieval model needs its vectors' dimension", "dimension")
    for role, graph in signature.graphs.items():
        names = [i.name for i in graph.inputs]
        for spec in graph.inputs:
            path = f"graphs.{role.value}.{spec.name}"
            _expect(names.count(spec.name) == 1, f"{role.value} has two inputs named {spec.name!r}", path)
            _expect(
                spec.side in SIDES[role],
                f"{spec.feature} is of side {spec.side.value}; {role.value} takes only "
                f"{[s.value for s in SIDES[role]]}",
                f"{path}.side",
            )
            _check_input(spec, path)


def _check_input(spec: Input, path: str) -> None:
    _expect(bool(_NAME.fullmatch(spec.name)), f"input name {spec.name!r} must be an identifier", path)
    source, _, name = spec.feature.partition(":")
    _expect(
        bool(source and name),
        f"feature {spec.feature!r} must read view:feature, entity:key or request:name",
        path,
    )
    if spec.max_length is not None:
        whole = isinstance(spec.max_length, int) and spec.max_length > 0
        _expect(whole, f"{spec.feature}: max_length must be a positive whole number", f"{path}.max_length")
    _expect(
        _fits(spec.default, spec.dtype),
        f"{spec.feature}: default {spec.default!r} is no {spec.dtype.value}; give one of that type",
        f"{path}.default",
    )
    _expect(
        not spec.is_list or _fits(spec.pad, spec.dtype),
        f"{spec.feature}: pad {spec.pad!r} is no {spec.dtype.value}; give one of that type",
        f"{path}.pad",
    )
    _expect(
        spec.dtype is not DType.STRING or spec.vocabulary is not None,
        f"{spec.feature} is a string; ONNX graphs from torch take strings only through a vocabulary: name its file",
        f"{path}.vocabulary",
    )


def _fits(value: Scalar, dtype: DType) -> bool:
    if dtype is DType.FLOAT32:
        return isinstance(value, int | float) and not isinstance(value, bool) and value == value
    kind = {DType.INT64: int, DType.BOOL: bool, DType.STRING: str}[dtype]
    return type(value) is kind


def _enum(kind: Any, value: Any, path: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(m.value for m in kind)
        raise InvalidSignature(f"{path}: {value!r} is not one of {names}", field=path) from None


def _only(entry: Mapping[str, Any], known: set[str], path: str) -> None:
    for key in entry:
        _expect(
            key in known,
            f"{path}: unknown key {key!r}; known are {', '.join(sorted(known))}",
            f"{path}.{key}",
        )


def _expect(condition: bool, message: str, path: str = "") -> None:
    if not condition:
        raise InvalidSignature(message, field=path)
