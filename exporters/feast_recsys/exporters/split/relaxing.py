"""What is given up for speed when asked for: int8 weights and float16 item columns, and what that costs."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import InvalidArgument, ParityFailed
from feast_recsys.bundle.signature import Graph
from feast_recsys.exporters.split.parts import Parts, RunningParts
from feast_recsys.exporters.split.shapes import Feed, Prober, session
from feast_recsys.exporters.trace import IR_VERSION

USERS, CANDIDATES, TOP = 20, 200, 10  # lists on which the cost is measured
WORST = 0.05  # mean difference of the probability beyond which a model is of no use

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What may be given up for speed.

    Attributes:
        quantize: "int8" for weights of eight bits in the products of the user and the cross part (ONNX Runtime's
            dynamic quantization), or "none". Activations are then scaled by the largest of the whole batch, so that the
            probability of a candidate depends, slightly, on the others in the same call.
        item_columns: "float32", or "float16" for half as many bytes an item. Values beyond 65504 are cut off there.

    Raises:
        InvalidArgument: one of them is something else.
    """

    quantize: str = "none"
    item_columns: str = "float32"

    def __post_init__(self) -> None:
        for field, known in (("quantize", ("none", "int8")), ("item_columns", ("float32", "float16"))):
            if (value := getattr(self, field)) not in known:
                raise InvalidArgument(f"{field} is {value!r}; it must be {' or '.join(known)}", field=field)

    @property
    def exact(self) -> bool:
        """Whether nothing is given up."""
        return self == Options()


@dataclass(frozen=True)
class Cost:
    """How far relaxed parts are from the whole graph, over lists of random candidates.

    Attributes:
        largest, mean: Of |difference of the probability|.
        discordant: Share of pairs of candidates whose order is reversed.
        top_overlap: Mean share of the first TOP candidates that stay among the first TOP.
        batch: Largest difference when a list is ranked in batches of TOP instead of at once.
    """

    largest: float
    mean: float
    discordant: float
    top_overlap: float
    batch: float

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types, three digits."""
        return {
            "lists": USERS,
            "candidates": CANDIDATES,
            **{name: float(f"{value:.3g}") for name, value in dataclasses.asdict(self).items()},
        }


def quantized(parts: Parts) -> Parts:
    """The parts with weights of eight bits in the products of the user and the cross part."""
    return dataclasses.replace(
        parts,
        user=None if parts.user is None else _int8(parts.user),
        cross=_int8(parts.cross),
    )


def _int8(model: ModelProto) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder, _quiet_root():
        file = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model, file, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )
        made = onnx.load(file)
    made.ir_version = IR_VERSION
    onnx.checker.check_model(made, full_check=True)
    return made


@contextlib.contextmanager
def _quiet_root() -> Iterator[None]:
    """Hides the quantizer's advice, which goes to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def measure(whole: ModelProto, graph: Graph, running: RunningParts, prober: Prober) -> Cost:
    """Compares relaxed parts with the whole graph, over random lists of candidates.

    Raises:
        ParityFailed: the outputs are not finite, or differ by more than WORST on average.
    """
    reference = session(whole)
    names = [value.name for value in whole.graph.input]
    gaps, discordant, overlap, batch = list[_Floats](), list[float](), list[float](), 0.0
    for _ in range(USERS):
        feed = prober.longest(CANDIDATES)
        expected = reference.run([graph.output], {name: feed[name] for name in names})[0].astype(np.float64)
        user, item = running.user(feed), running.item(feed)
        actual = running.cross(user, item, feed, CANDIDATES).astype(np.float64)
        gaps.append(np.abs(expected - actual))
        discordant.append(_discordant(expected, actual))
        overlap.append(len({*_top(expected)} & {*_top(actual)}) / TOP)
        apart = np.concatenate([_rows(running, user, item, feed, start) for start in range(0, CANDIDATES, TOP)])
        batch = max(batch, float(np.abs(apart - actual).max()))
    all_ = np.concatenate(gaps)
    cost = Cost(float(all_.max()), float(all_.mean()), float(np.mean(discordant)), float(np.mean(overlap)), batch)
    if not cost.mean <= WORST:  # nor if it is NaN
        raise ParityFailed(
            f"int8 or float16 changes the ranker's probability by {cost.mean:.3g} on average, and at most {WORST:g} "
            "makes sense; export without --quantize and --item-columns",
            field="split",
        )
    return cost


def _rows(running: RunningParts, user: Feed, item: Feed, feed: Feed, start: int) -> Array:
    chosen = np.arange(start, min(start + TOP, CANDIDATES))
    taken = {p.name: np.take(item[p.name], chosen, p.axis) for p in running.parts.from_item}
    raw = {name: feed[name][chosen] for name in running.parts.cross_inputs}
    return running.cross(user, taken, raw, len(chosen))


def _top(scores: _Floats) -> list[int]:
    best: list[int] = np.argsort(-scores, kind="stable")[:TOP].tolist()
    return best


def _discordant(expected: _Floats, actual: _Floats) -> float:
    """Share of pairs in opposite order, of those that are not tied."""
    rows, columns = np.triu_indices(len(expected), 1)
    before, after = np.sign(expected[rows] - expected[columns]), np.sign(actual[rows] - actual[columns])
    untied = before != 0
    return float((before * after < 0)[untied].mean()) if untied.any() else 0.0
