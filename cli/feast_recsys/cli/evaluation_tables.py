"""What `feast-recsys evaluate` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from feast_recsys.evaluation.ablations import Ablation
    from feast_recsys.evaluation.assessment import Assessment
    from feast_recsys.evaluation.over_seeds import OverSeeds, SeedSummary
    from feast_recsys.evaluation.ranker import Quality


def show(
    found: Assessment,
    seeds: SeedSummary | None = None,
    forms: Mapping[str, Ablation] | None = None,
    console: Console | None = None,
) -> None:
    """Prints tables: contenders, stages, parts of the test; trainings with other seeds and the ranker's parts, if any.

    Args:
        found: What was measured.
        seeds: The same over several trainings.
        forms: The ranker beside its parts.
        console: Where to; the terminal if None.
    """
    from rich.console import Console as Terminal

    console = console or Terminal(highlight=False)
    tables = [_main_table(found), _lists_table(found), *_slice_tables(found)]
    if seeds is not None:
        tables.append(_seed_table(found, seeds))
    if forms:
        tables.append(_form_table(forms))
    for table in tables:
        console.print(table)
        console.print()
    console.print(
        f"A user came to like {found.liked:.1f} items; {found.reached:.1f} of them are among the {found.candidates} "
        f"candidates, {found.shown:.1f} among the first shown."
    )
    quality = found.ranker
    if quality is None:
        return
    if seeds is not None:
        names = {"auc": "AUC", "log_loss": "log-loss", "calibration_error": "calibration error"}
        spreads = [f"{word} {_spread(seeds.ranker[name])}" for name, word in names.items() if name in seeds.ranker]
        console.print(f"Rank, over these trainings: {', '.join(spreads)}")
    console.print(
        f"Rank, given the candidates: AUC {quality.pooled.auc:.4f} ({quality.auc_per_user:.4f} within users), "
        f"{told(quality.pooled)}; NDCG over what can be reached {quality.ndcg.mean:.4f}, "
        f"{quality.ndcg_retrieve.mean:.4f} in Retrieve's own order"
    )
    if quality.brought is not None and quality.brought_retrieve is not None:
        brought, other = quality.brought, quality.brought_retrieve
        console.print(
            f"The first shown bring a user {brought.mean:.3f} of the label together ({brought.low:.3f} to "
            f"{brought.high:.3f}), {other.mean:.3f} ({other.low:.3f} to {other.high:.3f}) in Retrieve's own order"
        )


def told(quality: Quality) -> str:
    """Log-loss and calibration in words: of probabilities, or of expected values where likes weigh their label."""
    from feast_recsys.evaluation.ranker import ValueQuality

    loss = f"log-loss {quality.log_loss:.4f} ({quality.constant_log_loss:.4f} for a constant)"
    if not isinstance(quality, ValueQuality):
        return f"{loss}, calibration error {quality.calibration_error:.4f}"
    return (
        f"{loss}, weighted by value; a candidate brought {quality.value:.4f} of the label, {quality.expected:.4f} were "
        f"expected, calibration error {quality.calibration_error:.4f}"
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
    table = _table("The same lists by other measures", *metrics, f"coverage@{cut}", f"Gini@{cut}", stacked=True)
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


def _seed_table(found: Assessment, seeds: SeedSummary) -> Table:
    from feast_recsys.evaluation.assessment import SHOWN, label

    cut, k = min(SHOWN, found.candidates), found.candidates
    table = _table(
        f"Over {len(seeds.seeds)} trainings, seeds {', '.join(map(str, seeds.seeds))}, 95 % intervals",
        f"NDCG@{cut}", "deviation", f"Recall@{k}", "ours is better by", stacked=True,
    )  # fmt: skip
    for name, values in seeds.metrics.items():
        main, gain = values[f"ndcg@{cut}"], seeds.gains.get(name)
        better = f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain is not None else ""
        table.add_row(
            label(name), f"{main.mean:.4f}", f"{main.deviation:.4f}", f"{values[f'recall@{k}'].mean:.4f}", better
        )
    return table


def _form_table(forms: Mapping[str, Ablation]) -> Table:
    table = _table(
        "The ranker's parts alone, trained on the same candidates, on the test users",
        "NDCG@10", "less than both", "AUC", "log-loss", "weights",
    )  # fmt: skip
    for name, form in forms.items():
        loss, quality = form.loss, form.quality
        less = f"{loss.mean:+.4f} ({loss.low:+.4f} to {loss.high:+.4f})" if loss is not None else ""
        figures = (f"{quality.auc:.4f}", f"{quality.log_loss:.4f}", f"{form.weights:,}")
        table.add_row(name, f"{form.ndcg.mean:.4f}", less, *figures)
    return table


def _spread(figure: OverSeeds) -> str:
    return f"{figure.mean:.4f} ± {figure.deviation:.4f}"


def _table(title: str, *columns: str, stacked: bool = False) -> Table:
    """An empty table; `stacked` puts names over their cuts, where they don't fit into 80 columns side by side."""
    from rich.table import Table as Grid

    table = Grid(box=None, header_style="dim", pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        heading = column.replace("@", "\n@") if stacked else column
        table.add_column(heading, justify="right", overflow="fold", vertical="bottom")
    return table
