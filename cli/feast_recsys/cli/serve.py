"""`feast-recsys serve`."""

from __future__ import annotations

import logging

import click

from feast_recsys.cli.location import Location


@click.command()
@click.option(
    "--address", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.  [default: the settings']"
)
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
)
@click.pass_obj
def serve(location: Location, address: str | None, log_level: str) -> None:
    """Answer Retrieve, Rank and Recommend over gRPC until SIGTERM or Ctrl-C.

    Starts without a bundle, too: calls are UNAVAILABLE and health NOT_SERVING until one is published. New bundles
    are picked up without a restart.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Feast tells of every refresh of its registry; ours are once a minute and in the metrics.
    logging.getLogger("feast").setLevel(max(logging.getLogger().level, logging.WARNING))
    repo = location.open()
    from feast_recsys.server.app import serve as run

    run(repo, address=address, announce=lambda line: click.echo(line))
