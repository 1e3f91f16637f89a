"""Builds, made once and kept: each in a process of its own, so that its time and its memory are its own.

usage: python -m benchmarks.retrieval.builds build|open FOLDER < JOB, which `Builds` calls.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.processes import ROOT
from benchmarks.retrieval.libraries import OURS, PACKAGES, SCANN, Build, Setting, build, open_built

from feast_recsys.bundle import index as index_package
from feast_recsys.bundle.index.protocol import Vectors

RECORD = "build.json"
_WRITERS = ("ivf_files", "reduction", "hnsw", "scann")  # modules that say what is in our files
_DISTRIBUTIONS = {OURS: "faiss-cpu", "faiss": "faiss-cpu"}
_SEARCHES = 200  # that touch what a search touches, before memory is read
_EFFORT = 64


@dataclass(frozen=True)
class Cost:
    """What a build costs.

    Attributes:
        seconds: To build and write it.
        threads: That it was built with.
        peak: Bytes of memory that building took beyond the items at its highest.
        resident: Bytes that an open index that has been searched keeps in memory beyond the items.
        disk: Bytes of its files.
    """

    seconds: float
    threads: int
    peak: int
    resident: int
    disk: int


@dataclass(frozen=True)
class Builds:
    """The builds of one set of items.

    Attributes:
        folder: Where they are kept, with the items as `items.npy` and queries as `tuning.npy`.
        threads: To build with.
        say: Told what takes long.
    """

    folder: Path
    threads: int = 1
    say: Callable[[str], None] = print

    def get(self, setting: Setting) -> tuple[Path, Cost]:
        """The files of a build, made if they are not there or were written by another version."""
        what = setting.build
        folder, mark = self.folder / what.folder, _mark(what)
        record = _read(folder / RECORD)
        if record.get("mark") != mark:
            self.say(f"building {what} ...")
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "files").mkdir(parents=True)
            made = self._ask("build", setting, folder)
            opened = self._ask("open", setting, folder)
            record = {"mark": mark, "cost": {**made, **opened, "disk": disk(folder / "files")}}
            (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        return folder / "files", Cost(**record["cost"])

    def _ask(self, what: str, setting: Setting, folder: Path) -> dict[str, Any]:
        job = {"setting": setting.document(), "items": str(self.folder), "threads": self.threads}
        number = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.retrieval.builds", what, str(folder / "files")],
            input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def main(arguments: list[str]) -> int:
    """Does one job and prints what it took as JSON in the last line."""
    (what, place), job = arguments, json.load(sys.stdin)
    setting, folder = Setting.from_document(job["setting"]), Path(job["items"])
    items = np.load(folder / "items.npy")
    answer = (
        _built(setting, items, Path(place), job["threads"])
        if what == "build"
        else _opened(setting, items, np.load(folder / "tuning.npy"), Path(place))
    )
    print(json.dumps(answer))
    return 0


def disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _built(setting: Setting, items: Vectors, folder: Path, threads: int) -> Mapping[str, float]:
    import_module(PACKAGES[setting.build.library])
    before, began = _memory("VmRSS"), time.monotonic()
    build(setting.build, items, folder, threads)
    seconds = time.monotonic() - began
    return {"seconds": round(seconds, 4), "threads": threads, "peak": max(_memory("VmHWM") - before, 0)}


def _opened(setting: Setting, items: Vectors, queries: Vectors, folder: Path) -> Mapping[str, int]:
    import_module(PACKAGES[setting.build.library])
    before = _memory("VmRSS")
    opened = open_built(setting, items, folder)
    opened.prepare(max(setting.effort, _EFFORT))
    for number in range(min(len(queries), _SEARCHES)):
        opened.search(queries[number : number + 1], min(100, len(items)))
    return {"resident": max(_memory("VmRSS") - before, 0)}


def _memory(what: str) -> int:
    """Bytes of this process. Not what getrusage says: its peak is inherited from the process that started this one."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{what}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {what}")


def _mark(what: Build) -> str:
    """Changes with whatever may change the files."""
    library = SCANN if what.kind == "scann" else what.library
    parts = [version(_DISTRIBUTIONS.get(library, library))]
    if what.library in (OURS, SCANN):
        root = Path(index_package.__file__ or "").parent
        text = "".join((root / f"{name}.py").read_text(encoding="utf-8") for name in _WRITERS)
        parts.append(hashlib.sha256(text.encode()).hexdigest()[:12])
    return " ".join(parts)


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
