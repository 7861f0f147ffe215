"""Plain sentences out of the numbers: findings, each of which may come out for or against separate training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

from latefuse.evaluation.arms import FUSED, LATE, ROUTE
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.metrics import METRICS
from latefuse.evaluation.summary import Cell, Summary, TaskSummary, headline_contributions

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Sentence:
    """One finding. tone: for separate training, against it, or open. first: the question that the project asks."""

    text: str
    tone: Tone
    first: bool = False


def number(metric: str, value: float) -> str:
    """A value as it is read: '84.2%' for a share, '0.31' for other numbers, a dash where there is none."""
    if isnan(value):
        return "–"
    return f"{100 * value:.1f}%" if METRICS[metric].share else f"{value:.2f}"


def difference(metric: str, found: Estimate) -> str:
    """'+3.1 points [-1.0, 7.2]'; without rows enough '+3.1 points (n = 12)'."""
    if isnan(found.value):
        return "not measured"
    scale, places, unit = (100, 1, " points") if METRICS[metric].share else (1, 2, "")
    head = f"{scale * found.value:+.{places}f}{unit}"
    if not found.has_interval:
        return f"{head} (n = {found.rows})"
    return f"{head} [{scale * found.low:.{places}f}, {scale * found.high:.{places}f}]"


def verdicts(summary: Summary) -> list[Sentence]:
    """The findings in the order of their weight: separate against mixed first."""
    found = [sentence for task in summary.tasks if task.name != FUSED for sentence in _task(task)]
    found += _merging(summary) + _late(summary) + _content(summary) + _off(summary)
    return sorted(found, key=lambda sentence: not sentence.first)


def _compare(who: str, other: str, task: TaskSummary, cell: Cell, found: Estimate) -> Sentence:
    """'Separate beats mixed on recipe: ...' with the verb that the interval allows, and what equal parameters change.

    For separate training is only what beats the mix with equal tokens and is not worse than the one with as many
    parameters as all adapters together.
    """
    tone, text = _against_mixed(who, other, task, found)
    wide = cell.against_wide
    if wide is None:
        return Sentence(text, tone, True)
    text += f" Against mixed, wide (equal parameters) {difference(task.main, wide)}"
    if not wide.excludes_zero:
        return Sentence(f"{text}, not shown to differ.", tone, True)
    worse = wide.value * METRICS[task.main].better < 0
    return Sentence(f"{text}, {'worse' if worse else 'better'}.", "bad" if worse else tone, True)


def _against_mixed(who: str, other: str, task: TaskSummary, found: Estimate) -> tuple[Tone, str]:
    gain = found.value * METRICS[task.main].better
    place = "items with photo, clip and text" if task.name == FUSED else task.name
    where = f"on {place} ({METRICS[task.main].label})"
    told = difference(task.main, found)
    if not found.has_interval:
        text = f"{who} against {other} {where}: {told}; too few test rows for an interval, so this decides nothing."
        return "open", text
    if not found.excludes_zero:
        return "open", f"{who} does not beat {other} {where}: difference {told}; the interval holds zero."
    verb = "beats" if gain > 0 else "is worse than"
    return "good" if gain > 0 else "bad", f"{who} {verb} {other} {where}: difference {told}."


def _task(task: TaskSummary) -> list[Sentence]:
    row = task.cells.get(task.main, {})
    cell = row.get(ROUTE)
    if cell is None:
        return []
    found = []
    if cell.against_mixed is not None:
        found.append(_compare("Separate", "mixed", task, cell, cell.against_mixed))
    if cell.against_zero is not None:
        found.append(_over_zero_shot(task, cell, cell.against_zero))
    return found


def _over_zero_shot(task: TaskSummary, cell: Cell, gained: Estimate) -> Sentence:
    """What separate training reaches, against the bare backbone and, where it is known, against the best reachable."""
    metric = METRICS[task.main]
    text = f"On {task.name} separate reaches {number(task.main, cell.mean.value)} ({metric.label})"
    if cell.oracle is not None and cell.reached is not None:
        best = number(task.main, cell.oracle)
        text += f", {100 * cell.reached:.0f}% of what this modality can show at best ({best})"
    text += f"; against zero-shot {difference(task.main, gained)}"
    if not gained.excludes_zero:
        return Sentence(f"{text}, which is not shown to differ from zero.", "open")
    good = gained.value * metric.better > 0
    return Sentence(f"{text}.", "good" if good else "bad")


def _merging(summary: Summary) -> list[Sentence]:
    """What merging costs against routing, for the merge that keeps the most over all tasks."""
    merges = [arm.name for arm in summary.arms if arm.group == "merge"]
    tasks = [task for task in summary.tasks if ROUTE in task.cells.get(task.main, {})]

    def kept(arm: str) -> float:
        cells = [(task, task.cells[task.main]) for task in tasks]
        return (
            sum(row[arm].mean.value * METRICS[task.main].better for task, row in cells if arm in row) if cells else 0.0
        )

    merges = [arm for arm in merges if all(arm in task.cells[task.main] for task in tasks)]
    if not merges or not tasks:
        return []
    best = max(merges, key=kept)
    parts = [
        f"{task.name} {number(task.main, task.cells[task.main][best].mean.value)} "
        f"(routed {number(task.main, task.cells[task.main][ROUTE].mean.value)})"
        for task in tasks
    ]
    return [Sentence(f"One merged adapter keeps, at its best ({summary.arm(best).label}): {', '.join(parts)}.", "open")]


def _late(summary: Summary) -> list[Sentence]:
    fused = next((task for task in summary.tasks if task.name == FUSED), None)
    row = fused.cells.get(fused.main, {}) if fused else {}
    if fused is None or LATE not in row:
        return []
    found = []
    cell = row[LATE]
    if cell.against_mixed is not None:
        found.append(
            _compare("Late fusion of separate adapters", "mixed, fused the same way,", fused, cell, cell.against_mixed)
        )
    alone = {one.condition: one for one in summary.contributions if one.task == FUSED and one.arm == LATE}
    if alone:
        told = [
            f"{one.modality} {difference(fused.main, one.worth)}"
            for one in summary.contributions
            if one.task == FUSED and one.arm == LATE and one.condition == "absent"
        ]
        text = f"Late fusion names {number(fused.main, cell.mean.value)} of the items with photo, clip and text"
        found.append(Sentence(f"{text}; what each is worth there: {', '.join(told)}." if told else f"{text}.", "open"))
    return found


def _content(summary: Summary) -> list[Sentence]:
    """Whether the answers follow the content: media shuffled between rows must hurt."""
    found = []
    for one in headline_contributions(summary):
        if one.task == FUSED:
            continue
        label = f"the {one.modality} {one.condition}" + (" between rows" if one.condition == "shuffled" else "")
        full, left = number(one.metric, one.full.value), number(one.metric, one.left.value)
        text = f"With {label}, the {one.task} task falls from {full} to {left}"
        told = difference(one.metric, one.worth)
        gain = one.worth.value * METRICS[one.metric].better
        if one.worth.excludes_zero and gain > 0:
            found.append(Sentence(f"{text}: the answer follows the content, which is worth {told}.", "good"))
        elif one.worth.has_interval:
            text = text.replace("falls", "goes")
            found.append(Sentence(f"{text}: the {one.modality} is not shown to matter ({told}).", "bad"))
        else:
            found.append(Sentence(f"{text.replace('falls', 'goes')}: {told}.", "open"))
    return found


def _off(summary: Summary) -> list[Sentence]:
    """The worst harm that an adapter does to another task, shown harm before a lower mean that is not shown.

    Tasks on which zero-shot has nothing to lose are told apart: there the check can't find harm.
    """
    pairs: list[tuple[str, str, str, Estimate]] = []
    blind: dict[str, None] = {}
    for task in (task for task in summary.tasks if task.name != FUSED):
        metric = task.harm_metric
        others = {name: cells[task.name] for name, cells in summary.off.items() if task.name in cells}
        for adapter in (name for name in others if name != task.name):
            if metric is None:
                blind[task.name] = None
                continue
            cell = others[adapter].get(metric)
            if cell is not None and cell.against_zero is not None and not isnan(cell.against_zero.value):
                pairs.append((adapter, task.name, metric, cell.against_zero))
    said = [_worst(pairs)] if pairs else []
    if blind:
        text = f"Off modality: zero-shot is not shown to get anything right on {_listed(blind)}, so there is nothing to"
        said.append(Sentence(f"{text} lose and the check can't tell whether an adapter of another task hurts.", "open"))
    return said


def _worst(pairs: Sequence[tuple[str, str, str, Estimate]]) -> Sentence:
    """The pair (adapter, task, metric, difference to zero-shot) that loses most."""

    def harm(pair: tuple[str, str, str, Estimate]) -> tuple[bool, float]:
        lost = -pair[3].value * METRICS[pair[2]].better
        return (lost > 0 and pair[3].excludes_zero, lost)

    adapter, task, metric, found = worst = max(pairs, key=harm)
    shown, lost = harm(worst)
    told = f"{adapter} on {task} ({METRICS[metric].label}), {difference(metric, found)} against zero-shot"
    if shown:
        return Sentence(f"Off modality: an adapter hurts another task, most {told}.", "bad")
    tone: Tone = "good" if found.has_interval and lost <= 0 else "open"
    where = _listed(dict.fromkeys(name for _, name, _, _ in pairs))
    return Sentence(f"Off modality: no adapter of another task is shown to hurt {where}; the lowest is {told}.", tone)


def _listed(names: Iterable[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
