"""The charts of the report. Each takes numbers and returns an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from feast_recsys.evaluation.intervals import Interval
from feast_recsys.evaluation.predictions import Reliability
from feast_recsys.evaluation.report.svg import Scale, circle, colour, frame, line, path, picture, rect, text

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 40, 56


def interval_bars(values: Mapping[str, Interval], description: str) -> str:
    """One bar a contender, with its interval as a whisker."""
    row, left, right = 44, 8, 116
    height = row * len(values) + 8
    top = max((v.high for v in values.values() if v.n), default=1.0)
    x = Scale(0, top or 1.0, left, WIDTH - right)
    parts = []
    for n, (name, value) in enumerate(values.items()):
        y = n * row
        if not value.n:
            continue
        tip = f"{name}: {value.mean:.4f}, 95 % interval {value.low:.4f} to {value.high:.4f}, {value.n} users"
        parts += [
            text(left, y + 14, name, "label strong" if n == 0 else "label"),
            rect(left, y + 20, x(value.mean) - left, 14, f"{colour(n)} fill", tip, 3),
            line(x(value.low), y + 27, x(value.high), y + 27, "whisker"),
            line(x(value.low), y + 23, x(value.low), y + 31, "whisker"),
            line(x(value.high), y + 23, x(value.high), y + 31, "whisker"),
            text(WIDTH - right + 14, y + 32, f"{value.mean:.4f}", "value strong" if n == 0 else "value"),
        ]
    return picture(WIDTH, height, parts, description)


def curves(series: Mapping[str, Sequence[float]], description: str) -> str:
    """Recall@k over k."""
    longest = max(len(values) for values in series.values())
    highest = max(max(values) for values in series.values()) or 1.0
    x, y = Scale(0, longest, LEFT, WIDTH - RIGHT), Scale(0, highest * 1.04, HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y, "k: length of the list", "Recall@k")]
    for n, (name, values) in reversed(list(enumerate(series.items()))):
        points = [(x(0), y(0)), *((x(k + 1), y(value)) for k, value in enumerate(values))]
        tip = f"{name}: Recall@{len(values)} {values[-1]:.4f}"
        parts.append(path(points, f"{colour(n)} stroke{' first' if n == 0 else ''}", tip))
    return picture(WIDTH, HEIGHT, parts, description)


def reliability_plot(points: Reliability, description: str, *, values: bool = False) -> str:
    """Observed against predicted shares, or values; a ranker that can be taken at its word lies on the diagonal."""
    highest = float(max(points.predicted.max(), points.observed.max())) * 1.06 or 1.0
    x, y = Scale(0, highest, LEFT, WIDTH - RIGHT), Scale(0, highest, HEIGHT - BOTTOM, TOP)
    dots = list(zip(points.predicted.tolist(), points.observed.tolist(), points.counts.tolist(), strict=True))
    names = ("expected value", "brought indeed") if values else ("predicted probability", "liked indeed")

    def tip(p: float, o: float, n: int) -> str:
        told = f"expected {p:.3f}, brought {o:.3f}" if values else f"predicted {p:.1%}, liked {o:.1%}"
        return f"{told}, {n} candidates"

    parts = [
        frame(x, y, *names, percent=not values),
        line(x(0), y(0), x(highest), y(highest), "diagonal"),
        path([(x(p), y(o)) for p, o, _ in dots], "c0 stroke"),
        *(circle(x(p), y(o), 5, "c0 fill", tip(p, o, n)) for p, o, n in dots),
    ]
    return picture(WIDTH, HEIGHT, parts, description)


def strips(values: Mapping[str, Sequence[float]], tips: Mapping[str, Sequence[str]], description: str) -> str:
    """One line a contender with a dot for each training, and their mean as a stroke."""
    row, left, right = 44, 8, 116
    every = [v for own in values.values() for v in own]
    span = max(every) - min(every)
    x = Scale(min(every) - 0.05 * span, max(every) + 0.05 * span, left + 6, WIDTH - right)
    parts = []
    for n, (name, own) in enumerate(values.items()):
        y, mean = n * row, sum(own) / len(own)
        parts += [
            text(left, y + 14, name, "label strong" if n == 0 else "label"),
            line(left, y + 27, WIDTH - right, y + 27, "grid"),
            line(x(mean), y + 18, x(mean), y + 36, "whisker"),
            *(circle(x(v), y + 27, 5, f"{colour(n)} dot", tip) for v, tip in zip(own, tips[name], strict=True)),
            text(WIDTH - right + 14, y + 32, f"{mean:.4f}", "value strong" if n == 0 else "value"),
        ]
    return picture(WIDTH, row * len(values) + 8, parts, description)


def groups(rows: Sequence[tuple[str, str, Mapping[str, Interval]]], description: str) -> str:
    """Bars side by side, for each part of the test: (name, size, values by contender)."""
    bar, gap, left, right = 11, 26, 176, 64
    top = max((v.high for _, _, values in rows for v in values.values() if v.n), default=1.0)
    x = Scale(0, top or 1.0, left, WIDTH - right)
    parts, y = [], 4.0
    for name, size, values in rows:
        middle = y + bar * len(values) / 2
        parts += [text(left - 12, middle - 2, name, "label", "end"), text(left - 12, middle + 14, size, "tick", "end")]
        for n, (who, value) in enumerate(values.items()):
            if value.n:
                tip = f"{who}, {name}: {value.mean:.4f} ({value.low:.4f} to {value.high:.4f}), {value.n} users"
                parts.append(rect(left, y + 1, x(value.mean) - left, bar - 2, f"{colour(n)} fill", tip, 2))
                parts.append(line(x(value.low), y + bar / 2, x(value.high), y + bar / 2, "whisker"))
                if n == 0:
                    parts.append(text(x(value.high) + 6, y + 10, f"{value.mean:.3f}", "tick strong"))
            y += bar
        y += gap
    parts.append(line(left, 0, left, y - gap + 4, "axis"))
    return picture(WIDTH, y - gap + 8, parts, description)


def lorenz_curves(series: Mapping[str, Sequence[float]], ginis: Mapping[str, float], description: str) -> str:
    """Which share of all exposure the least shown items have; the further below the diagonal, the less even."""
    x, y = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y, "items, least shown first", "share of what is shown", percent=True)]
    parts.append(line(x(0), y(0), x(1), y(1), "diagonal"))
    for n, (name, values) in reversed(list(enumerate(series.items()))):
        steps = len(values) - 1
        points = [(x(k / steps), y(value)) for k, value in enumerate(values)]
        parts.append(path(points, f"{colour(n)} stroke{' first' if n == 0 else ''}", f"{name}: Gini {ginis[name]:.3f}"))
    return picture(WIDTH, HEIGHT, parts, description)


def scatter(
    positions: npt.NDArray[np.float32], tips: Sequence[str], kinds: Sequence[int], sizes: Sequence[float],
    description: str,
) -> str:  # fmt: skip
    """A map: one dot an item. `kinds` are numbers of colours, -1 for grey."""
    side = WIDTH
    low, high = positions.min(axis=0), positions.max(axis=0)
    scales = [Scale(float(low[d]), float(high[d]), 12, side - 12) for d in (0, 1)]
    dots = []
    # Grey and large dots first, so that they hide none of the others.
    for n in sorted(range(len(positions)), key=lambda n: (kinds[n] >= 0, -sizes[n])):
        x, y = (scale(float(v)) for scale, v in zip(scales, positions[n], strict=True))
        dots.append(circle(x, y, sizes[n], f"{colour(kinds[n]) if kinds[n] >= 0 else 'grey'} dot", tips[n]))
    return picture(side, side, dots, description)


def funnel(steps: Sequence[tuple[str, str, float]], description: str) -> str:
    """What is left after each stage: (name, what it says, share of the first)."""
    row, parts = 64, []
    for n, (name, note, share) in enumerate(steps):
        y = n * row
        width = max((WIDTH - 16) * share, 2)
        parts += [
            text(8, y + 16, name, "label strong"),
            text(WIDTH - 8, y + 16, note, "label", "end"),
            rect(8, y + 24, WIDTH - 16, 20, "track", radius=4),
            rect(8, y + 24, width, 20, f"c{(0, 0, 1)[min(n, 2)]} fill", f"{name}: {note}", 4),
        ]
    return picture(WIDTH, row * len(steps) - 12, parts, description)
