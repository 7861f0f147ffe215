"""Small inline SVGs. Positions are in per cent of the width: they stretch with the page, strokes and text do not."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from markupsafe import Markup, escape

from latefuse.evaluation.intervals import Estimate

HEIGHT = 22


class Scale:
    """Values to per cent of the width; the ends of the axis stay a little inside."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high if high > low else low + 1

    def __call__(self, value: float) -> float:
        """Per cent from the left, kept on the chart."""
        share = (value - self.low) / (self.high - self.low)
        return round(1 + 98 * min(max(share, 0.0), 1.0), 2)


def scale(estimates: Sequence[Estimate], share: bool, extra: Sequence[float] = ()) -> Scale:
    """0 to 1 for shares; for other numbers from the least to the greatest value, zero always on it."""
    if share:
        return Scale(0.0, 1.0)
    found = [v for e in estimates for v in (e.value, e.low, e.high) if not isnan(v)] + [
        v for v in extra if not isnan(v)
    ]
    return Scale(min([0.0, *found]), max([0.0, *found]) or 1.0)


def bar(found: Estimate, at: Scale, group: str, oracle: float | None, label: str) -> Markup:
    """A bar from zero with its interval, and the oracle as a tick."""
    zero, end = at(0.0), at(found.value)
    parts = [f'<line class="axis" x1="{zero}%" x2="{zero}%" y1="0" y2="{HEIGHT}"/>']
    parts.append(f'<line class="track" x1="{at(at.low)}%" x2="{at(at.high)}%" y1="11" y2="11"/>')
    if not isnan(found.value):
        left, width = min(zero, end), max(abs(end - zero), 0.4)
        parts.append(f'<rect class="bar {group}" x="{left}%" y="5" width="{width:.2f}%" height="12" rx="2"/>')
    if found.has_interval:
        parts.append(whisker(found, at))
    if oracle is not None and not isnan(oracle):
        parts.append(f'<line class="oracle" x1="{at(oracle)}%" x2="{at(oracle)}%" y1="1" y2="{HEIGHT - 1}"/>')
    return svg(parts, label)


def whisker(found: Estimate, at: Scale, y: int = 11) -> str:
    """The interval as a line with ends."""
    low, high = at(found.low), at(found.high)
    ends = "".join(f'<line x1="{x}%" x2="{x}%" y1="{y - 4}" y2="{y + 4}"/>' for x in (low, high))
    return f'<g class="whisker"><line x1="{low}%" x2="{high}%" y1="{y}" y2="{y}"/>{ends}</g>'


def drop(full: Estimate, left: Estimate, at: Scale, label: str) -> Markup:
    """What is left (hollow) and what was there (solid), joined: the length is what the modality is worth."""
    a, b = at(left.value), at(full.value)
    parts = [
        f'<line class="track" x1="{at(at.low)}%" x2="{at(at.high)}%" y1="11" y2="11"/>',
        f'<line class="worth" x1="{a}%" x2="{b}%" y1="11" y2="11"/>',
    ]
    parts += [whisker(one, at) for one in (left, full) if one.has_interval]
    parts.append(f'<circle class="left" cx="{a}%" cy="11" r="5"/><circle class="full" cx="{b}%" cy="11" r="5"/>')
    return svg(parts, label)


def weights(values: Sequence[float], groups: Sequence[str], label: str) -> Markup:
    """Shares of a whole as one stacked bar."""
    total, x, parts = sum(values) or 1.0, 0.0, []
    for value, group in zip(values, groups, strict=True):
        width = 100 * value / total
        parts.append(
            f'<rect class="{group}" x="{x:.2f}%" y="4" width="{max(width - 0.5, 0):.2f}%" height="14" rx="2"/>'
        )
        x += width
    return svg(parts, label)


def svg(parts: Sequence[str], label: str) -> Markup:
    """The parts in a frame as wide as its place; `label` is what a screen reader says."""
    inside = "".join(parts)
    head = f'<svg class="chart" width="100%" height="{HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{head}{inside}</svg>")
