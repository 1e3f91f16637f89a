"""A server's answer as a table for people or JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from feast_recsys.bundle.snapshot import UNKNOWN_ROW, open_snapshot
from feast_recsys.bundle.store import SNAPSHOT_FOLDER, current
from feast_recsys.cli.location import Location
from feast_recsys.features.settings import Settings
from feast_recsys.v1.recommender_service_pb2 import ResponseInfo, UserStatus


def titles(location: Location, settings: Settings, recommender: str, item_ids: Sequence[str]) -> list[str] | None:
    """Titles of items from the bundle on this machine; None if the settings name none or no bundle is here."""
    reference = settings.recommender(recommender).title
    root = location.folder / settings.bundles
    bundle = current(root)
    if reference is None or bundle is None:
        return None
    snapshot = open_snapshot(root / bundle / SNAPSHOT_FOLDER)
    if reference not in snapshot.references:
        return None
    rows = snapshot.rows(item_ids)
    known = snapshot.gather(reference, rows[rows != UNKNOWN_ROW]).to_list()
    found = iter(known)
    return [str(next(found)) if row != UNKNOWN_ROW else "" for row in rows]


def show(
    heading: str,
    item_ids: Sequence[str],
    names: Sequence[str] | None,
    scores: Mapping[str, Sequence[float]],
    info: ResponseInfo,
    sources: Sequence[str] = (),
) -> None:
    """Prints an answer as a table: rank, id, title, scores, and sources where there are several; below it what is known
    of the answer."""
    console = Console()
    table = Table(title=heading, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("id", justify="right")
    if names is not None:
        table.add_column("title", max_width=60, no_wrap=True)
    for column in scores:
        table.add_column(column, justify="right")
    several = len(set(sources)) > 1
    if several:
        table.add_column("source")
    for n, item in enumerate(item_ids):
        title = [names[n]] if names is not None else []
        source = [sources[n]] if several else []
        table.add_row(str(n + 1), item, *title, *(f"{values[n]:.4f}" for values in scores.values()), *source)
    console.print(table)
    status = UserStatus.Name(info.user_status).removeprefix("USER_STATUS_").lower()
    notes = [f"user {status}" if info.user_status else "", f"bundle {info.bundle_id}", *info.degraded_reasons]
    console.print(f"[dim]{' · '.join(note for note in notes if note)}[/dim]", highlight=False)


def show_unknown(item_ids: Sequence[str]) -> None:
    """Names on standard error what the request named and the catalogue does not have, if there is any."""
    if item_ids:
        click.echo(f"not in the catalogue: {', '.join(item_ids)}", err=True)


def show_json(
    item_ids: Sequence[str],
    names: Sequence[str] | None,
    scores: Mapping[str, Sequence[float]],
    info: ResponseInfo,
    sources: Sequence[str] = (),
    **more: Any,
) -> None:
    """Prints an answer as one JSON object."""
    columns: dict[str, Any] = {"item_id": list(item_ids), **({"title": list(names)} if names is not None else {})}
    columns |= {name: [round(v, 6) for v in values] for name, values in scores.items()}
    columns |= {"source": list(sources)} if sources else {}
    items = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    document = {
        "bundle_id": info.bundle_id,
        "as_of": info.as_of.ToJsonString(),
        "user_status": UserStatus.Name(info.user_status).removeprefix("USER_STATUS_"),
        "degraded_reasons": list(info.degraded_reasons),
        "items": items,
        **more,
    }
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
