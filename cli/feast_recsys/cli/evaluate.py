"""`feast-recsys evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from feast_recsys.bundle.errors import CorruptArtifact
from feast_recsys.cli.location import Location, choose

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from feast_recsys.bundle.progress import Reporter
    from feast_recsys.evaluation.assessment import Assessment
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
    help="Compare with popularity, item-kNN, EASE and ALS, chosen on validation.",
)
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print everything that was measured as JSON.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report with charts, one file.")
@click.pass_obj
def evaluate(
    location: Location, recommender: str | None, baselines: bool, seed: int, as_json: bool, html: Path | None
) -> None:
    """Measure a trained recommender from all sides.

    Both stages on the test users: every metric with its interval, new users and rare items, how evenly the catalogue is
    shown, whether probabilities can be trusted. Reads the checkpoints that `train` wrote, and the same interactions.
    """
    import torch

    from feast_recsys.cli.progress import StepProgress
    from feast_recsys.evaluation.assessment import assess
    from feast_recsys.evaluation.report import render
    from feast_recsys.models.data.training_data import DataConfig, load_data
    from feast_recsys.models.load import load_checkpoint

    torch.set_num_threads(1)
    repo = location.open()
    name = choose(repo.settings, recommender)
    settings = repo.settings.recommender(name)
    folder = repo.resolve(repo.settings.checkpoints)
    models = [settings.retrieval.model] + ([settings.ranking.model] if settings.ranking is not None else [])
    checkpoints = [load_checkpoint(folder / model) for model in models]
    with StepProgress() as progress:
        data = load_data(repo, name, DataConfig(), progress=progress)
        for checkpoint in checkpoints:
            check_same_data(checkpoint, data)
        retrieval, ranking = checkpoints[0], checkpoints[1] if len(checkpoints) > 1 else None
        found = assess(name, data, retrieval, ranking, baselines=baselines, seed=seed, progress=progress)
        if html is not None:
            html.write_text(render(found, map_items(repo, data, retrieval, progress)), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show(found)
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
    from feast_recsys.evaluation.protocol import tensors_of
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


def show(found: Assessment, console: Console | None = None) -> None:
    """Prints tables: contenders, stages, parts of the test."""
    from rich.console import Console as Terminal

    console = console or Terminal(highlight=False)
    for table in (_main_table(found), _lists_table(found), *_slice_tables(found)):
        console.print(table)
        console.print()
    console.print(
        f"A user came to like {found.liked:.1f} items; {found.reached:.1f} of them are among the {found.candidates} "
        f"candidates, {found.shown:.1f} among the first shown."
    )
    quality = found.ranker
    if quality is not None:
        console.print(
            f"Rank, given the candidates: AUC {quality.pooled.auc:.4f} ({quality.auc_per_user:.4f} within users), "
            "log-loss "
            f"{quality.pooled.log_loss:.4f} ({quality.pooled.constant_log_loss:.4f} for a constant), calibration error "
            f"{quality.pooled.calibration_error:.4f}; NDCG over what can be reached {quality.ndcg.mean:.4f}, "
            f"{quality.ndcg_retrieve.mean:.4f} in Retrieve's own order"
        )


def _main_table(found: Assessment) -> Table:
    from feast_recsys.evaluation.assessment import SHOWN, label

    cut = min(SHOWN, found.candidates)
    table = _table(
        f"NDCG@{cut} over all {found.items} items, {found.users} test users, 95 % intervals",
        f"NDCG@{cut}", "interval", "ours is better by",
    )  # fmt: skip
    for name, values in found.metrics.items():
        main, gain = values[f"ndcg@{cut}"], found.gains.get(name)
        better = f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain is not None else ""
        table.add_row(label(name), f"{main.mean:.4f}", f"{main.low:.4f} to {main.high:.4f}", better)
    return table


def _lists_table(found: Assessment) -> Table:
    from feast_recsys.evaluation.assessment import SHOWN, label

    cut, k = min(SHOWN, found.candidates), found.candidates
    metrics = list(dict.fromkeys([f"recall@{cut}", f"recall@{k}", f"map@{cut}", f"hit_rate@{cut}"]))
    table = _table("The same lists by other measures", *metrics, f"coverage@{cut}", f"Gini@{cut}")
    for name, values in found.metrics.items():
        exposure = found.exposure[name]
        cells = [f"{values[m].mean:.4f}" for m in metrics]
        table.add_row(label(name), *cells, f"{exposure.coverage:.1%}", f"{exposure.gini:.3f}")
    return table


def _slice_tables(found: Assessment) -> list[Table]:
    names = {"users": "by likes before the question", "items": "counting the liked items of one tier of popularity"}
    tables = []
    for kind, what in names.items():
        parts = [part for part in found.slices if part.kind == kind]
        if not parts:
            continue
        contenders = list(parts[0].values)
        table = _table(f"{parts[0].metric}, {what}", kind, *contenders)
        for part in parts:
            values = [part.values[name] for name in contenders]
            table.add_row(part.name, str(part.size), *(f"{v.mean:.4f}" if v.n else "" for v in values))
        tables.append(table)
    return tables


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table as Grid

    table = Grid(box=None, header_style="dim", pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        # In 80 columns a name and its cut don't fit side by side.
        table.add_column(column.replace("@", "\n@"), justify="right", overflow="fold", vertical="bottom")
    return table
