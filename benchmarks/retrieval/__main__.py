"""Indexes of vectors, ours beside the libraries, on one thread.

usage: python -m benchmarks.retrieval compare --data clustered-100000 [--parts unfiltered,filtered] [--kinds ...]
       python -m benchmarks.retrieval vectors --data DIR    (vectors of a model of MovieLens, for --data movielens)
       python -m benchmarks.retrieval report [--write]      (all results as tables; --write: into the documentation)

See also the modules guarantee and batch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.processes import ROOT
from benchmarks.retrieval.builds import Builds
from benchmarks.retrieval.compare import Plan, unfiltered
from benchmarks.retrieval.filtered import filtered
from benchmarks.retrieval.report import fill, markdown
from benchmarks.retrieval.results import RESULTS, keep, measured_on, read, read_all
from benchmarks.retrieval.worlds import load

from feast_recsys.bundle.errors import RecsysError

CACHE = ROOT / ".cache" / "bench-retrieval"
PAGE = ROOT / "docs" / "retrieval.md"
PARTS = ("unfiltered", "filtered")


def main(arguments: Iterable[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = _parser().parse_args(None if arguments is None else list(arguments))
    try:
        if options.command == "compare":
            compare(options)
        elif options.command == "vectors":
            from benchmarks.retrieval.movielens import write

            write(options.data, options.cache / "movielens.npz", say=_say)
        else:
            report(options.out, write=options.write)
    except RecsysError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    return 0


def compare(options: argparse.Namespace) -> None:
    """Measures parts of the comparison, keeps each when it is done, and prints the tables."""
    world, folder = load(options.data, options.cache, tuning=options.tuning, asked=options.asked)
    plan = Plan(
        world, Builds(folder, options.threads, _say), options.k, options.recall, options.kinds, options.passes,
        options.keep_choice, options.links,
    )  # fmt: skip
    for part in options.parts:
        facts = {"machine": measured_on()}
        before = read(options.out, world.name)
        figures = unfiltered(plan) if part == "unfiltered" else filtered(plan, before)
        keep(options.out, world.name, part, figures | facts)
    print(markdown(read(options.out, world.name)))


def report(folder: Path, *, write: bool) -> None:
    """Prints all results there are, or puts them into the documentation."""
    text = "\n".join(markdown(document) for document in read_all(folder))
    if write:
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), text), encoding="utf-8")
    else:
        print(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("compare", help="measure on one set of vectors")
    one.add_argument("--data", required=True, help="clustered-N, movielens, or a file NAME.npz with items and queries")
    one.add_argument("--parts", type=_parts, default=PARTS, help=f"[{','.join(PARTS)}]")
    one.add_argument("--kinds", type=_names, default=(), help="such as ivf_flat,ivf_sq8,hnsw,usearch [all]")
    one.add_argument("--links", type=_numbers, default=(), help="only graphs with so many, such as 16 [all]")
    one.add_argument("--k", type=int, default=100, help="items wanted [%(default)s]")
    one.add_argument("--recall", type=float, default=0.99, help="to be reached [%(default)s]")
    one.add_argument("--tuning", type=int, default=1000, help="queries that parameters are chosen with [%(default)s]")
    one.add_argument("--asked", type=int, default=1000, help="other queries, that are reported [%(default)s]")
    one.add_argument("--passes", type=int, default=3, help="times that each is asked [%(default)s]")
    one.add_argument("--threads", type=int, default=1, help="to build with [%(default)s]")
    one.add_argument("--keep-choice", action="store_true", help="take an earlier choice, though the code has changed")
    other = commands.add_parser("vectors", help="fit a model of MovieLens and write its vectors")
    other.add_argument("--data", type=Path, required=True, help="the folder that holds ml1m-five-star/")
    last = commands.add_parser("report", help="all results as tables")
    last.add_argument("--write", action="store_true", help=f"into {PAGE.relative_to(ROOT)}")
    for command in (one, other):
        command.add_argument("--cache", type=Path, default=CACHE, help="builds and vectors [.cache/bench-retrieval]")
    for command in (one, last):
        command.add_argument("--out", type=Path, default=RESULTS, help="results [benchmarks/results/retrieval]")
    return parser


def _parts(text: str) -> tuple[str, ...]:
    parts = _names(text)
    if not parts or not set(parts) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"parts are {', '.join(PARTS)}")
    return parts


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
