"""`feast-recsys export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from feast_recsys.bundle.signature import Signature


@click.command()
@click.option("-r", "--recommender", metavar="NAME", help="Whose checkpoints.  [default: the only one]")
@click.option("--stage", type=click.Choice(["retrieval", "ranking"]), help="One stage only.  [default: both]")
@click.option(
    "-m",
    "--module",
    metavar="PACKAGE.MODULE:FACTORY",
    help="Your own module instead of a checkpoint: a "
    "function without arguments that returns a torch.nn.Module, or a mapping of role to module.",
)
@click.option(
    "-s",
    "--signature",
    "signature_file",
    type=click.Path(exists=True, path_type=Path),
    help="What your module takes: a YAML file in the form of model.yaml.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder to write.  [default: the settings' models/NAME]"
)
@click.option("--tolerance", default=1e-5, show_default=True, help="Largest difference from PyTorch that passes.")
@click.option("--seed", default=0, show_default=True, help="Of the values on which the two are compared.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def export(
    location: Location,
    recommender: str | None,
    stage: str | None,
    module: str | None,
    signature_file: Path | None,
    output: Path | None,
    tolerance: float,
    seed: int,
    as_json: bool,
) -> None:
    """Turn a checkpoint, or your own torch module, into an exported model.

    The graph carries its preprocessing, and is compared with PyTorch at many batch sizes, list lengths and odd
    values before it is written. Above the tolerance nothing is written, and the exit code is 1.

    \b
    feast-recsys export
    feast-recsys export --module my_models.dlrm:make --signature my_models/dlrm.yaml
    """
    if (module is None) != (signature_file is None):
        raise click.UsageError("--module and --signature go together")
    written = []
    if module is not None and signature_file is not None:
        written.append(_own(location, module, signature_file, output, tolerance, seed))
    else:
        settings = location.settings()
        chosen = settings.recommender(choose(settings, recommender))
        models = {"retrieval": chosen.retrieval.model, "ranking": chosen.ranking.model if chosen.ranking else None}
        names = [name for key, name in models.items() if name and stage in (None, key)]
        if output is not None and len(names) != 1:
            raise click.UsageError("--output takes one model; name its --stage")
        for name in names:
            written.append(_checkpoint(location, name, output, tolerance, seed))
    if as_json:
        click.echo(json.dumps([_row(folder, signature) for folder, signature in written], indent=2))
    else:
        _show(written, tolerance)


def _checkpoint(
    location: Location, name: str, output: Path | None, tolerance: float, seed: int
) -> tuple[Path, Signature]:
    from feast_recsys.exporters.export import export_model
    from feast_recsys.models.checkpoint import load_checkpoint

    settings = location.settings()
    loaded = load_checkpoint(location.folder / settings.checkpoints / name)
    folder = output or location.folder / settings.models / name
    return folder, export_model(
        loaded.modules, loaded.signature, loaded.vocabularies, folder, tolerance=tolerance, seed=seed
    )


def _own(
    location: Location, module: str, signature_file: Path, output: Path | None, tolerance: float, seed: int
) -> tuple[Path, Signature]:
    from feast_recsys.exporters.export import export_model
    from feast_recsys.exporters.factory import load_declaration, load_factory, modules_by_role

    declaration = load_declaration(signature_file)
    modules = modules_by_role(load_factory(module), declaration.signature)
    folder = output or location.folder / location.settings().models / declaration.signature.name
    return folder, export_model(
        modules, declaration.signature, declaration.vocabularies, folder, tolerance=tolerance, seed=seed
    )


def _row(folder: Path, signature: Signature) -> dict[str, Any]:
    return {
        "model": signature.name,
        "stage": signature.stage.value,
        "folder": str(folder),
        "parity": signature.metadata["parity"],
        "unused_inputs": signature.metadata["unused_inputs"],
    }


def _show(written: list[tuple[Path, Signature]], tolerance: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for column in ("model", "graph"):
        table.add_column(column)
    for column in ("inputs", "size", "cases", "largest difference"):
        table.add_column(column, justify="right")
    for folder, signature in written:
        for role, graph in signature.graphs.items():
            proof = signature.metadata["parity"]["graphs"][role.value]
            size = f"{(folder / graph.file).stat().st_size / 1024:.0f} KiB"
            difference = f"{proof['relative']:.1e}"
            table.add_row(signature.name, role.value, str(len(graph.inputs)), size, str(proof["cases"]), difference)
    console.print(table)
    console.print(f"[dim]PyTorch and ONNX Runtime agree within {tolerance:.0e} in every case.[/dim]")
    for _, signature in written:
        for role, idle in signature.metadata["unused_inputs"].items():
            console.print(f"[yellow]{signature.name}: {role} does not use {', '.join(idle)}[/yellow]")
