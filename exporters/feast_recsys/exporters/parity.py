"""Proves that an exported graph gives what its torch module gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import ParityFailed
from feast_recsys.bundle.runtime import LoadedGraph
from feast_recsys.bundle.signature import Graph, Input, Role, Scalar
from feast_recsys.bundle.vocabulary import Vocabulary
from feast_recsys.exporters.cases import FEW, Case, Sampler
from feast_recsys.exporters.inputs import single_row, to_torch

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Parity:
    """How far a graph is from its module.

    Attributes:
        cases: Number of calls compared.
        absolute: Largest |torch - ONNX| over all cases but those at the ends of a type's range.
        relative: Largest |torch - ONNX| / max(1, largest |torch| of the row), over all cases. This is held
            against the tolerance: float32 can't keep an absolute one for large outputs.
        worst: Name of the case with that difference.
        overflows: Features at whose type's ends (3.4e38, for instance) the module's output is not finite.
    """

    cases: int
    absolute: float
    relative: float
    worst: str
    overflows: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types, three digits."""
        return {
            "cases": self.cases,
            "absolute": float(f"{self.absolute:.2e}"),
            "relative": float(f"{self.relative:.2e}"),
            "worst": self.worst,
            "overflows": list(self.overflows),
        }


def prove_parity(
    module: nn.Module,
    loaded: LoadedGraph,
    vocabularies: Mapping[str, Vocabulary],
    dimension: int,
    *,
    tolerance: float,
    seed: int,
    probes: Mapping[str, Sequence[Scalar]] | None = None,
) -> Parity:
    """Runs module and graph on the same raw values and compares.

    Besides equality: the output is finite and of the right shape, a ranker's is a probability, a row alone
    equals the same row inside a batch, and longer padding changes nothing.

    Args:
        module: In eval mode, on the CPU.
        loaded: The exported graph.
        vocabularies: By the names that the inputs give.
        dimension: Width of a retrieval model's vectors.
        tolerance: Largest difference allowed; see `Parity.relative`.
        seed: Of the random values.
        probes: Further values to try, by Feast reference.

    Raises:
        ParityFailed: names the case and the difference; `field` is the feature that the case is about.
    """
    graph = loaded.graph
    sampler = Sampler(graph, vocabularies, seed, probes)
    cases, absolute, relative, worst, overflows = 0, 0.0, 0.0, "", dict[str, None]()
    for case in sampler.cases():
        expected = _run_module(module, graph, vocabularies, case)
        actual = _run_graph(loaded, case)
        finite = _check_output(graph, dimension, case, expected, actual)
        if not finite.all():
            overflows[case.feature] = None
        gap, scaled = difference(expected[finite], actual[finite])
        if scaled > tolerance:
            raise _failure(graph, case, f"torch and ONNX differ by {gap:.3g}, allowed is {tolerance:g}")
        cases += 1
        absolute = absolute if case.limit else max(absolute, gap)
        if scaled > relative or not worst:
            relative, worst = scaled, case.name
    for case, other, rows, what in (*_alone(sampler, graph), *_longer(sampler, graph)):
        gap, scaled = difference(_run_graph(loaded, case)[rows], _run_graph(loaded, other))
        if scaled > tolerance:
            raise _failure(graph, other, f"{what}: the output changes by {gap:.3g}, allowed is {tolerance:g}")
        cases += 1
    return Parity(cases, absolute, relative, worst, tuple(overflows))


def _run_module(module: nn.Module, graph: Graph, vocabularies: Mapping[str, Vocabulary], case: Case) -> Floats:
    try:
        with torch.no_grad():
            output: Floats = module(**to_torch(case.feed, graph, vocabularies)).numpy()
    except Exception as error:  # whatever the user's code raises
        raise _failure(
            graph, case, f"forward() fails with {error}; keep values inside the module's tables, with torch.where()"
        ) from error
    return output


def _run_graph(loaded: LoadedGraph, case: Case) -> Floats:
    try:
        return loaded.run(case.feed)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise _failure(loaded.graph, case, f"ONNX Runtime fails with {error}") from error


def _check_output(graph: Graph, dimension: int, case: Case, expected: Floats, actual: Floats) -> npt.NDArray[np.bool_]:
    """Rows that are finite in both; raises where an output is not what the role promises."""
    shape = (case.rows,) if graph.role is Role.RANKER else (case.rows, dimension)
    for what, output in (("torch", expected), ("ONNX", actual)):
        if output.shape != shape:
            raise _failure(graph, case, f"{what} gives shape {list(output.shape)}, not {list(shape)}")
        if graph.role is Role.RANKER and ((output < 0) | (output > 1)).any():
            worst = output[np.nanargmax(np.abs(output - 0.5))]
            raise _failure(graph, case, f"{what} gives {worst:.6g}, which is no probability; end with a sigmoid")
    good, same = finite_rows(expected), finite_rows(actual)
    if not good.all() and not case.limit:
        raise _failure(graph, case, "the output is not finite; clamp inputs and counts inside forward()")
    if (good != same).any():
        raise _failure(graph, case, "one of torch and ONNX gives a finite output, the other does not")
    return good


def finite_rows(output: Floats) -> npt.NDArray[np.bool_]:
    """Rows without infinities and NaN."""
    flat: Array = np.isfinite(output).reshape(len(output), -1)
    return np.asarray(flat.all(axis=1), np.bool_)


def difference(expected: Floats, actual: Floats) -> tuple[float, float]:
    """Largest absolute difference, and largest difference by the scale of its row."""
    if not len(expected):
        return 0.0, 0.0
    wide = expected.reshape(len(expected), -1).astype(np.float64)
    gaps = np.abs(wide - actual.reshape(wide.shape).astype(np.float64)).max(axis=1)
    scale = np.maximum(1.0, np.abs(wide).max(axis=1))
    return float(gaps.max()), float((gaps / scale).max())


_Pair = tuple[Case, Case, slice, str]


def _alone(sampler: Sampler, graph: Graph) -> Iterator[_Pair]:
    feed = sampler.feed(FEW, 3)
    batch = Case(f"batch {FEW}", feed, FEW)
    for row in range(FEW):
        one = {s.name: feed[s.name] if single_row(graph.role, s) else feed[s.name][row : row + 1] for s in graph.inputs}
        what = "a row alone must equal the same row in a batch; forward() must not mix rows"
        yield batch, Case(f"row {row} of {FEW}", one, 1), slice(row, row + 1), what


def _longer(sampler: Sampler, graph: Graph) -> Iterator[_Pair]:
    for spec in graph.inputs:
        if spec.max_length is None or spec.max_length == 1:
            continue
        short = max(1, spec.max_length // 2)
        feed = sampler.feed(FEW, short)
        longer = feed | {spec.name: _pad(feed[spec.name], spec, spec.max_length)}
        what = f"forward() must leave out what equals the pad value {spec.pad!r}"
        yield (
            Case(f"{spec.feature} of {short}", feed, FEW, spec.feature),
            Case(f"{spec.feature} of {short} padded to {spec.max_length}", longer, FEW, spec.feature),
            slice(None),
            what,
        )


def _pad(values: Array, spec: Input, width: int) -> Array:
    padded = np.full((len(values), width), spec.pad, spec.dtype.numpy)
    padded[:, : values.shape[1]] = values
    return padded


def _failure(graph: Graph, case: Case, what: str) -> ParityFailed:
    return ParityFailed(f"{graph.role.value}, case '{case.name}': {what}", field=case.feature or graph.role.value)
