"""`feast-recsys train`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from feast_recsys.evaluation.protocol import Evaluation


@click.command()
@click.option("-r", "--recommender", metavar="NAME", help="Which recommender.  [default: the only one]")
@click.option("--seed", default=0, show_default=True, help="Same seed, same data, same machine: same weights.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of PyTorch. One is best for small models, and gives the same weights whatever else the machine does.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.pass_obj
def train(location: Location, recommender: str | None, seed: int, threads: int, as_json: bool) -> None:
    """Train a recommender's models and measure them.

    Training sets are joined as of each interaction, so that no feature knows the future. A user's last interactions
    are the test, those before them the validation that decides on early stopping. Checkpoints and metrics go into the
    settings' checkpoints folder, for `feast-recsys export`.
    """
    import torch

    from feast_recsys.cli.progress import StepProgress
    from feast_recsys.evaluation.protocol import evaluate_recommender
    from feast_recsys.models.checkpoint import save_checkpoint
    from feast_recsys.models.data import DataConfig, load_data
    from feast_recsys.models.ranking import train_ranking
    from feast_recsys.models.retrieval import train_retrieval

    torch.set_num_threads(threads)
    repo = location.open()
    name = choose(repo.settings, recommender)
    folder = repo.resolve(repo.settings.checkpoints)
    with StepProgress() as progress:
        data = load_data(repo, name, DataConfig(), progress=progress)
        retrieval = train_retrieval(repo, name, seed=seed, data=data, progress=progress)
        ranking = None
        if data.settings.ranking is not None:
            ranking = train_ranking(repo, name, retrieval, seed=seed, data=data, progress=progress)
        evaluation = evaluate_recommender(data, retrieval, ranking, seed=seed, progress=progress)
    for checkpoint in (retrieval, ranking):
        if checkpoint is not None:
            metrics = {**checkpoint.metrics, "evaluation": evaluation.to_dict()}
            save_checkpoint(replace(checkpoint, metrics=metrics), folder / checkpoint.signature.name)
    if as_json:
        click.echo(json.dumps(evaluation.to_dict(), indent=2))
    else:
        show(evaluation)


def show(evaluation: Evaluation) -> None:
    """Prints what was measured."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    name = {"rank": "Retrieve + Rank", "retrieve": "Retrieve's own order"}
    table = Table(box=None, header_style="dim", pad_edge=False, title_justify="left", title_style="bold")
    table.title = f"NDCG@10 over all {evaluation.items} items, {evaluation.users} test users, 95 % intervals"
    table.add_column("")
    table.add_column("NDCG@10", justify="right")
    table.add_column("interval", justify="right")
    table.add_column("ours is better by", justify="right")
    for key, value in evaluation.ndcg.items():
        gain = evaluation.gain.get(key)
        better = f"{gain.mean:+.4f}  ({gain.low:+.4f} to {gain.high:+.4f})" if gain is not None else ""
        table.add_row(name.get(key, key), f"{value.mean:.4f}", f"{value.low:.4f} to {value.high:.4f}", better)
    console.print(table)
    recall, quality = evaluation.recall, evaluation.ranking
    console.print(f"Retrieve: Recall@{evaluation.candidates} {recall.mean:.4f} ({recall.low:.4f} to {recall.high:.4f})")
    if quality is not None:
        console.print(
            f"Rank, given these {evaluation.candidates}: AUC {quality.auc:.4f}, log-loss {quality.log_loss:.4f} "
            f"({quality.constant_log_loss:.4f} for a constant), calibration error {quality.calibration_error:.4f}"
        )
