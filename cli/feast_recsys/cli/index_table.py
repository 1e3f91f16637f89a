"""What was measured before an index was chosen, as a table."""

from __future__ import annotations

from rich.table import Table

from feast_recsys.bundle.index.entry import EXACT, IndexEntry


def index_table(recommender: str, entry: IndexEntry) -> Table:
    """A row for each search that was measured, the chosen one marked, the quickest first.

    Args:
        recommender: Its name.
        entry: Its index, with a curve.
    """
    title = f"index of {recommender}: {entry.spec}, for recall@{entry.k} of {entry.recall} on queries of {entry.asked}"
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for heading in ("", "index", "recall", "95 % interval", "us a query", "build s", "MB"):
        table.add_column(heading, justify="left" if heading in ("", "index") else "right")
    for point in sorted(entry.curve, key=lambda p: p.microseconds):
        chosen = point.spec == entry.spec
        exact = point.spec.kind == EXACT
        table.add_row(
            "→" if chosen else "",
            str(point.spec),
            "1" if exact else f"{point.recall:.4f}",
            "" if exact else f"{point.low:.4f} to {point.high:.4f}",
            f"{point.microseconds:,.0f}",
            "" if exact else f"{point.build_seconds:,.1f}",
            "" if exact else f"{point.bytes / 1e6:,.1f}",
            style="bold" if chosen else "",
        )
    return table
