"""Saliency flow as an SVG: one panel an arm, one line a flow, legible on light and dark ground, in a page or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import escape
from torch import Tensor

FLOWS = ("S_v", "S_t", "S_o")
SOURCES = {"S_v": "media", "S_t": "other tokens", "S_o": "the rest"}
WIDTH, HEIGHT, COLUMNS = 300, 210, 3
LEFT, RIGHT, TOP, BOTTOM = 40, 38, 34, 36
LEGEND = 30
MOST_TICKS = 8
LABEL_GAP = 13
SHAPES = {
    "S_v": '<circle cx="{x}" cy="{y}" r="3.6"{kind}>{title}</circle>',
    "S_t": '<rect x="{left}" y="{up}" width="6.6" height="6.6"{kind}>{title}</rect>',
    "S_o": '<path d="M{x} {up}l3.8 6.8h-7.6z"{kind}>{title}</path>',
}
STYLE = """
.saliency{--v:#c2452d;--t:#1f7076;--o:#8b8377;--ground:#fffdf9;--text:#221d17;--faint:#6d6459;--grid:#e4dccf;
font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
@media (prefers-color-scheme:dark){.saliency{--v:#f0785c;--t:#5cc0c4;--o:#9c9387;--ground:#211d19;--text:#efe8dd;
--faint:#a89d8e;--grid:#38312a}}
.saliency .ground{fill:var(--ground)} .saliency text{fill:var(--faint)} .saliency .arm{fill:var(--text);font-weight:600}
.saliency .grid{stroke:var(--grid);stroke-width:1} .saliency polyline{fill:none;stroke-width:2}
.saliency polyline.v{stroke:var(--v)} .saliency polyline.t{stroke:var(--t)}
.saliency polyline.o{stroke:var(--o);stroke-dasharray:5 3}
.saliency .mark.v{fill:var(--v)} .saliency .mark.t{fill:var(--t)} .saliency .mark.o{fill:var(--o)}
.saliency .end{font-weight:600}
"""


def picture(flows: Mapping[str, Tensor]) -> str:
    """An SVG of S_v, S_t and S_o by layer. flows: arm -> (layers, 3), a layer's sum 1. Raises ValueError if empty."""
    if not flows:
        raise ValueError("no arm has a flow to draw")
    columns = min(COLUMNS, len(flows))
    width = columns * WIDTH
    height = LEGEND + HEIGHT * -(-len(flows) // columns)
    panels = [
        f'<g transform="translate({WIDTH * (k % columns)} {LEGEND + HEIGHT * (k // columns)})">{_panel(arm, flow)}</g>'
        for k, (arm, flow) in enumerate(flows.items())
    ]
    said = escape("Saliency by layer: " + ", ".join(flows))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="saliency" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{said}"><style>{STYLE}</style>'
        f'<rect class="ground" width="{width}" height="{height}"/>{_legend()}{"".join(panels)}</svg>'
    )


def _panel(arm: str, flow: Tensor) -> str:
    """One arm: axes, three lines with a mark at every layer, their names at the right end."""
    layers = flow.tolist()
    xs = [_x(k, len(layers)) for k in range(len(layers))]
    parts = [f'<text class="arm" x="{LEFT}" y="20">{escape(arm)}</text>', _axes(xs)]
    ends: list[tuple[float, str]] = []
    for column, name in enumerate(FLOWS):
        values = [layer[column] for layer in layers]
        ys = [_y(value) for value in values]
        path = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline class="{name[-1]}" points="{path}"/>')
        parts += [
            _mark(name, x, y, f"{name} in layer {k}: {value:.3f}")
            for k, (x, y, value) in enumerate(zip(xs, ys, values, strict=True), start=1)
        ]
        ends.append((ys[-1], name))
    for y, name in _apart(ends):
        parts.append(f'<text class="mark end {name[-1]}" x="{WIDTH - RIGHT + 9}" y="{y + 4}">{_named(name)}</text>')
    return "".join(parts)


def _axes(xs: Sequence[float]) -> str:
    """Shares 0, one half and 1 across, layers below, the first and the last always among them."""
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{share:g}</text>')
    last = len(xs) - 1
    step = max(1, -(-last // (MOST_TICKS - 1)))
    shown = sorted({*range(0, max(last - step // 2, 1), step), last})
    ticks = [f'<text x="{xs[k]}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{k + 1}</text>' for k in shown]
    middle = (LEFT + WIDTH - RIGHT) / 2
    return "".join([*parts, *ticks, f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">layer</text>'])


def _legend() -> str:
    """Each mark, and where the flow comes from that it stands for."""
    parts, x = [], 12.0
    for name, source in SOURCES.items():
        parts.append(_mark(name, x, 15, name))
        parts.append(f'<text x="{x + 9}" y="19">{_named(name)} {source}</text>')
        x += 46 + 6 * len(source)
    return "".join(parts)


def _mark(name: str, x: float, y: float, title: str) -> str:
    places = {"x": x, "y": y, "left": round(x - 3.3, 2), "up": round(y - 3.3, 2)}
    return SHAPES[name].format(**places, kind=f' class="mark {name[-1]}"', title=f"<title>{title}</title>")


def _named(name: str) -> str:
    return f'{name[0]}<tspan dy="3" font-size="9">{name[-1]}</tspan><tspan dy="-3"> </tspan>'


def _apart(ends: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Labels from top to bottom, none nearer to the one above than a line of text, none below the axis."""
    placed: list[tuple[float, str]] = []
    low = _y(0.0)
    for number, (y, name) in enumerate(sorted(ends)):
        room = low - LABEL_GAP * (len(ends) - 1 - number)
        above = placed[-1][0] + LABEL_GAP if placed else y
        placed.append((round(min(max(y, above), room), 2), name))
    return placed


def _x(layer: int, layers: int) -> float:
    wide = WIDTH - LEFT - RIGHT - 12
    return round(LEFT + 6 + (wide / 2 if layers == 1 else wide * layer / (layers - 1)), 2)


def _y(share: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(share, 0.0), 1.0), 2)
