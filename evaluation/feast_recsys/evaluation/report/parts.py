"""Pieces that the sections of the page share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeVar

from feast_recsys.evaluation.assessment import EXTRA, Assessment, label
from feast_recsys.evaluation.intervals import Interval
from feast_recsys.evaluation.report.svg import COLOURS

T = TypeVar("T")


def figure(name: str, caption: str, chart: str, legend: Sequence[tuple[str, str]] = (), kind: str = "") -> str:
    """A chart with its name, a caption in plain words, and a legend of (text, class of the colour)."""
    keys = "".join(f'<li style="--k: var(--{colour})">{escape(text)}</li>' for text, colour in legend)
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    head = f"<h2>{escape(name)}</h2><figcaption>{escape(caption)}</figcaption>"
    return f'<figure class="{kind}">{head}{listed}{chart}</figure>'


def legend_of(values: Mapping[str, object]) -> list[tuple[str, str]]:
    """The legend of a chart with one colour a contender."""
    return [(label(name), f"c{n % COLOURS}") for n, name in enumerate(values)]


def told(value: Interval, form: str) -> str:
    """A mean with its interval, as a cell of a table."""
    return f"{value.mean:{form}}<small>{value.low:{form}} to {value.high:{form}}</small>"


def main_metric(found: Assessment) -> str:
    """NDCG at the length of list that a person sees."""
    cuts = [int(m.split("@")[1]) for m in found.metrics[found.ours]]
    return f"ndcg@{min(10, max(cuts))}"


def nice(metric: str) -> str:
    """A metric's name as people write it."""
    name, cut = metric.split("@")
    names = {"ndcg": "NDCG", "recall": "Recall", "map": "MAP", "hit_rate": "HR", "recall_min": "Recall (min)"}
    return f"{names[name]}@{cut}"


def full_rows(values: Mapping[str, T]) -> dict[str, T]:
    """Without the rows that only tell what the stages cost. Those come last, so that colours stay the same."""
    return {name: value for name, value in values.items() if name not in EXTRA}
