"""The guarantee of filtered retrieval in thousands of generated cases: min(k, eligible) items, none excluded, none that
fails the filter, scores that are those of the metric, over every kind of index; and the recall at each selectivity.

usage: python -m benchmarks.retrieval.guarantee [--cases 10000] [--items 100000] [--kinds exact,ivf_flat] [--seed 1]
                                                [--metric cosine] [--carried]

Exits with 1 if a case is violated, or the mean recall of a group of at least 100 cases is less than .99.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
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
from feast_recsys.bundle.index.by_metric import by_metric, search_vectors
from feast_recsys.bundle.index.exact import ExactIndex
from feast_recsys.bundle.index.kinds import build_index, candidates, measure_switching, open_index
from feast_recsys.bundle.index.protocol import Index, Rows, Vectors
from feast_recsys.bundle.index.reduction import INNER_PRODUCT, METRICS
from feast_recsys.bundle.index.segments import TOMBSTONE, Segments
from feast_recsys.bundle.index.spec import ENGINES, KINDS, IndexSpec
from feast_recsys.jobs.recall import Truth, exact_answers, interval, recalls, search_all
from feast_recsys.server.eligibility import named_in_request, without
from feast_recsys.server.metrics import Metrics

RECALL = 0.99
_K, _QUERIES = 100, 200
_FEWEST = 100
_CHANGED = 0.03  # of the items, in an index that is carried on
_CACHE_BYTES = 64 << 20


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs the cases and prints what came of them; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--cases", type=int, default=10_000, help="for each kind")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dimension", type=int, default=32)
    parser.add_argument("--kinds", default=",".join(_own_kinds()), help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--metric", choices=METRICS, default=INNER_PRODUCT, help="[%(default)s]")
    parser.add_argument("--carried", action="store_true", help="indexes as incremental runs carry them on")
    options = parser.parse_args(None if arguments is None else list(arguments))
    random = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "snapshot").mkdir()
        catalogue = build_catalogue(Path(folder) / "snapshot", options.items, options.dimension, random)
        catalogue = replace(catalogue, metric=options.metric)
        indexes = {
            kind: open_kind(kind, catalogue, Path(folder) / kind, random, carried=options.carried)
            for kind in options.kinds.split(",")
        }
        started = time.monotonic()
        outcomes = run(catalogue, indexes, options.cases, random)
    print(f"{options.cases} cases for each kind in {time.monotonic() - started:.0f} s, seed {options.seed}")
    print(report(outcomes))
    return 1 if any(group.failed for groups in map(grouped, outcomes.values()) for group in groups) else 0


def _own_kinds() -> list[str]:
    """Kinds of index that answer by themselves and whose library is there."""
    missing = () if find_spec("scann") is not None else ("scann",)
    return [kind for kind in KINDS if kind not in (*ENGINES, *missing)]


def open_kind(
    kind: str, catalogue: Catalogue, folder: Path, random: np.random.Generator, *, carried: bool = False
) -> Index:
    """An index over the catalogue as a server opens it.

    Args:
        kind: Of which the first candidate is taken that reaches the recall without a filter.
        catalogue: The items.
        folder: Of its files.
        random: Draws the queries that it is measured with.
        carried: Whether it was built of a catalogue some of whose items have changed since.
    """
    made = search_vectors(catalogue.vectors, catalogue.metric)
    queries = made.queries(np.concatenate([query_like(catalogue, random) for _ in range(_QUERIES)]))
    base_rows = _base_rows(len(catalogue), random) if carried else np.arange(len(catalogue))
    base = made.vectors.take(base_rows, axis=0)
    if carried:
        gone = np.flatnonzero(base_rows == TOMBSTONE)
        base[gone] = made.vectors.take(random.integers(0, len(catalogue), len(gone)), axis=0)
    index: Index = ExactIndex(base) if kind == "exact" else _measured(kind, base, queries, folder)
    if carried:
        index = Segments(index, base_rows, made.vectors)
    return by_metric(index, catalogue.vectors, catalogue.metric, made.centre)


def _base_rows(n: int, random: np.random.Generator) -> Rows:
    """[n] the row of each item of then: some are gone, as many are new."""
    rows = random.permutation(n)
    rows[: round(_CHANGED * n)] = TOMBSTONE
    return random.permutation(rows)


def _measured(kind: str, vectors: Vectors, queries: Vectors, folder: Path) -> Index:
    truth = exact_answers(vectors, queries, _K)
    spec = None
    for spec in candidates(*vectors.shape):
        if spec.kind == kind and _recall(_built(spec, folder, vectors), truth)[1] >= RECALL:
            break
    if spec is None or spec.kind != kind:
        raise SystemExit(f"no candidate of kind {kind} for {len(vectors)} items reaches {RECALL}")
    index = _built(spec, folder, vectors)
    mean, low, high = _recall(index, truth)
    print(f"{kind} is {spec}: recall {mean:.4f} ({low:.4f} to {high:.4f}) without a filter")
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


@dataclass(frozen=True)
class Group:
    """What came of the cases that have something in common.

    Attributes:
        label: What that is.
        violated: What was wrong, case by case.
        recalls: [cases].
    """

    label: str
    violated: list[str]
    recalls: list[float]

    @property
    def failed(self) -> bool:
        """Whether anything was wrong, or too little was found; few cases say nothing of recall."""
        few = len(self.recalls) < _FEWEST
        return bool(self.violated) or (not few and float(np.mean(self.recalls)) < RECALL)


def grouped(found: list[tuple[Case, Outcome]]) -> list[Group]:
    """The cases of one index by what is asked; groups without a case are left out."""
    groups = []
    for label, belongs in GROUPS.items():
        of_group = [outcome for case, outcome in found if belongs(case)]
        if of_group:
            violated = [outcome.wrong for outcome in of_group if outcome.wrong]
            groups.append(Group(label, violated, [outcome.recall for outcome in of_group]))
    return groups


def report(outcomes: Mapping[str, list[tuple[Case, Outcome]]]) -> str:
    """A table by index and by what is asked, and the first violations."""
    lines, wrong = [["index", "cases where", "cases", "violations", "mean recall", "least"]], []
    for kind, found in outcomes.items():
        for group in grouped(found):
            wrong += [f"{kind}, {group.label}: {text}" for text in group.violated[:3]]
            recall = [f"{np.mean(group.recalls):.4f}", f"{min(group.recalls):.3f}"]
            lines.append([kind, group.label, str(len(group.recalls)), str(len(group.violated)), *recall])
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


def _recall(index: Index, truth: Truth) -> tuple[float, float, float]:
    """The mean, and the interval whose lower end must reach the recall, as in a job."""
    return interval(recalls(truth, *search_all(index, truth.queries, truth.k)), truth.k)


def _built(spec: IndexSpec, folder: Path, vectors: Vectors) -> Index:
    place = _folder(spec, folder)
    if not place.exists():
        build_index(spec, vectors, place)
    return open_index(spec, place, vectors)


def _folder(spec: IndexSpec, folder: Path) -> Path:
    return folder / "-".join([spec.kind, *(f"{name}{value:g}" for name, value in spec.build.items())])


if __name__ == "__main__":
    sys.exit(main())
