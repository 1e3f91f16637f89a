"""`feast-recsys materialize`."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING

import click

from feast_recsys.cli.location import Location

if TYPE_CHECKING:
    from feast_recsys.features.repo import Repo


@click.command()
@click.option(
    "--full/--incremental",
    help="Bring everything online anew, embed all items and always publish a bundle; or do so for what has changed, "
    "if anything has.  [default: incremental]",
)
@click.option(
    "--as-of",
    type=click.DateTime(),
    metavar="TIME",
    help="Moment to bring features up to, in UTC, such as 2026-01-31T12:00:00.  [default: now]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_obj
def materialize(location: Location, full: bool, as_of: datetime | None, as_json: bool) -> None:
    """Bring features online, embed the catalogue, publish a bundle.

    Feast's own materialization, view by view; then the catalogue's features are read back, all items embedded,
    item vectors written to Feast, a sample audited against get_online_features, and a bundle published by one
    rename. Nothing new publishes nothing. Killed at any moment, it leaves the last good bundle in place.
    """
    from datetime import timezone

    from feast_recsys.cli.progress import StepProgress
    from feast_recsys.jobs.pipeline import materialize as run

    repo = location.open()
    moment = as_of.replace(tzinfo=timezone.utc) if as_of is not None else None
    with StepProgress() as progress:
        summary = run(repo, mode="full" if full else "incremental", as_of=moment, reporter=progress)
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=2, default=str))
        return
    if summary.published:
        _print_indexes(repo, summary.bundle_id)
    click.echo(f"{summary} in {summary.seconds:.1f} s")
    for note in summary.notes:
        click.echo(f"note: {note}", err=True)


def _print_indexes(repo: Repo, bundle_id: str) -> None:
    """What was measured for each index, where there was anything to choose."""
    from rich.console import Console

    from feast_recsys.bundle.manifest import Manifest
    from feast_recsys.cli.index_table import index_table

    console = Console(highlight=False)
    for name, entry in Manifest.load(repo.resolve(repo.settings.bundles) / bundle_id).recommenders.items():
        if entry.index is not None and entry.index.curve:
            console.print(index_table(name, entry.index))
