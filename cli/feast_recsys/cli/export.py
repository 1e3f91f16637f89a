"""`feast-recsys export`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
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
@click.option(
    "--quantize",
    type=click.Choice(["none", "int8"]),
    default="none",
    show_default=True,
    help="Weights of the split ranker's products; what int8 costs is measured and written down.",
)
@click.option(
    "--item-columns",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Values that the split ranker keeps of each item.",
)
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
    quantize: str,
    item_columns: str,
    as_json: bool,
) -> None:
    """Turn a checkpoint, or your own torch module, into an exported model.

    The graph carries its preprocessing, and is compared with PyTorch at many batch sizes, list lengths and odd
    values before it is written. Above the tolerance nothing is written, and the exit code is 1.

    A ranker is also divided into what the user, the item and both together determine, so that less is left to compute
    for each candidate. The parts are compared with the whole. Only --quantize and --item-columns make them less exact.

    \b
    feast-recsys export
    feast-recsys export --module my_models.dlrm:make --signature my_models/dlrm.yaml
    """
    if (module is None) != (signature_file is None):
        raise click.UsageError("--module and --signature go together")
    from feast_recsys.cli.progress import waiting

    how = _How(tolerance, seed, quantize, item_columns)
    written = []
    if module is not None and signature_file is not None:
        with waiting(f"export {module}, compare it with PyTorch"):
            written.append(_own(location, module, signature_file, output, how))
    else:
        settings = location.settings()
        chosen = settings.recommender(choose(settings, recommender))
        models = {"retrieval": chosen.retrieval.model, "ranking": chosen.ranking.model if chosen.ranking else None}
        names = [name for key, name in models.items() if name and stage in (None, key)]
        if output is not None and len(names) != 1:
            raise click.UsageError("--output takes one model; name its --stage")
        for name in names:
            with waiting(f"export {name}, compare it with PyTorch"):
                written.append(_checkpoint(location, name, output, how))
    if as_json:
        click.echo(json.dumps([_row(folder, signature) for folder, signature in written], indent=2))
    else:
        _show(written, tolerance)


@dataclass(frozen=True)
class _How:
    """The options of `export_model`."""

    tolerance: float
    seed: int
    quantize: str
    item_columns: str

    def arguments(self) -> dict[str, Any]:
        from feast_recsys.exporters.split.relaxing import Options

        options = Options(self.quantize, self.item_columns)
        return {"tolerance": self.tolerance, "seed": self.seed, "options": options}


def _checkpoint(location: Location, name: str, output: Path | None, how: _How) -> tuple[Path, Signature]:
    from feast_recsys.exporters.export import export_model
    from feast_recsys.models.load import load_checkpoint

    settings = location.settings()
    loaded = load_checkpoint(location.folder / settings.checkpoints / name)
    folder = output or location.folder / settings.models / name
    return folder, export_model(loaded.modules, loaded.signature, loaded.vocabularies, folder, **how.arguments())


def _own(
    location: Location, module: str, signature_file: Path, output: Path | None, how: _How
) -> tuple[Path, Signature]:
    from feast_recsys.exporters.export import export_model
    from feast_recsys.exporters.factory import load_declaration, load_factory, modules_by_role

    declaration = load_declaration(signature_file)
    modules = modules_by_role(load_factory(module), declaration.signature)
    folder = output or location.folder / location.settings().models / declaration.signature.name
    return folder, export_model(modules, declaration.signature, declaration.vocabularies, folder, **how.arguments())


def _row(folder: Path, signature: Signature) -> dict[str, Any]:
    return {
        "model": signature.name,
        "stage": signature.stage.value,
        "folder": str(folder),
        "parity": signature.metadata["parity"],
        "unused_inputs": signature.metadata["unused_inputs"],
        **({"split": signature.metadata["split"]} if "split" in signature.metadata else {}),
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
        if "split" in signature.metadata:
            console.print(f"{signature.name}: {_split(signature.metadata['split'])}")
        for role, idle in signature.metadata["unused_inputs"].items():
            console.print(f"[yellow]{signature.name}: {role} does not use {', '.join(idle)}[/yellow]")


def _split(facts: Mapping[str, Any]) -> str:
    """What dividing the ranker saves, in one line."""
    if not facts["hoisted"]:
        return f"the ranker is served whole: {facts['why']}"
    flops, lookups = facts["flops_per_candidate"], facts["lookups_per_candidate"]
    text = (
        f"ranker split: {_thousands(flops['whole'])} -> {_thousands(flops['served'])} FLOPs and {lookups['whole']} -> "
        f"{lookups['served']} lookups per candidate, {facts['item_columns_bytes']} bytes per item kept"
    )
    if "cost" in facts:
        cost, weights = facts["cost"], "int8" if facts["quantize"] == "int8" else "float32"
        text += (
            f"; {weights} weights and {facts['item_columns']} item columns change the probability by "
            f"{cost['mean']:.1e} on average, {cost['largest']:.1e} at most, "
            f"and the order of {cost['discordant']:.2%} of pairs"
        )
    return text


def _thousands(number: int) -> str:
    return f"{number / 1000:.0f} k" if number >= 10_000 else str(number)
