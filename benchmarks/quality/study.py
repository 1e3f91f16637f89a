"""A study: named rows, each a function from a seed to metrics, run once for each seed and kept as they come.

A study module, `benchmarks/quality/NAME.py`, has one function:

    def study(options: Options) -> Study

It builds no data and trains nothing by itself; the rows do, when they are run. A row that chooses anything chooses it
on validation, and touches the test once, for the metrics that it returns.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).resolve().parents[1] / "results" / "quality"
SEEDS = (0, 1, 2, 3, 4)
MINUTES = "minutes"
"""A row may return its minutes of training under this name; else the time of the whole call stands for them."""

LIBRARIES = ("feast-recsys", "numpy", "scipy", "torch", "implicit", "scikit-learn", "lightgbm")

Row = Callable[[int], Mapping[str, float]]


@dataclass(frozen=True)
class Options:
    """What the command line says.

    Attributes:
        data: Folder that holds the folders of the data sets.
        seeds: Seeds to run.
        rows: Rows to run; None for all.
        small: A quick try, to see that everything runs: rows should cut sizes and epochs. Its results are kept apart.
        again: Run what there are results of, too.
    """

    data: Path
    seeds: tuple[int, ...] = SEEDS
    rows: tuple[str, ...] | None = None
    small: bool = False
    again: bool = False


@dataclass(frozen=True)
class Study:
    """What is measured, and how it is shown.

    Attributes:
        name: Of the study, and of its file of results.
        title: One line: data, protocol, metric variant.
        rows: By name, simple ones first. A row gets a seed and returns its metrics of the test.
        metrics: Those to show, the most important first; the file has all that the rows return.
        once: Rows without chance, which run at the first seed only.
        facts: Plain JSON for the file: checksums of the data, what was searched, the number of trials.
        published: Rows of published tables, to be shown beside ours; metric names as in `metrics`.
        notes: Sentences that belong below the table.
    """

    name: str
    title: str
    rows: Mapping[str, Row]
    metrics: Sequence[str]
    once: frozenset[str] = frozenset()
    facts: Mapping[str, Any] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def run(study: Study, options: Options, *, folder: Path = RESULTS, say: Callable[[str], None] = print) -> Path:
    """Runs the rows and seeds that have no result yet; the file is written after each.

    Returns:
        The file of results.

    Raises:
        ValueError: a row that the study doesn't have, or a metric that is not finite.
    """
    unknown = set(options.rows or ()) - set(study.rows)
    if unknown:
        raise ValueError(f"no row {', '.join(sorted(unknown))}; there are {', '.join(study.rows)}")
    path = folder / "small" / f"{study.name}.json" if options.small else folder / f"{study.name}.json"
    for name in options.rows or study.rows:
        seeds = options.seeds[:1] if name in study.once else options.seeds
        for seed in seeds:
            done = read(path)["rows"].get(name, {})
            if not options.again and (str(seed) in done or (name in study.once and done)):
                continue
            say(f"{study.name}: {name}, seed {seed} ...")
            began = time.monotonic()
            metrics = {key: float(value) for key, value in study.rows[name](seed).items()}
            minutes = metrics.pop(MINUTES, (time.monotonic() - began) / 60)
            broken = [key for key, value in metrics.items() if not math.isfinite(value)]
            if broken:
                raise ValueError(f"{study.name}: {name}, seed {seed}: {', '.join(broken)} is not finite")
            _keep(path, study, name, seed, result_of(metrics, minutes))
            shown = ", ".join(f"{key} {metrics[key]:.4f}" for key in study.metrics if key in metrics)
            say(f"{study.name}: {name}, seed {seed}: {shown} ({minutes:.1f} min)")
    return path


def read(path: Path) -> dict[str, Any]:
    """A file of results; one without rows if there is none."""
    if not path.is_file():
        return {"rows": {}}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def result_of(metrics: Mapping[str, float], minutes: float) -> dict[str, Any]:
    """What the file keeps of one row at one seed; with the machine, for seeds may be run on several."""
    found = machine()
    on = f"{found['cores']} cores" + (f", {found['gpu']}" if "gpu" in found else "")
    return {"metrics": dict(metrics), "minutes": round(minutes, 3), "at": _now(), "on": on}


def _keep(path: Path, study: Study, row: str, seed: int, result: Mapping[str, Any]) -> None:
    """Adds one result. The file is read again first: another process may run other rows of the same study."""
    rows: dict[str, dict[str, Any]] = read(path)["rows"]
    rows.setdefault(row, {})[str(seed)] = dict(result)
    order = [*(name for name in study.rows if name in rows), *(name for name in rows if name not in study.rows)]
    document = {
        "study": study.name,
        "title": study.title,
        "metrics": list(study.metrics),
        "facts": dict(study.facts),
        "machine": machine(),
        "published": {name: dict(values) for name, values in study.published.items()},
        "notes": list(study.notes),
        "rows": {name: dict(sorted(rows[name].items(), key=lambda pair: int(pair[0]))) for name in order},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def machine() -> dict[str, Any]:
    """What the figures were computed with."""
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: known for name in LIBRARIES if (known := _version(name)) is not None},
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
