"""Lines over two axes as one inline SVG that grows with the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from latefuse.evaluation.intervals import Floats

WIDTH, HEIGHT, LEFT, BOTTOM, EDGE = 460, 320, 54, 40, 20
MOST = 200
"""Points of a line that are drawn; more can't be seen."""
LOOKS = 6
"""Lines of one chart that look different."""


@dataclass(frozen=True)
class Drawn:
    """One line. look: 0..LOOKS-1, its colour and dashes. x, y: its points; mark: one that is shown by a dot."""

    label: str
    look: int
    x: Floats
    y: Floats
    mark: tuple[float, float] | None = None


def plot(lines: Sequence[Drawn], across: str, up: str, label: str, share: bool = True) -> Markup:
    """The lines over axes with words. share: whether `y` is told in per cent, from 0 to 1; `x` always is."""
    heights = [value for line in lines for value in line.y]
    low, high = (0.0, 1.0) if share else (min([0.0, *heights]), max([0.0, *heights]))
    high = high if high > low else low + 1

    def place(x: float, y: float) -> str:
        return f"{_across(x):.1f},{_up((y - low) / (high - low)):.1f}"

    parts = [_grid(low, high, share), _axes(across, up)]
    if low < 0 < high:
        at = _up(-low / (high - low))
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{at:.1f}" y2="{at:.1f}"/>')
    for line in lines:
        some = np.unique(np.linspace(0, len(line.x) - 1, min(MOST, len(line.x))).round().astype(int))
        points = " ".join(place(line.x[k], line.y[k]) for k in some)
        parts.append(f'<polyline class="l{line.look}" points="{points}"><title>{escape(line.label)}</title></polyline>')
        if line.mark is not None:
            x, y = place(*line.mark).split(",")
            parts.append(f'<circle class="l{line.look}" cx="{x}" cy="{y}" r="5"/>')
    head = f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{''.join(parts)}</svg>")


def _across(share: float) -> float:
    return LEFT + (WIDTH - LEFT - EDGE) * share


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - EDGE) * share


def _grid(low: float, high: float, share: bool) -> str:
    parts = []
    for step in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y, value = _across(step), _up(step), low + step * (high - low)
        told = f"{100 * value:.0f}%" if share else f"{value:,.0f}"
        parts.append(f'<line class="track" x1="{LEFT}" x2="{WIDTH - EDGE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{told}</text>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{100 * step:.0f}%</text>')
    return "".join(parts)


def _axes(across: str, up: str) -> str:
    middle, height = _across(0.5), _up(0.5)
    return (
        f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>'
        f'<text x="12" y="{height}" text-anchor="middle" transform="rotate(-90 12 {height})">{escape(up)}</text>'
    )
