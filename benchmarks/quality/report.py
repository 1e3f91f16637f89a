"""Results of studies as tables: for the terminal, and as Markdown for the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def cell(values: list[float]) -> str:
    """Mean and, of two values or more, the standard deviation over seeds (n - 1)."""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {statistics.stdev(values):.4f}"


def lines(document: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of one study: name, metrics, number of seeds, minutes of training a seed."""
    metrics: list[str] = document["metrics"]
    rows = []
    for name, seeds in document["rows"].items():
        results = list(seeds.values())
        found = [[r["metrics"][m] for r in results if m in r["metrics"]] for m in metrics]
        minutes = statistics.fmean(r["minutes"] for r in results)
        rows.append([name, *(cell(v) if v else "" for v in found), str(len(results)), f"{minutes:.1f}"])
    for name, values in document["published"].items():
        rows.append([f"{name} (published)", *(f"{values[m]:.4f}" if m in values else "" for m in metrics), "", ""])
    return ["", *metrics, "seeds", "minutes"], rows


def show(document: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table of one study."""
    if not document["rows"]:
        return
    head, rows = lines(document)
    shown = Table(box=None, header_style="dim", pad_edge=False, title_justify="left", title_style="bold")
    shown.title = document["title"]
    for n, name in enumerate(head):
        shown.add_column(name, justify="right" if n else "left", no_wrap=True)
    for row in rows:
        shown.add_row(*row, style="dim" if row[0].endswith("(published)") else None)
    console = console or Console(highlight=False)
    console.print(shown)
    for note in document["notes"]:
        console.print(note, style="dim")


def markdown(document: Mapping[str, Any]) -> str:
    """One study as a section: title, table, notes, what it was computed with."""
    versions = ", ".join(f"{name} {number}" for name, number in document["machine"]["versions"].items())
    parts = [
        f"## {document['study']}",
        document["title"],
        table(document),
        *document["notes"],
        f"Python {document['machine']['python']}, {versions}.",
    ]
    return "\n\n".join(parts) + "\n"


def table(document: Mapping[str, Any]) -> str:
    """The table of one study as Markdown."""
    head, rows = lines(document)
    return "\n".join([_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)])


def fill(text: str, documents: Iterable[Mapping[str, Any]]) -> str:
    """A page with the tables of studies, each between `<!-- STUDY -->` and `<!-- end -->`, renewed.

    Raises:
        ValueError: the page has no place for one.
    """
    for document in documents:
        begin, end = f"<!-- {document['study']} -->\n", "<!-- end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"no place for the table of {document['study']}")
        text = f"{before}{begin}{table(document)}\n{end}{after}"
    return text


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(text.replace('|', '/') for text in cells)} |"
