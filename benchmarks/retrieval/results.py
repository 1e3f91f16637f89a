"""Results of comparisons as files: one for each set of vectors, its parts replaced one by one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "retrieval"
_LIBRARIES = ("faiss-cpu", "usearch", "hnswlib", "scann")


def measured_on() -> dict[str, Any]:
    """The machine, and the libraries that matter here."""
    versions = {"numpy": version("numpy"), **{each: _version(each) for each in _LIBRARIES}}
    return {**machine(), "versions": versions}


def keep(folder: Path, name: str, part: str, figures: Mapping[str, Any]) -> None:
    """Puts one part into the file of a set of vectors."""
    document = {**read(folder, name), "data": name, part: dict(figures)}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.json.{os.getpid()}"
    draft.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draft.replace(folder / f"{name}.json")


def read(folder: Path, name: str) -> dict[str, Any]:
    """What is known of a set of vectors; nothing if there is no file."""
    path = folder / f"{name}.json"
    if not path.is_file():
        return {}
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def read_all(folder: Path) -> list[dict[str, Any]]:
    """All results, those over most items first."""
    found = [read(folder, path.stem) for path in sorted(folder.glob("[!.]*.json"))]
    return sorted(found, key=lambda document: -_items(document))


def _items(document: Mapping[str, Any]) -> int:
    sizes = [part["items"] for part in document.values() if isinstance(part, dict) and "items" in part]
    return max(sizes, default=0)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
