"""Puts the page together: rows of numbers and ready charts for the template, which holds all words and looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from latefuse.evaluation.arms import FUSED, MIXED, ROUTE, ZERO
from latefuse.evaluation.cost import with_fusion
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.metrics import METRICS
from latefuse.evaluation.report import charts
from latefuse.evaluation.report.gallery import Card
from latefuse.evaluation.report.page import Page, render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.summary import Cell, Contribution, Summary, TaskSummary
from latefuse.evaluation.verdict import Sentence, difference, number, verdicts


@dataclass(frozen=True, kw_only=True)
class Report(Page):
    """Everything the page shows."""

    summary: Summary
    cards: Sequence[Card] = ()
    fused: Sequence[Mapping[str, Any]] = ()
    side: int | None = None


def build(report: Report) -> str:
    """The page as one string of HTML that asks nothing of any network."""
    summary = report.summary
    return render(
        "report.html.j2",
        report=report,
        verdicts=verdicts(summary),
        overview=_overview(summary),
        tasks=[_task(summary, task, report.fewest) for task in summary.tasks],
        contributions=_contributions(summary),
        off=_off(summary),
        slices=_slices(summary),
        fusion=[_fusion(one) for one in report.fused],
        costs=[(_label(summary, cost.name), cost) for cost in with_fusion(report.costs, report.fused)],
        manifest=provenance(report.manifest),
        meanings=[metric for metric in METRICS.values() if any(metric.name in t.cells for t in summary.tasks)],
        arms=[arm for arm in summary.arms if arm.group != "off"],
    )


def headline(summary: Summary) -> Sentence | None:
    """The first finding, for the summary line of a step."""
    found = verdicts(summary)
    return found[0] if found else None


def _overview(summary: Summary) -> dict[str, Any]:
    """Arms by tasks, the headline metric of each."""
    heads = [{"task": t.name, "metric": METRICS[t.main].label, "rows": t.measured(t.main)} for t in summary.tasks]
    lines = []
    for arm in summary.arms:
        cells = [task.cells.get(task.main, {}).get(arm.name) for task in summary.tasks]
        if arm.group != "off" and any(cells):
            pairs = zip(cells, summary.tasks, strict=True)
            lines.append({"arm": arm, "cells": [_short(cell, task) if cell else None for cell, task in pairs]})
    oracle = [number(t.main, t.oracle[t.main]) if t.main in t.oracle else "" for t in summary.tasks]
    return {"heads": heads, "lines": lines, "oracle": oracle if any(oracle) else []}


def _short(cell: Cell, task: TaskSummary) -> dict[str, Any]:
    means = [found.mean.value * METRICS[task.main].better for found in task.cells[task.main].values()]
    best = max((mean for mean in means if not isnan(mean)), default=0.0)
    return {
        "value": number(task.main, cell.mean.value),
        "interval": _interval(task.main, cell.mean, task.measured(task.main)),
        "mark": _mark(task.main, cell.against_mixed),
        "best": cell.mean.value * METRICS[task.main].better >= best,
    }


def _mark(metric: str, found: Estimate | None) -> str:
    """'better' or 'worse' where the interval of the difference excludes zero."""
    if found is None or not found.excludes_zero:
        return ""
    gain = found.value * METRICS[metric].better
    return "better" if gain > 0 else "worse" if gain < 0 else ""


def _interval(metric: str, found: Estimate, rows: int | None = None) -> str:
    """The interval, and how many rows there were where that is not the `rows` of its neighbours or allows none."""
    if not found.has_interval:
        return f"n = {found.rows}"
    ends = f"{number(metric, found.low).rstrip('%')} – {number(metric, found.high).rstrip('%')}"
    return ends if rows in (None, found.rows) else f"{ends}, n = {found.rows}"


def _task(summary: Summary, task: TaskSummary, fewest: int) -> dict[str, Any]:
    order = [task.main, *(metric for metric in task.cells if metric != task.main)]
    return {
        "name": task.name,
        "title": "late fusion: photo, clip and text of one item" if task.name == FUSED else task.name,
        "rows": task.rows,
        "few": task.rows < fewest,
        "metrics": [_metric(summary, task, metric) for metric in order if task.cells[metric]],
    }


def _metric(summary: Summary, task: TaskSummary, metric: str) -> dict[str, Any]:
    row, oracle, rows = task.cells[metric], task.oracle.get(metric), task.measured(metric)
    best = [cell.oracle for cell in row.values() if cell.oracle is not None]
    at = charts.scale([cell.mean for cell in row.values()], METRICS[metric].share, best)
    lines = []
    for arm in summary.arms:
        if arm.group == "off" or arm.name not in row:
            continue
        cell = row[arm.name]
        interval = _interval(metric, cell.mean, rows)
        said = f"{arm.label}: {number(metric, cell.mean.value)}, {interval}"
        lines.append(
            {
                "arm": arm,
                "bar": charts.bar(cell.mean, at, arm.group, cell.oracle, said),
                "value": number(metric, cell.mean.value),
                "interval": interval,
                "zero": _against(metric, cell.against_zero),
                "mixed": _against(metric, cell.against_mixed),
                "reached": "" if cell.reached is None else f"{100 * cell.reached:.0f}%",
                "seeds": cell.mean.seeds,
            }
        )
    return {
        "name": metric,
        "metric": METRICS[metric],
        "main": metric == task.main,
        "rows": rows,
        "oracle": None if oracle is None else number(metric, oracle),
        "lines": lines,
    }


def _against(metric: str, found: Estimate | None) -> dict[str, str]:
    if found is None:
        return {"text": "", "mark": ""}
    return {"text": difference(metric, found).replace(" points", ""), "mark": _mark(metric, found)}


def _contributions(summary: Summary) -> list[dict[str, Any]]:
    """One block per task and modality, separate arms before mixed, knock-outs in the order in which they were run."""
    blocks: dict[tuple[str, str], list[Contribution]] = {}
    for one in summary.contributions:
        blocks.setdefault((one.task, one.modality), []).append(one)
    found = []
    for (task, modality), ones in blocks.items():
        metric = ones[0].metric
        at = charts.scale([e for one in ones for e in (one.full, one.left)], METRICS[metric].share)
        lines = []
        for one in sorted(ones, key=lambda c: (c.arm == MIXED, c.arm)):
            what = f"only {modality}" if one.condition == "alone" else f"{modality} {one.condition}"
            arm, full, left = _label(summary, one.arm), number(metric, one.full.value), number(metric, one.left.value)
            chart = charts.drop(one.full, one.left, at, f"{arm}, {what}: from {full} to {left}")
            worth = difference(metric, one.worth)
            lines.append({"arm": arm, "what": what, "chart": chart, "full": full, "left": left, "worth": worth})
        found.append({"task": task, "modality": modality, "metric": METRICS[metric], "lines": lines})
    return found


def _label(summary: Summary, name: str) -> str:
    return next((arm.label for arm in summary.arms if arm.name == name), name)


def _off(summary: Summary) -> dict[str, Any]:
    """Adapters by tasks: value, and difference to zero-shot, by the headline and by what can show harm."""
    columns = [
        (task, metric)
        for task in summary.tasks
        for metric in dict.fromkeys((task.main, task.harm_metric or task.main))
        if any(metric in cells.get(task.name, {}) for cells in summary.off.values())
    ]
    lines = []
    for adapter, cells in summary.off.items():
        line = []
        for task, metric in columns:
            cell = cells.get(task.name, {}).get(metric)
            zero = None if cell is None else _against(metric, cell.against_zero)
            value = "" if cell is None else number(metric, cell.mean.value)
            line.append({"value": value, "zero": zero, "own": task.name == adapter})
        lines.append({"adapter": adapter, "cells": line})
    return {"heads": [{"task": task.name, "metric": METRICS[metric].label} for task, metric in columns], "lines": lines}


def _slices(summary: Summary) -> list[dict[str, Any]]:
    found = []
    for task, slices in summary.slices.items():
        metric = summary.task(task).main
        for name, cells in slices.items():
            kept = {arm: cell for arm, cell in cells.items() if arm in (ZERO, MIXED, ROUTE) or cell.mean.rows}
            lines = [
                {
                    "arm": summary.arm(arm).label,
                    "value": number(metric, c.mean.value),
                    "interval": _interval(metric, c.mean),
                }
                for arm, c in kept.items()
            ]
            found.append({"task": task, "slice": name, "metric": METRICS[metric], "lines": lines})
    return found


def _fusion(result: Mapping[str, Any]) -> dict[str, Any]:
    """One seed's merges and mixtures from the result of `fuse`."""
    tasks = list(result.get("tasks", ()))
    merges = []
    for method, said in result.get("merges", {}).items():
        weights = said.get("weights", {})
        merges.append(
            {
                "method": method,
                "weights": ", ".join(f"{name} {weight:g}" for name, weight in weights.items()),
                "chosen": said.get("chosen_by", ""),
                "error": f"{said['worst_error']:.1e}" if "worst_error" in said else "",
                "energy": f"{100 * said['retained_energy']:.1f}%" if "retained_energy" in said else "",
                "kind": "dense" if said.get("dense") else "LoRA",
            }
        )
    late = [_mixture(name, result.get("late", {}).get(name, {})) for name in ("fused", "same_input")]
    return {"seed": result.get("seed", 0), "tasks": tasks, "merges": merges, "late": [one for one in late if one]}


def _mixture(name: str, said: Mapping[str, Any]) -> dict[str, Any] | None:
    title = "each adapter its own modality" if name == "fused" else "all adapters the same input"
    if "weights" not in said:
        return {"title": title, "skipped": said["skipped"]} if "skipped" in said else None
    weights = said["weights"]
    label = ", ".join(f"{key} {value:.2f}" for key, value in weights.items())
    return {
        "title": title,
        "skipped": "",
        "label": label,
        "chart": charts.weights(list(weights.values()), [f"w{k % 4}" for k in range(len(weights))], label),
        "shares": [(f"w{k % 4}", key, f"{value:.2f}") for k, (key, value) in enumerate(weights.items())],
        "nll": f"{said['nll_before']:.3f} → {said['nll_after']:.3f}" if "nll_after" in said else "",
        "rows": said.get("rows", ""),
    }
