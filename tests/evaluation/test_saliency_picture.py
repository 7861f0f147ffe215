"""The picture of saliency flow says what the numbers say."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch

from latefuse.evaluation.saliency_picture import FLOWS, picture

SVG = "{http://www.w3.org/2000/svg}"


def test_every_arm_is_a_panel_with_three_lines() -> None:
    flows = {f"arm {k} <&>": torch.softmax(torch.randn(k + 2, 3), 1) for k in range(4)}
    root = ElementTree.fromstring(picture(flows))
    panels = root.findall(f"{SVG}g")
    assert [panel.find(f"{SVG}text").text for panel in panels] == list(flows)
    for panel, flow in zip(panels, flows.values(), strict=True):
        lines = panel.findall(f"{SVG}polyline")
        assert [line.get("class") for line in lines] == [name[-1] for name in FLOWS]
        for line, values in zip(lines, flow.T.tolist(), strict=True):
            points = [tuple(map(float, point.split(","))) for point in line.get("points").split()]
            xs, ys = zip(*points, strict=True)
            assert list(xs) == sorted(xs)
            axis = [float(grid.get("y1")) for grid in panel.findall(f"{SVG}line")]
            assert [(axis[0] - y) / (axis[0] - axis[2]) for y in ys] == pytest.approx(values, abs=1e-3)
        told = [mark.text for mark in panel.iter(f"{SVG}title")]
        assert len(told) == 3 * len(flow)
        assert told[0] == f"S_v in layer 1: {float(flow[0, 0]):.3f}"


@pytest.mark.parametrize("layers", [1, 2, 7, 8, 9, 32, 61])
def test_layers_are_numbered_to_the_last_and_labels_stay_apart(layers: int) -> None:
    root = ElementTree.fromstring(picture({"arm": torch.tensor([[0.34, 0.33, 0.33]]).expand(layers, 3)}))
    texts = [text for text in root.find(f"{SVG}g").findall(f"{SVG}text") if text.get("class") is None]
    ticks = [
        int(text.text) for text in texts if text.text and text.text.isdigit() and text.get("text-anchor") == "middle"
    ]
    assert ticks == sorted(set(ticks))
    assert ticks[0] == 1
    assert ticks[-1] == layers
    assert len(ticks) <= 9
    ends = [t for t in root.iter(f"{SVG}text") if "end" in (t.get("class") or "")]
    heights = sorted(float(text.get("y")) for text in ends)
    assert min(b - a for a, b in pairwise(heights)) >= 12.9


def test_nothing_to_draw_is_an_error_and_dark_ground_has_its_own_colours() -> None:
    with pytest.raises(ValueError, match="no arm"):
        picture({})
    drawn = picture({"arm": torch.full((2, 3), 1 / 3)})
    assert "prefers-color-scheme:dark" in drawn
    assert 'aria-label="Saliency by layer: arm"' in drawn
