"""What pages about the arms of one task share: bars, the table of metrics, knock-outs and slices, for a template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan
from typing import Any

from latefuse.config import MODALITIES
from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, Line, digits, gain, label, less_is_better, number
from latefuse.evaluation.calibration import Bin
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.report import charts
from latefuse.evaluation.retrieval_verdict import NOUNS, percent

KINDS = ("only", "shuffled", "absent", "constant", "noise")
WHAT = {"only": "{} only", "noise": "{} as noise"}  # the others: the noun and the kind


def chart(summary: ArmsSummary, by_lot: float | None) -> dict[str, Any]:
    """The headline: a bar per arm, its interval, and what the main arm is ahead by. by_lot: what chance reaches."""
    row, best = summary.lines[summary.headline], summary.oracle.get(summary.headline)
    at = charts.scale([line.mean for line in row.values()], False, [] if best is None else [best])
    lines = []
    for arm in summary.arms:
        mean = row[arm.name].mean
        value, ends = percent(mean.value), interval(mean, summary.rows)
        lines.append(
            {
                "arm": arm,
                "bar": charts.bar(mean, at, arm.group, best, f"{arm.label}: {value}, {ends}"),
                "value": value,
                "interval": ends,
                "behind": behind(row[arm.name].behind),
                "reached": "" if not best or isnan(mean.value) else f"{100 * mean.value / best:.0f}%",
            }
        )
    return {
        "lines": lines,
        "chance": "" if by_lot is None else percent(by_lot),
        "at": None if by_lot is None else at(by_lot),
        "oracle": None if best is None else percent(best),
    }


def table(summary: ArmsSummary, metrics: Sequence[str], by_lot: Callable[[str], float | None]) -> dict[str, Any]:
    """Arms by metrics, and under them the oracle and what chance reaches."""
    lines = []
    for arm in summary.arms:
        row = [summary.lines[metric][arm.name] for metric in metrics]
        lines.append({"arm": arm, "cells": [cell(summary, *pair) for pair in zip(metrics, row, strict=True)]})
    chances = [by_lot(metric) for metric in metrics]
    feet = {
        "oracle": [percent(summary.oracle[metric]) if metric in summary.oracle else "" for metric in metrics],
        "chance": ["" if one is None else percent(one) for one in chances],
    }
    names = [label(metric) for metric in metrics]
    return {"heads": names, "lines": lines, "feet": {name: cells for name, cells in feet.items() if any(cells)}}


def cell(summary: ArmsSummary, metric: str, line: Line) -> dict[str, Any]:
    """A value with its interval, whether it is the best of its column, and on which side of the main arm it lies."""
    means = [other.mean.value for other in summary.lines[metric].values() if not isnan(other.mean.value)]
    best = (min if less_is_better(metric) else max)(means, default=0.0)
    below = line.behind is not None and line.behind.value > 0
    return {
        "value": told(metric, line.mean.value),
        "interval": interval(line.mean, summary.rows, metric),
        "behind": behind(line.behind, metric),
        "best": line.mean.value == best,
        "place": "below" if below else "above",
    }


def slices(
    summary: ArmsSummary,
    notes: Mapping[str, str],
    metric: str | None = None,
    parts: Mapping[str, Mapping[str, Line]] | None = None,
) -> dict[str, Any]:
    """Arms by slices of the headline, or of a metric with its lines, slice -> arm -> line."""
    metric, parts, lines = metric or summary.headline, summary.slices if parts is None else parts, []
    for arm in summary.arms if parts else ():
        row = [(name, lines_of.get(arm.name)) for name, lines_of in parts.items()]
        cells = [
            {
                "value": told(metric, line.mean.value),
                "interval": interval(line.mean, summary.sizes.get(name), metric),
                "behind": behind(line.behind, metric),
            }
            if line
            else None
            for name, line in row
        ]
        lines.append({"arm": arm, "cells": cells})
    heads = [{"name": name, "rows": f"{summary.sizes.get(name, 0):,}"} for name in parts]
    return {"heads": heads, "lines": lines, "notes": {name: notes[name] for name in parts if name in notes}}


def conditions(summary: ArmsSummary) -> list[str]:
    """Every condition once: by kind, then by modality, what this page does not know last."""

    def place(condition: str) -> tuple[int, int]:
        kind, _, modality = condition.partition(":")
        modalities: Sequence[str] = MODALITIES
        return (
            KINDS.index(kind) if kind in KINDS else len(KINDS),
            modalities.index(modality) if modality in modalities else len(modalities),
        )

    return sorted(dict.fromkeys(one.condition for one in summary.knock_outs), key=place)


def what(condition: str) -> str:
    """'picture only', 'clip shuffled', 'text as noise'."""
    kind, _, modality = condition.partition(":")
    return WHAT.get(kind, f"{{}} {kind}").format(NOUNS.get(modality, modality)).strip()


def main_first(summary: ArmsSummary) -> list[str]:
    """The arms that lost a modality."""
    knocked = {one.arm for one in summary.knock_outs}
    arms = sorted(summary.arms, key=lambda arm: arm.group != "main")
    return [arm.name for arm in arms if arm.name in knocked]


def of(summary: ArmsSummary, arm: str) -> dict[str, KnockOut]:
    """The knock-outs of an arm by condition."""
    return {one.condition: one for one in summary.knock_outs if one.arm == arm}


def knocked(summary: ArmsSummary, name: str, shown: Iterable[str], by_lot: float | None) -> dict[str, Any]:
    """One arm under every condition, all arms on one scale."""
    every = [found for one in summary.knock_outs for found in (one.full, one.left)]
    at, by_condition = charts.scale(every, False), of(summary, name)
    lines = []
    for condition in (condition for condition in shown if condition in by_condition):
        one, named = by_condition[condition], what(condition)
        full, left = percent(one.full.value), percent(one.left.value)
        said = f"{summary.arm(name).label}, {named}: from {full} to {left}"
        empty = isnan(one.full.value) or isnan(one.left.value)
        drawn = charts.svg([], f"{said}, not measured") if empty else charts.drop(one.full, one.left, at, said)
        worth = {"text": gain(one.worth).removesuffix(" *"), "mark": mark(one.worth)}
        lines.append({"what": named, "chart": drawn, "left": left, "full": full, "worth": worth})
    return {"arm": summary.arm(name), "lines": lines, "at": None if by_lot is None else at(by_lot)}


def mark(found: Estimate | None, metric: str = "") -> str:
    """'better' where the main arm is shown to be ahead, 'worse' where behind."""
    if found is None or not found.excludes_zero:
        return ""
    return "better" if (found.value > 0) != less_is_better(metric) else "worse"


def told(metric: str, value: float) -> str:
    """A share in per cent, any other number as it is; a dash where there is none."""
    return percent(value) if isnan(value) or digits(metric) is None else number(metric, value)


def interval(found: Estimate, rows: int | None = None, metric: str = "") -> str:
    """The interval, and how many queries there were where that is not `rows` or allows none."""
    if not found.has_interval:
        return f"n = {found.rows:,}"
    ends = f"{number(metric, found.low)} – {number(metric, found.high)}"
    return ends if rows in (None, found.rows) else f"{ends}, n = {found.rows:,}"


def behind(found: Estimate | None, metric: str = "") -> dict[str, str]:
    return {"text": gain(found, metric).removesuffix(" *"), "mark": mark(found, metric)}


def reliable(one: Bin) -> dict[str, Any]:
    """The share of a calibration bin that is liked as a bar, the probability that was said as a tick."""
    said, was = percent(one.probability), percent(one.share)
    found = Estimate(one.share, one.low, one.high, one.count)
    bar = charts.bar(found, charts.Scale(0.0, 1.0), "main", one.probability, f"said {said}, was {was}")
    return {"said": said, "was": was, "rows": f"{one.count:,}", "bar": bar}
