"""`feast-recsys doctor`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from feast_recsys.cli.location import Location

MARKS = {"ok": "[green]✓[/green]", "warning": "[yellow]![/yellow]", "error": "[red]✗[/red]"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def doctor(location: Location, as_json: bool) -> None:
    """Check repository, models and bundle against one another, and name all that is wrong.

    Exit code 1 if there is an error; warnings alone leave it 0.
    """
    from feast_recsys.cli.progress import waiting

    with waiting("examine the repository, its models and the bundle"):
        from feast_recsys.jobs.doctor import examine_folder

        findings = examine_folder(location.folder, location.feature_store_yaml)
    if as_json:
        click.echo(json.dumps([asdict(f) for f in findings], indent=2, default=str))
    else:
        from rich.console import Console
        from rich.markup import escape

        console = Console(highlight=False)
        for f in findings:
            console.print(f"{MARKS[f.severity]} [bold]{escape(f.subject)}[/bold] {escape(f.message)}")
            if f.remedy:
                console.print(f"  [dim]→[/dim] {escape(f.remedy)}")
        count = {severity: sum(f.severity == severity for f in findings) for severity in MARKS}
        console.print(f"[dim]{count['ok']} fine · {count['warning']} to look at · {count['error']} wrong[/dim]")
    sys.exit(1 if any(f.severity == "error" for f in findings) else 0)
