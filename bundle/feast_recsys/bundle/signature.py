"""The signature of an exported model: what each graph takes from Feast, and what comes out.

`model.yaml` beside the ONNX files holds one `Signature`. It is written by the exporter and read by the jobs,
the server and `doctor`; users write the same form, without the file names, to export models of their own.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from feast_recsys.bundle import split
from feast_recsys.bundle.columns import DType
from feast_recsys.bundle.errors import CorruptArtifact, InvalidSignature
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, METRICS, Metric
from feast_recsys.bundle.split import Split

SIGNATURE_FILE = "model.yaml"
FORMAT = 1
_FLOAT32_MAX = 3.4028234663852886e38
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
        fresh: Whether a server reads the value of an item at each request (its view is tagged
            `recsys/freshness: online`), so that nothing is computed from it beforehand.
        audio: The feature names a sound file, and these settings of `features.audio.LogMel` say how it becomes the
            list of numbers that the graph takes; None if the feature's value itself is taken.
        known: File of the same form as `vocabulary`: ids of the items whose sound changes nothing, for the graph knows
            them by their id. Their sound files are not read. None if all are.
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
    fresh: bool = False
    audio: Mapping[str, float] | None = None
    known: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The files of keys that it names, each once."""
        return tuple(dict.fromkeys(file for file in (self.vocabulary, self.known) if file is not None))

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
        split: The same in three parts, of a ranker in which something depends on one side alone.
    """

    role: Role
    inputs: tuple[Input, ...]
    output: str
    feature_service: str | None = None
    file: str = ""
    sha256: str = ""
    split: Split | None = None

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
        bias: How many of the last numbers of an item vector are biases: they say how good an item is for everybody, and
            nothing of what it is like.
        metric: What a retrieval model's vectors are compared by, and what the scores of Retrieve are: `inner_product`;
            `cosine`, in [-1, 1] and 0 where either vector is zero; `l2`, the negative squared distance -|q - x|^2.
        metadata: Facts for people and `doctor`: library versions, training data, metrics, parity. Plain YAML.
    """

    name: str
    stage: Stage
    graphs: Mapping[Role, Graph]
    dimension: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    bias: int = 0
    metric: Metric = INNER_PRODUCT

    def __post_init__(self) -> None:
        _check(self)

    def references(self, side: Side) -> tuple[str, ...]:
        """Feast references of one side over all graphs, each once."""
        return tuple(dict.fromkeys(r for g in self.graphs.values() for r in g.references(side)))

    def save(self, folder: Path) -> Path:
        """Writes `model.yaml` into the folder and returns its path."""
        path = folder / SIGNATURE_FILE
        document = to_dict(self)
        text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
        if any(mark in text for mark in "\x85\u2028\u2029"):  # a reader of YAML takes these for line breaks
            text = yaml.safe_dump(document, sort_keys=False, width=110)
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
        if graph.split is not None:
            entry["split"] = split.to_dict(graph.split)
        graphs[role.value] = entry
    document: dict[str, Any] = {"format": FORMAT, "name": signature.name, "stage": signature.stage.value}
    if signature.dimension:
        document["dimension"] = signature.dimension
    if signature.bias:
        document["bias"] = signature.bias
    if signature.metric != INNER_PRODUCT:
        document["metric"] = signature.metric
    return document | {"graphs": graphs, "metadata": dict(signature.metadata)}


def from_dict(document: Any) -> Signature:
    """The inverse of `to_dict`.

    Raises:
        InvalidSignature: names the input and the key that is wrong.
    """
    _expect(isinstance(document, dict), "a signature is a YAML mapping with name, stage and graphs")
    _only(document, {"format", "name", "stage", "dimension", "bias", "metric", "graphs", "metadata"}, "signature")
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
        graphs[role] = _graph_from_dict(entry, role, f"graphs.{key}")
    return Signature(
        _typed(document, "name", str, "", ""),
        _enum(Stage, document.get("stage"), "stage"),
        graphs,
        _typed(document, "dimension", int, 0, ""),
        _typed(document, "metadata", dict, {}, ""),
        _typed(document, "bias", int, 0, ""),
        _typed(document, "metric", str, INNER_PRODUCT, ""),
    )


