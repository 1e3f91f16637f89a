"""`feast-recsys train`."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from feast_recsys.bundle.errors import InvalidArgument
from feast_recsys.bundle.progress import SILENT
from feast_recsys.cli.evaluation_tables import told
from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from feast_recsys.evaluation.protocol import Evaluation
    from feast_recsys.features.repo import Repo
    from feast_recsys.models.data.training_data import DataConfig
    from feast_recsys.models.training.checkpoint import Checkpoint
    from feast_recsys.models.training.devices import Precision
    from feast_recsys.models.training.loop import Run


@click.command()
@click.option("-r", "--recommender", metavar="NAME", help="Which recommender.  [default: the only one]")
@click.option("--seed", default=0, show_default=True, help="Same seed, same data, same CPU: same weights.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Of PyTorch. One is best for small models, and gives the same weights whatever else the machine does.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto for a GPU where there is one, cpu, cuda, or cuda:N for one of several.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Of the forward pass; float16 needs a GPU.",
)
@click.option(
    "--warm-start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="CHECKPOINT",
    help="Start the ranking model from the weights of an older one, a folder that an earlier `train` wrote.",
)
@click.option("--resume", is_flag=True, help="Go on where a training of the same data and settings was cut off.")
@click.option("--tensorboard", is_flag=True, help="Write curves into .training of the checkpoints folder.")
@click.option(
    "--joined",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep joined features in this folder instead of memory; a join that was cut off goes on there.",
)
@click.option(
    "--refit",
    is_flag=True,
    help="Once validation has chosen, train again on training and validation together. Takes twice as long.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.pass_obj
def train(
    location: Location,
    recommender: str | None,
    seed: int,
    threads: int,
    device: str,
    precision: Precision,
    warm_start: Path | None,
    resume: bool,
    tensorboard: bool,
    joined: Path | None,
    refit: bool,
    as_json: bool,
) -> None:
    """Train a recommender's models and measure them.

    Training sets are joined as of each interaction, so that no feature knows the future. A user's last interactions
    are the test, those before them the validation that decides on early stopping. Checkpoints and metrics go into the
    settings' checkpoints folder, for `feast-recsys export`; `feast-recsys evaluate` measures them from all sides.

    Trains on a GPU where PyTorch sees one, and says so; a GPU sums up in no fixed order, so that the same seed gives
    weights that are nearly the same. --device cpu gives the very same ones.

    --refit gives the better models: a user's latest interactions tell the most, and without it they only measure. The
    test, which is printed, is never learned from.

    --warm-start takes over what an older ranking model knows, also where keys or columns have come or gone since; it
    may be the folder that this training replaces.

    After each epoch the state is kept, so that --resume loses little. Several processes train the two-tower together,
    each with a part of every batch:

    \b
    torchrun --nproc-per-node 2 --no-python feast-recsys train
    """
    import torch

    from feast_recsys.cli.progress import StepProgress
    from feast_recsys.models.data.training_data import DataConfig
    from feast_recsys.models.training.devices import gpu_name
    from feast_recsys.models.training.distributed import torchrun_world
    from feast_recsys.models.training.loop import Run

    torch.set_num_threads(threads)
    repo = location.open()
    name = choose(repo.settings, recommender)
    with torchrun_world(device) as world, StepProgress() if world.is_first else nullcontext(SILENT) as progress:
        if world.is_first and (gpu := gpu_name(world.device)) is not None:
            click.echo(f"PyTorch trains on {gpu}.", err=True)
        run = Run(
            seed=seed,
            device=world.device,
            precision=precision,
            folder=repo.resolve(repo.settings.checkpoints) / ".training",
            resume=resume,
            scalars=tensorboard,
            progress=progress,
            world=world,
        )
        evaluation = _train(repo, name, run, DataConfig(folder=joined, refit=refit), warm_start)
    if evaluation is None:
        return
    if as_json:
        click.echo(json.dumps(evaluation.to_dict(), indent=2))
    else:
        show(evaluation)


def _train(repo: Repo, name: str, run: Run, config: DataConfig, warm_start: Path | None) -> Evaluation | None:
    """Trains, measures and keeps the models; None in all processes but the first."""
    from feast_recsys.evaluation.protocol import evaluate_recommender
    from feast_recsys.features.settings import SECTION
    from feast_recsys.models.data.training_data import load_data
    from feast_recsys.models.ranking.sources import check_past, untold
    from feast_recsys.models.refit import refit_ranker, refit_retrieval
    from feast_recsys.models.train import train_family, train_ranker
    from feast_recsys.models.training.checkpoint import save_checkpoint
    from feast_recsys.models.training.distributed import World
    from feast_recsys.models.training.loop import Run
    from feast_recsys.models.training.resume import clear_state

    older = older_ranker(repo, name, warm_start) if warm_start is not None else None
    if not run.world.is_first:
        run.world.of_first(0.0)  # the first process joins, the others find what it has written
    data = load_data(repo, name, config, progress=run.progress)
    if run.world.is_first:
        run.world.of_first(0.0)
    settings = data.settings
    if settings.ranking is not None:
        # Retrieval would be trained for minutes before the ranker says so.
        check_past(settings, f"{SECTION}.recommenders.{name}", tuple(data.user_columns), tuple(data.item_columns))
        for source, why in untold(settings).items() if run.world.is_first else ():
            click.echo(f"The ranker does not learn from source {source}: {why}.", err=True)
    places = [run.within(settings.retrieval.model)]
    retrieval = train_family(repo, name, data=data, run=places[0])
    if not run.world.is_first:
        return None
    ranking = None
    if settings.ranking is not None:
        places.append(replace(run.within(settings.ranking.model), world=World(device=run.world.device)))
        ranking = train_ranker(repo, name, retrieval, data=data, run=places[1], warm_start=older)
    if config.refit:
        # Like the folds of users, these trainings keep no state.
        alone = Run(run.seed, run.device, run.precision, progress=run.progress)
        retrieval = refit_retrieval(retrieval, data, alone)
        if ranking is not None:
            ranking = refit_ranker(ranking, retrieval, data, alone, warm_start=older)
    folder = repo.resolve(repo.settings.checkpoints)
    trained = [checkpoint for checkpoint in (retrieval, ranking) if checkpoint is not None]
    for checkpoint in trained:
        save_checkpoint(checkpoint, folder / checkpoint.signature.name)
    evaluation = evaluate_recommender(data, retrieval, ranking, seed=run.seed, progress=run.progress)
    for checkpoint in trained:
        metrics = {**checkpoint.metrics, "evaluation": evaluation.to_dict()}
        save_checkpoint(replace(checkpoint, metrics=metrics), folder / checkpoint.signature.name)
    for place in places:
        assert place.folder is not None
        clear_state(place.folder)
    return evaluation


def older_ranker(repo: Repo, name: str, folder: Path) -> Checkpoint:
    """The checkpoint to start a recommender's ranking model from.

    Raises:
        InvalidArgument: the recommender has no ranking model.
        InvalidSettings: the checkpoint is of another family.
        CorruptArtifact, InvalidSignature: it can't be read.
    """
    from feast_recsys.models.load import load_checkpoint
    from feast_recsys.models.ranking.warm_start import require_ranker

    if repo.settings.recommender(name).ranking is None:
        raise InvalidArgument(
            f"recommender {name} has no ranking model, which is what starts from an older one", field="--warm-start"
        )
    older = load_checkpoint(folder)
    require_ranker(older)
    return older


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
        console.print(f"Rank, given these {evaluation.candidates}: AUC {quality.auc:.4f}, {told(quality)}")
