"""The arms as a table for a terminal."""

from __future__ import annotations

from math import isnan

from latefuse.evaluation.arms import MIXED, ZERO
from latefuse.evaluation.metrics import METRICS
from latefuse.evaluation.summary import Cell, Summary, TaskSummary
from latefuse.evaluation.verdict import number


def table(summary: Summary, confidence: float) -> str:
    """Arms against each task's headline metric: value, interval, and marks for the differences to the controls.

    A cell measured on fewer rows than its column says how many, n.
    '*': the interval of the difference against zero-shot excludes zero; '+', '-': that against mixed does.
    """
    head = [
        "arm",
        *(f"{task.name}: {METRICS[task.main].label} (n={task.measured(task.main)})" for task in summary.tasks),
    ]
    lines = [head]
    for arm in summary.arms:
        row = [task.cells[task.main].get(arm.name) for task in summary.tasks]
        if arm.group != "off" and any(row):
            told = [_told(cell, task) for cell, task in zip(row, summary.tasks, strict=True)]
            lines.append([arm.label, *told])
    if any(task.oracle for task in summary.tasks):
        lines.append(
            ["oracle", *(number(t.main, t.oracle[t.main]) if t.main in t.oracle else "" for t in summary.tasks)]
        )
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "  ".join("-" * width for width in widths)
    marks = f"* differs from {ZERO}  + better  - worse than {MIXED}; no mark: not shown to differ"
    return "\n".join([rows[0], rule, *rows[1:], "", f"[{confidence:.0%} interval]  {marks}", ""])


def _told(cell: Cell | None, task: TaskSummary) -> str:
    if cell is None or isnan(cell.mean.value):
        return ""
    metric = task.main
    text = number(metric, cell.mean.value)
    if cell.mean.has_interval:
        text += f" [{number(metric, cell.mean.low).rstrip('%')}, {number(metric, cell.mean.high).rstrip('%')}]"
    if cell.mean.rows != task.measured(metric):
        text += f" (n = {cell.mean.rows})"
    if cell.against_zero is not None and cell.against_zero.excludes_zero:
        text += " *"
    if cell.against_mixed is not None and cell.against_mixed.excludes_zero:
        text += " +" if cell.against_mixed.value * METRICS[metric].better > 0 else " -"
    return text
