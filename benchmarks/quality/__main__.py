"""`python -m benchmarks.quality STUDY --data DIR`: models measured on public data. See --help.

`gate` in place of a study compares the evaluator with known figures; `report` prints all results as Markdown, and with
`--write` puts their tables into the documentation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from benchmarks.quality.gate import check
from benchmarks.quality.report import fill, markdown, show
from benchmarks.quality.study import RESULTS, SEEDS, Options, Study, read, run

from feast_recsys.bundle.errors import RecsysError

STUDIES = sorted(
    path.stem
    for path in Path(__file__).parent.glob("[a-z]*.py")
    if "\ndef study(options" in path.read_text(encoding="utf-8")
)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "quality.md"


def main(arguments: list[str] | None = None) -> int:
    """Runs a study, the gate or the report; 1 if the gate fails or a data set is missing."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("study", metavar="STUDY", help=f"{', '.join(STUDIES)}, gate or report")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder that holds gowalla/, adult/ and so on")
    parser.add_argument("--seeds", type=_seeds, default=SEEDS, metavar="N,N", help="[0,1,2,3,4]")
    parser.add_argument("--rows", type=_names, metavar="NAME,NAME", help="only these rows of the table")
    parser.add_argument("--small", action="store_true", help="a quick try on little data; its results are kept apart")
    parser.add_argument("--again", action="store_true", help="run what there are results of, too")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of PyTorch [%(default)s]")
    parser.add_argument("--write", action="store_true", help="with report: renew the tables of docs/quality.md")
    given = parser.parse_args(arguments)
    if given.study == "report":
        return report(write=given.write)
    if given.data is None:
        parser.error("--data is needed")
    try:
        if given.study == "gate":
            return gate(given.data)
        if given.study not in STUDIES:
            parser.error(f"no study {given.study!r}; there are {', '.join(STUDIES)}")
        options = Options(given.data, given.seeds, given.rows, given.small, given.again)
        return measure(given.study, options, given.threads)
    except RecsysError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1


def measure(name: str, options: Options, threads: int) -> int:
    """Runs what is missing of a study and prints its table."""
    import torch

    torch.set_num_threads(threads)
    built = importlib.import_module(f"benchmarks.quality.{name}").study(options)
    assert isinstance(built, Study)
    path = run(built, options, say=lambda text: print(text, file=sys.stderr, flush=True))
    show(read(path))
    print(f"written to {os.path.relpath(path)}")
    return 0


def gate(data: Path) -> int:
    """Compares the evaluator with known figures; 1 if one differs."""
    checks = check(data)
    for one in checks:
        print(f"{'ok ' if one.passes else 'BAD'} {one.name}: {one.found:.5f}, known {one.expected:.5f}")
    return 0 if all(one.passes for one in checks) else 1


def report(*, write: bool) -> int:
    """Prints all results there are as Markdown, or puts them into the documentation."""
    documents = [read(path) for path in sorted(RESULTS.glob("*.json"))]
    if write:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), documents), encoding="utf-8")
        return 0
    for document in documents:
        print(markdown(document))
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
