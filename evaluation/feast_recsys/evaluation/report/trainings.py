"""What took further trainings: several seeds, and the ranker's parts alone."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from feast_recsys.evaluation.ablations import Ablation
from feast_recsys.evaluation.assessment import label
from feast_recsys.evaluation.over_seeds import SeedSummary
from feast_recsys.evaluation.ranker import ValueQuality
from feast_recsys.evaluation.report import charts
from feast_recsys.evaluation.report.parts import figure, full_rows, nice, told


def seed_figure(found: SeedSummary, metric: str) -> str:
    """A dot for each training.

    Args:
        found: What was measured.
        metric: Which of its metrics to draw.
    """
    own = {name: metrics[metric] for name, metrics in found.metrics.items()}
    values = {label(name): figures.values for name, figures in own.items()}
    tips = {
        label(name): [f"seed {seed}: {value:.4f}" for seed, value in zip(found.seeds, figures.values, strict=True)]
        for name, figures in own.items()
    }
    first = next(iter(own))
    rivals = "; ".join(
        f"{label(name)} {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        for name, gain in full_rows(found.gains).items()
    )
    caption = (
        f"{nice(metric)} of {len(found.seeds)} trainings that differ in their seed only: a dot each, the stroke is "
        f"their mean. {label(first)}: {own[first].mean:.4f} with a standard deviation of {own[first].deviation:.4f}."
    )
    if rivals:
        caption += f" What it gains, with 95 % intervals over the trainings: {rivals}."
    return figure("How much is chance in the training", caption, charts.strips(values, tips, f"{metric} by training"))


def ablation_table(forms: Mapping[str, Ablation]) -> str:
    """The ranker beside its wide and its deep part."""
    values = any(isinstance(form.quality, ValueQuality) for form in forms.values())
    names = ("NDCG@10", "less than both parts", "AUC", "log-loss", "calibration error", "weights that are not 0")
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for n, (name, form) in enumerate(forms.items()):
        quality = form.quality
        loss = told(form.loss, "+.4f") if form.loss is not None else ""
        cells = [told(form.ndcg, ".4f"), loss, f"{quality.auc:.4f}", f"{quality.log_loss:.4f}"]
        cells += [f"{quality.calibration_error:.4f}", f"{form.weights:,}"]
        kind = ' class="ours"' if n == 0 else ""
        rows.append(f"<tr{kind}><td>{escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    weighted = " Log-loss counts each like by its value." if values else ""
    return (
        '<section class="wide"><h2>Wide, deep, and both</h2><p>The ranker trained without its tower, and without its '
        f"crosses, on the same candidates. Judged on the test users, who had no part in any training.{weighted}</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )
