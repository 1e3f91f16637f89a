"""Results of comparisons as tables in Markdown, and their place in the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.retrieval.libraries import Setting

from feast_recsys.bundle.errors import InvalidArgument

BEGIN, END = "<!-- retrieval -->", "<!-- end -->"

_MB = 1e6
_LESS = 0.02  # recall: a bare call that finds so much less is no measure of time
_OURS = ("ours", "our ")  # how the names of our rows begin in filtered cases
_EXACT = "exact search"


def markdown(document: Mapping[str, Any]) -> str:
    """All that is known of one set of vectors: a section."""
    parts = [f"### {document['data']}"]
    if "unfiltered" in document:
        parts += _unfiltered(document["unfiltered"])
    if "filtered" in document:
        parts += _filtered(document["filtered"])
    return "\n\n".join(parts) + "\n"


def fill(page: str, text: str) -> str:
    """A page with other text in the place for it.

    Raises:
        InvalidArgument: the page has no such place.
    """
    before, begin, rest = page.partition(BEGIN + "\n")
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise InvalidArgument(f"the page has no lines {BEGIN} and {END}", field="page")
    return f"{before}{begin}\n{text.strip()}\n\n{end}{after}"


def ratio(values: Sequence[float] | None) -> str:
    """Median and quartiles."""
    return "" if values is None else f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def _unfiltered(part: Mapping[str, Any]) -> Iterator[str]:
    choice = Setting.from_document(part["rows"][0]["setting"])
    yield (
        f"{part['items']:,} items of {part['dimension']} numbers, top {part['k']}, {part['asked']:,} queries of one at "
        f"a time; parameters reach {part['recall']} on {part['tuning']:,} others. "
        f"`index: {{recall: {part['recall']}}}` chooses {_parameters(choice)} ({part['choice']['why']})."
    )
    head = [
        "", "parameters", "build s", "peak MB", "memory MB", "disk MB", f"recall@{part['k']}", "p50 us", "p99 us",
        "queries/s", "p50 over bare call", "p50 over fastest library",
    ]  # fmt: skip
    recalls = {row["name"]: float(row["recall"]) for row in part["rows"]}
    yield _table(head, (_row(row, recalls.get(f"{row['name']}, bare call")) for row in part["rows"]))
    yield " ".join(filter(None, [*_missing(part), _machine(part["machine"])]))


def _row(row: Mapping[str, Any], bare_recall: float | None) -> list[str]:
    cost = row["cost"]
    costs = ["", "", "", ""]
    if cost is not None:
        costs = [f"{cost['seconds']:.1f}", *(f"{cost[name] / _MB:.0f}" for name in ("peak", "resident", "disk"))]
    name = row["name"] + (" (fastest)" if row["fastest"] else "")
    return [
        name,
        _parameters(Setting.from_document(row["setting"])),
        *costs,
        _recall(row),
        f"{row['p50']:,.0f}",
        f"{row['p99']:,.0f}",
        f"{row['per_second']:,.0f}",
        "finds less"
        if bare_recall is not None and bare_recall < row["recall"] - _LESS
        else ratio(row.get("over_bare")),
        ratio(row.get("over_fastest")),
    ]


def _filtered(part: Mapping[str, Any]) -> Iterator[str]:
    ours = "; ".join(f"{name}: {text}" for name, text in part["settings"].items() if name.startswith(_OURS))
    yield f"With a filter or exclusions. {ours}."
    head = [
        "", "of ours", "recall", "p50 us", "p99 us", "over without a filter", "over exact over what passes",
        "over the same in one place", "over exact of all", "making it, us",
    ]  # fmt: skip
    yield _table(head, (line for case in part["cases"] for line in _ours(case)))
    libraries = [name for name in part["settings"] if not name.startswith(_OURS)]
    if libraries:
        settings = "; ".join(f"{name}: {part['settings'][name]}" for name in libraries)
        yield (
            "The libraries' own filters: p50 in us (recall), with the effort that they need without a filter, and with "
            "what reaches the recall if that takes less time than exact search of everything. "
            f"{settings}. A filter is made beforehand, exclusions with each search."
        )
        columns = [column for name in libraries for column in (name, "raised")]
        yield _table(
            ["", "ours", *columns, "exact of all"], (_beside(case, libraries, part["recall"]) for case in part["cases"])
        )
    wrong = sum(row.get("wrong", 0) for case in part["cases"] for row in case["rows"] if row["name"].startswith(_OURS))
    yield f"Items of ours that had to stay away: {wrong}. {_machine(part['machine'])}"


def _ours(case: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in case["rows"]:
        if row["name"].startswith(_OURS):
            yield [
                case["title"],
                row["name"],
                _recall(row),
                f"{row['p50']:,.0f}",
                f"{row['p99']:,.0f}",
                *(ratio(row.get(f"over_{to}")) for to in ("unfiltered", "passing", "one_place", "exact")),
                f"{case['making']:,.0f}",
            ]


def _beside(case: Mapping[str, Any], libraries: Iterable[str], recall: float) -> list[str]:
    rows = {row["name"]: row for row in case["rows"]}
    cells = [case["title"], _short(rows["ours"])]
    for name in libraries:
        raised = next((row for row in case["rows"] if row["name"].startswith(f"{name}, effort ")), None)
        cells += [
            _short(rows[name]),
            _short(raised) if raised is not None else "" if rows[name]["recall"] >= recall else "out of reach",
        ]
    return [*cells, f"{rows[_EXACT]['p50']:,.0f}"]


def _short(row: Mapping[str, Any]) -> str:
    return f"{row['p50']:,.0f} ({row['recall']:.3f})"


def _recall(row: Mapping[str, Any]) -> str:
    return f"{row['recall']:.4f} ({row['low']:.4f} to {row['high']:.4f})"


def _parameters(setting: Setting) -> str:
    return str(setting).partition(" ")[2]


def _missing(part: Mapping[str, Any]) -> Iterator[str]:
    if part["missing"]:
        yield f"Not installed: {', '.join(part['missing'])}."


def _machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    return f"{found['processor']}, {found['gflops']:.0f} GFlop/s; Python {found['python']}, {versions}; {found['at']}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([_line(head), _line(["---", *["---:"] * (len(head) - 1)]), *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
