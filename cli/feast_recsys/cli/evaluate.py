"""`feast-recsys evaluate`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from feast_recsys.bundle.errors import CorruptArtifact, InvalidArgument
from feast_recsys.cli.evaluation_tables import show
from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from feast_recsys.bundle.progress import Reporter
    from feast_recsys.evaluation.relevance import Rows
    from feast_recsys.evaluation.report import ItemMap
    from feast_recsys.features.repo import Repo
    from feast_recsys.models.data.training_data import TrainingData
    from feast_recsys.models.training.checkpoint import Checkpoint

MAPPED = 1500  # items on the map: the time that it takes goes with their square


@click.command()
@click.option("-r", "--recommender", metavar="NAME", help="Which recommender.  [default: the only one]")
@click.option(
    "--baselines/--no-baselines",
    default=True,
    show_default=True,
    help="Compare with popularity, item-kNN, EASE, ALS and BPR, chosen on validation.",
)
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Train again with so many seeds in all, the checkpoint's among them: means and deviations.",
)
@click.option("--ablations", is_flag=True, help="Train the ranker's wide and deep parts alone, too.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Of these trainings: auto for a GPU where there is one, cpu, cuda, or cuda:N for one of several.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything that was measured as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with charts, one file.")
@click.pass_obj
def evaluate(
    location: Location,
    recommender: str | None,
    baselines: bool,
    seed: int,
    seeds: int,
    ablations: bool,
    device: str,
    as_json: bool,
    html: Path | None,
) -> None:
    """Measure a trained recommender from all sides.

    Both stages on the test users: every metric with its interval, new users and rare items, how evenly the catalogue is
    shown, whether probabilities can be trusted. Reads the checkpoints that `train` wrote, and the same interactions.

    --seeds and --ablations train as the checkpoints were trained, and keep nothing: --seeds 5 takes the time of four
    trainings.
    """
    import torch

    from feast_recsys.cli.progress import StepProgress
    from feast_recsys.evaluation import ablations as parts
    from feast_recsys.evaluation.assessment import assess, plain
    from feast_recsys.evaluation.over_seeds import over_seeds, train_and_assess
    from feast_recsys.evaluation.report import render
    from feast_recsys.models.data.training_data import DataConfig, load_data
    from feast_recsys.models.load import load_checkpoint
    from feast_recsys.models.training.devices import device_named, gpu_name
    from feast_recsys.models.training.loop import Run

    torch.set_num_threads(1)
    repo = location.open()
    name = choose(repo.settings, recommender)
    settings = repo.settings.recommender(name)
    folder = repo.resolve(repo.settings.checkpoints)
    models = [settings.retrieval.model] + ([settings.ranking.model] if settings.ranking is not None else [])
    checkpoints = [load_checkpoint(folder / model) for model in models]
    if ablations and len(checkpoints) == 1:
        raise InvalidArgument(f"recommender {name} has no ranking model, so there are no parts", field="--ablations")
    where = device_named(device)
    if (gpu := gpu_name(where)) is not None and (seeds > 1 or ablations):
        click.echo(f"PyTorch trains on {gpu}.", err=True)
    with StepProgress() as progress:
        refit = bool(checkpoints[0].signature.metadata.get("training", {}).get("refit"))
        data = load_data(repo, name, DataConfig(refit=refit), progress=progress)
        for checkpoint in checkpoints:
            check_same_data(checkpoint, data)
        retrieval, ranking = checkpoints[0], checkpoints[1] if len(checkpoints) > 1 else None
        found = assess(name, data, retrieval, ranking, baselines=baselines, seed=seed, progress=progress)
        run = Run(device=where, progress=progress)
        summary, forms = None, None
        if seeds > 1:
            first = int(retrieval.signature.metadata["training"]["seed"])
            again = {
                number: train_and_assess(repo, name, data, replace(run, seed=number), baselines=baselines, refit=refit)
                for number in range(first + 1, first + seeds)
            }
            summary = over_seeds({first: found, **again})
        if ablations and ranking is not None:
            forms = parts.ablations(repo, name, data, retrieval, ranking, seed=seed, run=run)
        if html is not None:
            page = render(found, map_items(repo, data, retrieval, progress), summary, forms)
            html.write_text(page, encoding="utf-8")
    if as_json:
        document = found.to_dict()
        if summary is not None:
            document["over_seeds"] = summary.to_dict()
        if forms is not None:
            document["ablations"] = {form: plain(row.to_dict()) for form, row in forms.items()}
        click.echo(json.dumps(document, indent=2))
    else:
        show(found, summary, forms)
    if html is not None:
        click.echo(f"report written to {html}", err=True)


def check_same_data(checkpoint: Checkpoint, data: TrainingData) -> None:
    """Refuses a model that was trained on other interactions: it might have been trained on those of the test.

    Raises:
        CorruptArtifact: it was.
    """
    trained_on = checkpoint.signature.metadata.get("training", {}).get("data")
    if trained_on != data.fingerprint:
        raise CorruptArtifact(
            f"checkpoint {checkpoint.signature.name} was trained on other interactions or features than the repository "
            "has now, so its test may be among what it has learned; train again",
            field=checkpoint.signature.name,
        )


def map_items(repo: Repo, data: TrainingData, retrieval: Checkpoint, progress: Reporter) -> ItemMap | None:
    """The most liked items in the plane, with their titles and what group they are of."""
    import numpy as np
    import pyarrow as pa
    import torch

    from feast_recsys.bundle.signature import Role
    from feast_recsys.evaluation.assessment import likes_in_training
    from feast_recsys.evaluation.item_map import layout
    from feast_recsys.evaluation.ranker import tensors_of
    from feast_recsys.evaluation.report import ItemMap
    from feast_recsys.features.training import point_in_time

    if Role.ITEM_ENCODER not in retrieval.modules:
        return None
    progress.start("draw the map of items")
    likes = likes_in_training(data)
    chosen = np.sort(np.argsort(-likes, kind="stable")[:MAPPED])
    last_day = (len(data.days) - 1) * data.items
    with torch.no_grad():
        inputs = tensors_of(data, retrieval).items(last_day + chosen)
        vectors = retrieval.modules[Role.ITEM_ENCODER].eval()(**inputs).numpy()
    titles = [str(i) for i in data.events.item_ids[chosen].tolist()]
    if data.settings.title is not None:
        moments = pa.array(np.full(len(chosen), data.days[-1]), pa.int64()).cast(pa.timestamp("s", "UTC"))
        ids = pa.array(data.events.item_ids[chosen])
        rows = pa.table({data.item_key.join_key: ids, "event_timestamp": moments})
        known = point_in_time(repo, (data.settings.title,), rows)[data.settings.title].to_list()
        titles = [str(k) if k is not None else t for k, t in zip(known, titles, strict=True)]
    groups = groups_of(data, last_day + chosen)
    positions = layout(vectors, progress=progress)
    progress.done(f"{len(chosen)} items")
    return ItemMap(positions, titles, groups, likes[chosen])


def groups_of(data: TrainingData, rows: Rows) -> list[str]:
    """What the colours of the map say: the text feature of items with 2 to 40 values that the most items have.

    A list counts by its first entry. Empty texts if there is no such feature.
    """
    best = [""] * len(rows)
    for column in data.item_columns.values():
        part = column.take(rows)
        if part.values.dtype.kind not in "OU":
            continue
        firsts = [(value[:1] or [""])[0] if isinstance(value, list) else value for value in part.to_list()]
        names = ["" if first is None else str(first) for first in firsts]
        if 2 <= len(set(names) - {""}) <= 40 and sum(map(bool, names)) > sum(map(bool, best)):
            best = names
    return best
