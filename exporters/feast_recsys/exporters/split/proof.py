"""Proves that the parts of a ranker together give what the whole graph gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from feast_recsys.bundle.columns import Array
from feast_recsys.bundle.errors import ParityFailed
from feast_recsys.bundle.signature import Graph
from feast_recsys.exporters.cases import FEW, Case, Sampler
from feast_recsys.exporters.parity import difference, finite_rows
from feast_recsys.exporters.split.independence import pad_items
from feast_recsys.exporters.split.parts import RunningParts
from feast_recsys.exporters.split.shapes import Feed, session


@dataclass(frozen=True)
class Agreement:
    """How far the parts are from the whole graph.

    Attributes:
        cases: Number of calls compared.
        absolute: Largest difference, over all cases but those at the ends of a type's range.
        relative: Largest difference by max(1, the output), over all cases; held against the tolerance.
    """

    cases: int
    absolute: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types, three digits."""
        return {
            "cases": self.cases,
            "absolute": float(f"{self.absolute:.2e}"),
            "relative": float(f"{self.relative:.2e}"),
        }


def prove_split(
    whole: ModelProto, graph: Graph, running: RunningParts, sampler: Sampler, tolerance: float
) -> Agreement:
    """Runs the whole graph and its parts on the same raw values and compares.

    The item part is run as the catalogue has it: with lists padded to their greatest length, and in small batches item
    by item. So what it hands over must depend neither on padding nor on the other items.

    Args:
        whole: The ranker.
        graph: Its entry of the signature.
        running: Its parts.
        sampler: Gives the cases.
        tolerance: Largest difference allowed, see `Agreement.relative`.

    Raises:
        ParityFailed: names the case and the difference; `field` is the feature that the case is about.
    """
    reference = session(whole)
    names = [value.name for value in whole.graph.input]
    cases, absolute, relative = 0, 0.0, 0.0
    for case in sampler.cases():
        expected = reference.run([graph.output], {name: case.feed[name] for name in names})[0]
        try:
            actual = run_apart(running, graph, case)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise _failure(case, f"a part fails with {error}") from error
        if actual.shape != expected.shape:
            raise _failure(case, f"the parts give shape {list(actual.shape)}, the whole graph {list(expected.shape)}")
        good = finite_rows(expected)
        if (good != finite_rows(actual)).any():
            raise _failure(case, "one of the parts and the whole graph gives a finite output, the other does not")
        gap, scaled = difference(expected[good], actual[good])
        if scaled > tolerance:
            raise _failure(case, f"the parts and the whole graph differ by {gap:.3g}, allowed is {tolerance:g}")
        cases += 1
        absolute = absolute if case.limit else max(absolute, gap)
        relative = max(relative, scaled)
    return Agreement(cases, absolute, relative)


def run_apart(running: RunningParts, graph: Graph, case: Case) -> Array:
    """The output of the parts, with items as the catalogue holds them."""
    padded = pad_items(graph, case.feed)
    if case.rows > FEW:
        item: Mapping[str, Array] = running.item(padded)
    else:
        item = _one_by_one(running, padded, case.rows)
    return running.cross(running.user(case.feed), item, case.feed, case.rows)


def _one_by_one(running: RunningParts, feed: Feed, rows: int) -> dict[str, Array]:
    taken = running.parts.item_inputs
    single = [running.item({name: feed[name][row : row + 1] for name in taken}) for row in range(rows)]
    return {
        passed.name: np.concatenate([each[passed.name] for each in single], passed.axis)
        for passed in running.parts.from_item
    }


def _failure(case: Case, what: str) -> ParityFailed:
    return ParityFailed(f"split ranker, case '{case.name}': {what}", field=case.feature or "split")
