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
    "--workers",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes that answer, on one port.  [default: the settings']",
)
@click.option(
    "--log-level",
    default="INFO",
    show_default=True,
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    help="The least that is logged.",
)
@click.pass_obj
def serve(location: Location, address: str | None, workers: int | None, log_level: str) -> None:
    """Answer Retrieve, Rank and Recommend over gRPC until SIGTERM or Ctrl-C.

    Starts without a bundle, too: calls are UNAVAILABLE and health NOT_SERVING until one is published. New bundles
    are picked up without a restart. A worker that dies is replaced.
    """
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(processName)s %(name)s %(message)s"
    )
    # Feast tells of every refresh of its registry; ours are once a minute and in the metrics.
    logging.getLogger("feast").setLevel(max(logging.getLogger().level, logging.WARNING))
    settings = location.settings()
    if workers is not None:
        settings = settings.model_copy(update={"serving": settings.serving.model_copy(update={"workers": workers})})
    from feast_recsys.server.serve import serve as run

    run(settings, location.folder, location.feature_store_yaml, address=address, announce=click.echo)
