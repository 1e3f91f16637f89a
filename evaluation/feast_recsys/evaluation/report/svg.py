"""Small pieces of SVG. Text is escaped here and nowhere else; colours are classes, so that CSS can turn them dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

COLOURS = 9  # classes c0 to c8: as many as there are contenders


@dataclass(frozen=True)
class Scale:
    """A linear way from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        span = self.high - self.low
        return self.start + (value - self.low) / span * (self.end - self.start) if span else self.start

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the scale: multiples of 1, 2 or 5 times a power of ten."""
        span = self.high - self.low
        if not span > 0:
            return [self.low]
        power = 10.0 ** np.floor(np.log10(span / about))
        step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - about))
        first, last = int(np.ceil(self.low / step - 1e-9)), int(np.floor(self.high / step + 1e-9))
        return [float(n * step) for n in range(first, last + 1)]


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rect(x: float, y: float, width: float, height: float, kind: str, tip: str = "", radius: float = 2) -> str:
    """A box, with a tooltip if there is one."""
    shape = f'x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" rx="{radius:g}" class="{kind}"'
    return f"<rect {shape}>{_tip(tip)}</rect>"


def circle(x: float, y: float, radius: float, kind: str, tip: str = "") -> str:
    """A dot, with a tooltip if there is one."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="{kind}">{_tip(tip)}</circle>'


def path(points: Iterable[tuple[float, float]], kind: str, tip: str = "") -> str:
    """A line through points."""
    steps = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}" class="{kind}">{_tip(tip)}</path>'


def frame(x: Scale, y: Scale, name_x: str, name_y: str, *, percent: bool = False) -> str:
    """Axes of a plot: a thin grid, ticks and names."""
    parts = []
    for value in y.ticks():
        parts += [
            line(x.start, y(value), x.end, y(value), "grid"),
            _tick(x.start - 8, y(value) + 4, value, "end", percent),
        ]
    parts += [_tick(x(value), y.start + 18, value, "middle", percent) for value in x.ticks()]
    parts.append(line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(text((x.start + x.end) / 2, y.start + 38, name_x, "name", "middle"))
    parts.append(text(x.start - 8, y.end - 12, name_y, "name"))
    return "".join(parts)


def picture(width: float, height: float, parts: Sequence[str], description: str) -> str:
    """The whole drawing; `description` is for those who can't see it."""
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(description)}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def colour(number: int) -> str:
    """The class of a series."""
    return f"c{number % COLOURS}"


def _tick(x: float, y: float, value: float, anchor: str, percent: bool) -> str:
    return text(x, y, f"{value:.0%}" if percent else f"{value:g}", "tick", anchor)


def _tip(tip: str) -> str:
    return f"<title>{escape(tip)}</title>" if tip else ""
