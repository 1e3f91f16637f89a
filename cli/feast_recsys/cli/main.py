"""Entry point of `feast-recsys`. Commands are imported when they are called, so that `--help` is quick."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click

from feast_recsys.bundle.errors import RecsysError
from feast_recsys.cli.location import Location

# In the order of a recommender's life; `--help` keeps it.
COMMANDS = {
    "train": "Train a recommender's models and measure them.",
    "evaluate": "Measure a trained recommender from all sides; tables, JSON, an HTML report.",
    "export": "Turn a checkpoint, or your own torch module, into an exported model.",
    "materialize": "Bring features online, embed the catalogue, publish a bundle.",
    "doctor": "Check repository, models and bundle against one another.",
    "serve": "Answer Retrieve, Rank and Recommend over gRPC.",
    "retrieve": "Ask a server for candidates.",
    "rank": "Ask a server to rank candidates.",
    "recommend": "Ask a server for recommendations: both stages in one call.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"feast_recsys.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--chdir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    envvar="FEATURE_REPO_DIR_ENV_VAR",
    help="Folder of the Feast repository.  [default: this folder]",
)
@click.option(
    "-f",
    "--feature-store-yaml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="FEAST_FS_YAML_FILE_PATH",
    help="Configuration file.  [default: feature_store.yaml in that folder]",
)
@click.version_option(version("feast-recsys"), prog_name="feast-recsys")
@click.pass_context
def cli(ctx: click.Context, chdir: Path, feature_store_yaml: Path | None) -> None:
    """Serve recommenders from a Feast feature store.

    A recommender's life: train, export, materialize, serve. All commands read the `recsys:` section of
    feature_store.yaml; -c and -f mean what they mean to `feast`.
    """
    ctx.obj = Location(chdir.resolve(), feature_store_yaml.resolve() if feature_store_yaml else None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        cli.main(arguments, prog_name="feast-recsys", standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except RecsysError as error:
        click.echo(f"{click.style('error', fg='red', bold=True)} [{error.reason}]: {error.message}", err=True)
        sys.exit(1)
