"""The page: headline, table, charts, each with a caption in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from feast_recsys.evaluation.ablations import Ablation
from feast_recsys.evaluation.assessment import Assessment, label
from feast_recsys.evaluation.over_seeds import SeedSummary
from feast_recsys.evaluation.ranker import ValueQuality
from feast_recsys.evaluation.report import charts
from feast_recsys.evaluation.report.parts import figure, full_rows, legend_of, main_metric, nice, told
from feast_recsys.evaluation.report.style import CSS
from feast_recsys.evaluation.report.trainings import ablation_table, seed_figure


@dataclass(frozen=True)
class ItemMap:
    """Items in the plane.

    Attributes:
        positions: [m, 2] float32, finite.
        titles: [m] what each item is called.
        groups: [m] what the colours say, "" for nothing.
        likes: [m] int64, how popular each item is.
    """

    positions: npt.NDArray[np.float32]
    titles: Sequence[str]
    groups: Sequence[str]
    likes: npt.NDArray[np.int64]


def render(
    found: Assessment,
    items: ItemMap | None = None,
    seeds: SeedSummary | None = None,
    forms: Mapping[str, Ablation] | None = None,
) -> str:
    """The report as one HTML document.

    Args:
        found: What was measured.
        items: The map of items; left out if None.
        seeds: The same over several trainings; left out if None.
        forms: The ranker beside its parts; left out if None.
    """
    title = f"{found.recommender}: how good are its recommendations?"
    body = [
        _head(found),
        _table(found),
        ablation_table(forms) if forms else "",
        '<div class="grid">',
        _contenders(found),
        _funnel(found),
        _curves(found),
    ]
    body += [_reliability(found), _slices(found, "users"), _slices(found, "items"), _lorenz(found)]
    body += [seed_figure(seeds, main_metric(found)) if seeds is not None else ""]
    body += [_map(items) if items is not None and len(items.titles) else "", "</div>", _foot(found)]
    text = "".join(body).replace(" % ", "&nbsp;% ")  # else a line may begin with the sign
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>{text}</main></body></html>\n"
    )


def headline(found: Assessment) -> str:
    """What the evaluation says, in one sentence; "better" only where the interval of the difference leaves out 0."""
    rivals = {label(name): gain for name, gain in full_rows(found.gains).items()}
    better = [name for name, gain in rivals.items() if gain.low > 0]
    worse = [name for name, gain in rivals.items() if gain.high < 0]
    even = [name for name in rivals if name not in better and name not in worse]
    said = []
    if better:
        said.append(f"better than {_and(better)}")
    if even:
        said.append(f"not told apart from {_and(even)}")
    if worse:
        said.append(f"behind {_and(worse)}")
    return f"{label(found.ours)}: {'; '.join(said)}." if said else f"{label(found.ours)}, measured on its own."


def _head(found: Assessment) -> str:
    main = found.metrics[found.ours]
    cut, k = main_metric(found), found.candidates
    tiles = [
        (f"{main[cut].mean:.4f}", f"{nice(cut)} of {label(found.ours)}"),
        (f"{main[f'recall@{k}'].mean:.1%}", f"of the liked items are among the {k} candidates"),
        (f"{found.exposure[found.ours].coverage:.0%}", "of the catalogue is shown to somebody"),
    ]
    if found.ranker is not None:
        tiles.append((f"{found.ranker.pooled.auc:.3f}", "AUC of the ranker among the candidates"))
        what = "what it expects" if isinstance(found.ranker.pooled, ValueQuality) else "its probabilities"
        tiles.append((f"{found.ranker.pooled.calibration_error:.3f}", f"calibration error of {what}"))
    shown = "".join(f'<div class="tile"><b>{a}</b><span>{escape(b)}</span></div>' for a, b in tiles)
    lead = (
        f"{found.users:,} users asked for recommendations out of all {found.items:,} items, just before the last "
        "part of "
        "their history. A hit is an item that they had not met before and then liked. Intervals are 95 % bootstrap "
        "intervals over users."
    )
    return (
        f'<header><p class="kind">Recommender {escape(found.recommender)}</p><h1>{escape(headline(found))}</h1>'
        f'<p class="lead">{escape(lead)}</p></header><div class="tiles">{shown}</div>'
    )


def _table(found: Assessment) -> str:
    cuts = sorted({int(m.split("@")[1]) for m in found.metrics[found.ours]})
    cut, wide = int(main_metric(found).split("@")[1]), min(cuts, key=lambda c: abs(c - 20))
    metrics = dict.fromkeys([f"ndcg@{cut}", f"recall@{cut}", f"map@{cut}", f"hit_rate@{cut}", f"recall@{wide}"])
    head = "".join(f"<th>{escape(nice(m))}</th>" for m in metrics)
    rows = []
    for n, (name, values) in enumerate(found.metrics.items()):
        cells = "".join(f"<td>{told(values[m], '.4f')}</td>" for m in metrics)
        gain = found.gains.get(name)
        gained = told(gain, "+.4f") if gain is not None else ""
        kind = ' class="ours"' if n == 0 else ""
        rows.append(f"<tr{kind}><td>{escape(label(name))}</td>{cells}<td>{gained}</td></tr>")
    return (
        '<section class="wide"><h2>The table</h2><p>Every row ranks for the same users. The last column is what ours '
        f"gains over the row in {nice(main_metric(found))}, user by user; below 0 the row is better.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}<th>ours gains</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _contenders(found: Assessment) -> str:
    cut = main_metric(found)
    values = {label(name): metrics[cut] for name, metrics in found.metrics.items()}
    caption = (
        f"{nice(cut)} says how high up the liked items stand among the first {cut.split('@')[1]}: 1 is perfect. The "
        "thin "
        "line is the interval. Two rows whose lines overlap a lot are not told apart by this test."
    )
    return figure("Who makes the best list", caption, charts.interval_bars(values, f"{cut} by contender"))


def _funnel(found: Assessment) -> str:
    liked, reached, shown = found.liked, found.reached, found.shown
    cut = main_metric(found).split("@")[1]
    steps = [
        (f"All {found.items:,} items", f"{liked:.1f} liked", 1.0),
        (f"{found.candidates} candidates", f"{reached:.1f} of them found", reached / liked if liked else 0),
        (f"{cut} shown", f"{shown:.1f} of them shown", shown / liked if liked else 0),
    ]
    caption = (
        "The items that a user came to like, on average, and how many are left after each stage. What retrieval misses "
        "no ranker can bring back."
    )
    if found.ranker is not None:
        first, second = found.ranker.ndcg_retrieve, found.ranker.ndcg
        caption += (
            f" Given the candidates, ranking lifts {nice(main_metric(found))} over what can be reached from "
            f"{first.mean:.3f} to "
            f"{second.mean:.3f}."
        )
        if found.ranker.brought is not None and found.ranker.brought_retrieve is not None:
            caption += (
                f" The first {cut} bring a user {found.ranker.brought.mean:.2f} of the label together, "
                f"{found.ranker.brought_retrieve.mean:.2f} in Retrieve's own order."
            )
    return figure("Stage by stage", caption, charts.funnel(steps, "liked items left after each stage"))


def _curves(found: Assessment) -> str:
    caption = (
        "The share of the liked items that are among the first k. A steep start is good for short lists; the right "
        "end is "
        "the ceiling of a second stage."
    )
    series = {label(name): values for name, values in found.curves.items()}
    return figure(
        "Recall over the length of the list", caption, charts.curves(series, "recall at k"), legend_of(found.metrics)
    )


def _reliability(found: Assessment) -> str:
    if found.ranker is None:
        return ""
    quality = found.ranker.pooled
    if isinstance(quality, ValueQuality):
        caption = (
            "Candidates in fifteen groups of equal size, by the value that the ranker expected of them: the odds of "
            "its probability. On the dashed line they brought what was expected. On average it expected "
            f"{quality.expected:.3f} and {quality.value:.3f} came, counting 0 for what was not liked. Mean distance "
            f"from the line: {quality.calibration_error:.4f}."
        )
        chart = charts.reliability_plot(found.ranker.points, "expected against brought values", values=True)
        return figure("Can its values be trusted?", caption, chart)
    caption = (
        "Candidates in fifteen groups of equal size, by the probability that the ranker gave them. On the dashed line "
        "a predicted 20 % comes true in 20 % of the cases. Calibration error, the mean distance from it: "
        f"{quality.calibration_error:.4f}."
    )
    chart = charts.reliability_plot(found.ranker.points, "predicted against observed shares")
    return figure("Can its probabilities be trusted?", caption, chart)


def _slices(found: Assessment, kind: str) -> str:
    parts = [part for part in found.slices if part.kind == kind]
    if not parts:
        return ""
    noun = "users" if kind == "users" else "liked items"
    rows = [(p.name, f"{p.size:,} {noun}", {label(n): v for n, v in p.values.items()}) for p in parts]
    if kind == "users":
        name, caption = "New users and old friends", "by how many likes a user had before asking"
    else:
        name, caption = "Hits and rarities", "counting only the liked items of one tier of popularity"
    caption = f"{nice(parts[0].metric)} {caption}. Means over everybody are mostly about the larger groups."
    return figure(name, caption, charts.groups(rows, f"{parts[0].metric} by part"), legend_of(parts[0].values))


def _lorenz(found: Assessment) -> str:
    series = {label(n): e.lorenz for n, e in found.exposure.items() if np.isfinite(e.gini)}
    ginis = {label(n): e.gini for n, e in found.exposure.items()}
    if not series:
        return ""
    told = "; ".join(
        f"{label(n)} shows {e.coverage:.0%} of the items (Gini {e.gini:.2f})"
        for n, e in full_rows(found.exposure).items()
        if np.isfinite(e.gini)
    )
    caption = (
        "How evenly the lists show the catalogue. On the dashed line every item is shown equally often (Gini 0); a "
        "curve "
        f"in the corner shows a few items to everybody (Gini near 1). {told}."
    )
    chart = charts.lorenz_curves(series, ginis, "Lorenz curves of exposure")
    return figure("Who gets seen", caption, chart, legend_of(found.metrics))


def _map(items: ItemMap) -> str:
    names, counts = np.unique([g for g in items.groups if g], return_counts=True)
    order = names[np.argsort(-counts, kind="stable")][:8].tolist()
    kinds = [order.index(g) if g in order else -1 for g in items.groups]
    top = max(int(items.likes.max(initial=1)), 1)
    sizes = [2.5 + 5 * float(np.sqrt(n / top)) for n in items.likes.tolist()]
    tips = [
        f"{title}{f' ({group})' if group else ''}, {n} likes"
        for title, group, n in zip(items.titles, items.groups, items.likes.tolist(), strict=True)
    ]
    caption = (
        f"The {len(items.titles):,} most liked items as the retrieval model sees them: near on the map is alike to the "
        "model (t-SNE of the directions of the item vectors; only nearness means something). Large dots are popular. "
        "Touch a "
        "dot for its name."
    )
    chart = charts.scatter(items.positions, tips, kinds, sizes, "map of the items")
    legend = [(name, f"c{n}") for n, name in enumerate(order)]
    if order and -1 in kinds:
        legend.append(("other", "grey"))
    return figure("A map of the catalogue", caption, chart, legend, "map")


def _foot(found: Assessment) -> str:
    lines = [
        "Recall@k is the share of a user's liked items among the first k; NDCG@k weighs a hit at rank r by "
        "1 / log2(r + 1) and divides by the best that could be had; MAP@k averages the precision at each hit, "
        "divided by "
        "min(k, liked items); HR@k is the share of users with a hit. All rank the whole catalogue without what the "
        "user had met; equal scores go by id.",
    ]
    if "rank_all" in found.metrics:
        lines.append(
            "'Rank over all items' skips the filtering by retrieval: its distance from Retrieve + Rank is what the "
            "first stage costs."
        )
    if "popular_rank" in found.metrics:
        lines.append(
            "'popular + Rank' ranks the most popular items instead of retrieved ones: its distance from Retrieve + "
            "Rank is what retrieval is worth."
        )
    return f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in lines)}</footer>"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
