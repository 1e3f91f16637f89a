"""The guarantee of filtered retrieval in thousands of generated cases: min(k, eligible) items, none excluded, none that
fails the filter, scores that are inner products, over every kind of index; and the recall at each selectivity.

usage: python -m benchmarks.retrieval.guarantee [--cases 10000] [--items 100000] [--kinds exact,ivf_flat] [--seed 1]

Exits with 1 if a case is violated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from benchmarks.retrieval.cases import (
    SHARES,
    Case,
    Catalogue,
    Outcome,
    build_catalogue,
    generate,
    judge,
    query_like,
    table,
)

from feast_recsys.bundle.filter_cache import FilterCache
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, candidates, measure_switching, open_index
from feast_recsys.bundle.index.protocol import Index, Vectors
from feast_recsys.bundle.index.spec import ENGINES, KINDS, IndexSpec
from feast_recsys.server.eligibility import named_in_request, without
from feast_recsys.server.metrics import Metrics

RECALL = 0.99
_K, _QUERIES = 100, 200
_CACHE_BYTES = 64 << 20


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the cases and prints what came of them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="for each kind")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--kinds", default=",".join(_own_kinds()), help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(None if arguments is None else list(arguments))
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "snapshot").mkdir()
        catalogue = build_catalogue(Path(folder) / "snapshot", options.items, options.dimension, random)
        indexes = {
            kind: open_kind(kind, catalogue, Path(folder) / kind, random) for kind in options.kinds.split(",")
        }  # fmt: skip
        started = time.monotonic()
        outcomes = run(catalogue, indexes, options.cases, random)
    print(f"{options.cases} cases for each kind in {time.monotonic() - started:.0f} s, seed {options.seed}")
    print(report(outcomes))
    return 1 if any(outcome.wrong for of_kind in outcomes.values() for _, outcome in of_kind) else 0


def _own_kinds() -> list[str]:
    """Kinds of index that answer by themselves and whose library is there."""
    missing = () if find_spec("scann") is not None else ("scann",)
    return [kind for kind in KINDS if kind not in (*ENGINES, *missing)]


def open_kind(kind: str, catalogue: Catalogue, folder: Path, random: np.random.Generator) -> Index:
    """The first candidate of a kind that reaches the recall without a filter, its switching measured."""
    vectors = catalogue.vectors
    if kind == "exact":
        return ExactIndex(vectors)
    queries = np.concatenate([query_like(catalogue, random) for _ in range(_QUERIES)])
    truth, _ = ExactIndex(vectors).search(queries, _K)
    spec = None
    for spec in candidates(*vectors.shape):
        if spec.kind == kind and _recall(_built(spec, folder, vectors), queries, truth) >= RECALL:
            break
    if spec is None or spec.kind != kind:
        raise SystemExit(f"no candidate of kind {kind} for {len(vectors)} items reaches {RECALL}")
    index = _built(spec, folder, vectors)
    print(f"{spec}: recall {_recall(index, queries, truth):.4f} without a filter")
    return open_index(spec, _folder(spec, folder), vectors, measure_switching(index, queries, _K, RECALL))


def run(
    catalogue: Catalogue, indexes: Mapping[str, Index], cases: int, random: np.random.Generator
) -> dict[str, list[tuple[Case, Outcome]]]:
    """Cases and outcomes by kind. All kinds get the same cases."""
    filters = FilterCache(catalogue.snapshot, _CACHE_BYTES)
    metrics, n = Metrics().open(), len(catalogue)
    outcomes: dict[str, list[tuple[Case, Outcome]]] = {kind: [] for kind in indexes}
    for _ in range(cases):
        case = generate(catalogue, random)
        for kind, index in indexes.items():
            allow = named_in_request(case.eligibility, catalogue.snapshot, filters, metrics)
            allow = without(allow, case.seen, n)
            outcome = judge(case, index.search(case.query, case.k, allow))
            outcomes[kind].append((case, outcome))
    return outcomes


def report(outcomes: Mapping[str, list[tuple[Case, Outcome]]]) -> str:
    """A table by index and by what is asked, and the first violations."""
    lines, wrong = [["index", "cases where", "cases", "violations", "mean recall", "least"]], []
    for kind, found in outcomes.items():
        for label, belongs in GROUPS.items():
            group = [outcome for case, outcome in found if belongs(case)]
            if group:
                violated = [outcome.wrong for outcome in group if outcome.wrong]
                wrong += [f"{kind}, {label}: {text}" for text in violated[:3]]
                recalls = [outcome.recall for outcome in group]
                numbers = [f"{np.mean(recalls):.4f}", f"{min(recalls):.3f}"]
                lines.append([kind, label, str(len(group)), str(len(violated)), *numbers])
    return "\n".join([table(lines), *wrong])


def _passing(share: float, case: Case) -> bool:
    return case.share == share


def _wanted(least: int, most: int, case: Case) -> bool:
    return least <= case.k <= most


def _excluding(least: int, most: int, case: Case) -> bool:
    return least <= len(case.eligibility.exclude_item_ids) <= most


GROUPS: Mapping[str, Callable[[Case], bool]] = {
    **{f"{100 * share:g} % pass": partial(_passing, share) for share in SHARES},
    **{f"k = {a}..{b}": partial(_wanted, a, b) for a, b in ((1, 10), (11, 100), (101, 1000))},
    **{f"{a}..{b} excluded": partial(_excluding, a, b) for a, b in ((0, 99), (100, 999), (1000, 10_002))},
}
"""What the report counts, and which cases belong to it."""


def _recall(index: Index, queries: Vectors, truth: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> float:
    found = [index.search(query[None], truth.shape[1])[0][0] for query in queries]
    return float(np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def _built(spec: IndexSpec, folder: Path, vectors: Vectors) -> Index:
    place = _folder(spec, folder)
    if not place.exists():
        build_index(spec, vectors, place)
    return open_index(spec, place, vectors)


def _folder(spec: IndexSpec, folder: Path) -> Path:
    return folder / "-".join([spec.kind, *(f"{name}{value:g}" for name, value in spec.build.items())])


if __name__ == "__main__":
    sys.exit(main())