def _graph_from_dict(entry: Any, role: Role, path: str) -> Graph:
    _expect(isinstance(entry, dict), f"{role.value} must be a mapping", path)
    _only(entry, {"file", "sha256", "feature_service", "output", "inputs", "split"}, path)
    _expect(isinstance(entry.get("inputs"), list), f"{role.value} needs a list of inputs", f"{path}.inputs")
    return Graph(
        role,
        tuple(_input_from_dict(i, f"{path}.inputs[{n}]") for n, i in enumerate(entry["inputs"])),
        _typed(entry, "output", str, "output", path),
        _typed(entry, "feature_service", str, None, path),
        _typed(entry, "file", str, "", path),
        _typed(entry, "sha256", str, "", path),
        split.from_dict(entry["split"], f"{path}.split") if entry.get("split") is not None else None,
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
    if spec.fresh:
        entry["fresh"] = True
    if spec.audio is not None:
        entry["audio"] = dict(spec.audio)
    if spec.known is not None:
        entry["known"] = spec.known
    return entry


def _input_from_dict(entry: Any, path: str) -> Input:
    _expect(isinstance(entry, dict), "an input is a mapping with feature, side and dtype", path)
    known = {f.name for f in dataclasses.fields(Input)}
    _only(entry, known, path)
    for key in ("feature", "side", "dtype"):
        _expect(
            key in entry,
            f"{entry.get('name') or entry.get('feature') or path} lacks `{key}`",
            f"{path}.{key}",
        )
    dtype = _enum(DType, entry["dtype"], f"{path}.dtype")
    feature = _typed(entry, "feature", str, "", path)
    return Input(
        _typed(entry, "name", str, feature.replace(":", "__"), path),
        feature,
        _enum(Side, entry["side"], f"{path}.side"),
        dtype,
        _typed(entry, "max_length", int, None, path),
        entry.get("pad", dtype.zero),
        entry.get("default", dtype.zero),
        _typed(entry, "required", bool, False, path),
        _typed(entry, "vocabulary", str, None, path),
        _typed(entry, "fresh", bool, False, path),
        _typed(entry, "audio", dict, None, path),
        _typed(entry, "known", str, None, path),
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
    _expect(0 <= signature.bias <= signature.dimension, "bias counts columns of the vectors", "bias")
    _check_metric(signature)
    for role, graph in signature.graphs.items():
        _check_split(graph)
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
            _expect(
                role is not Role.ITEM_ENCODER or spec.source != "request",
                f"{spec.feature}: the item encoder runs in the materialization job, where there is no request",
                f"{path}.feature",
            )
            _expect(
                spec.audio is None or role is Role.ITEM_ENCODER,
                f"{spec.feature}: sound is read by the materialization job, for the item encoder only",
                f"{path}.audio",
            )
            _check_input(spec, path)


def _check_metric(signature: Signature) -> None:
    metric = signature.metric
    _expect(metric in METRICS, f"metric: {metric!r} is not one of {', '.join(METRICS)}", "metric")
    _expect(
        metric == INNER_PRODUCT or signature.stage is Stage.RETRIEVAL,
        f"metric: a {signature.stage.value} model has no vectors to compare by {metric}; leave `metric` out",
        "metric",
    )
    _expect(
        metric == INNER_PRODUCT or not signature.bias,
        f"metric: with {metric} the last {signature.bias} numbers of a vector are part of its direction or place, not "
        "biases; set `bias: 0`, or `metric: inner_product`",
        "metric",
    )


def _check_split(graph: Graph) -> None:
    if graph.split is None:
        return
    path = f"graphs.{graph.role.value}.split"
    _expect(graph.role is Role.RANKER, f"only a ranker is split, not the {graph.role.value}", path)
    sides = {i.name: i.side for i in graph.inputs}
    for part, allowed in (
        (graph.split.user, (Side.USER, Side.CONTEXT)),
        (graph.split.item, (Side.ITEM,)),
        (graph.split.cross, tuple(Side)),
    ):
        for name in part.inputs if part is not None else ():
            _expect(sides.get(name) in allowed, f"{path}: {name!r} can't be an input of that part", path)
    for passed in graph.split.item.outputs if graph.split.item is not None else ():
        _expect(passed.shape.count(None) == 1, f"{path}: {passed.name!r} has not one axis of candidates", path)


def _check_input(spec: Input, path: str) -> None:
    _expect(bool(_NAME.fullmatch(spec.name)), f"input name {spec.name!r} must be an identifier", path)
    source, _, name = spec.feature.partition(":")
    _expect(
        bool(source and name) and ":" not in name,
        f"feature {spec.feature!r} must read view:feature, entity:key or request:name",
        f"{path}.feature",
    )
    _expect(
        source != "entity" or spec.side is not Side.CONTEXT,
        f"{spec.feature} is an id, and an id is of side user or item",
        f"{path}.side",
    )
    if spec.max_length is not None:
        whole = type(spec.max_length) is int and spec.max_length > 0
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
        spec.audio is None or (spec.is_list and spec.dtype is DType.FLOAT32),
        f"{spec.feature}: sound becomes a list of float32; give max_length and dtype accordingly",
        f"{path}.audio",
    )
    _expect(
        spec.known is None or spec.audio is not None,
        f"{spec.feature}: `known` says whose sound is not read, and this is no sound; leave it out",
        f"{path}.known",
    )
    _expect(
        spec.dtype is not DType.STRING or spec.vocabulary is not None,
        f"{spec.feature} is a string; ONNX graphs from torch take strings only through a vocabulary: name its file",
        f"{path}.vocabulary",
    )


def _fits(value: Scalar, dtype: DType) -> bool:
    if dtype is DType.FLOAT32:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return abs(value) <= _FLOAT32_MAX  # false for NaN
    if dtype is DType.INT64:
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return isinstance(value, bool if dtype is DType.BOOL else str)


def _typed(entry: Mapping[str, Any], key: str, kind: type, default: Any, path: str) -> Any:
    """The value of a key, by default if it is absent; `true` is no number here, and 7 no text."""
    value = default if entry.get(key) is None else entry[key]
    where = f"{path}.{key}" if path else key
    label = {str: "text", int: "a whole number", bool: "true or false", dict: "a mapping"}[kind]
    _expect(value is default or type(value) is kind, f"{where}: {value!r} is not {label}", where)
    return value


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
