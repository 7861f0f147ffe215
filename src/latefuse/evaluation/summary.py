"""From the tidy scores to what the report says: estimates per arm and metric, contributions, off-modality, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from latefuse.evaluation.arms import FUSED, MIXED, ROUTE, WIDE, ZERO, Arm, only
from latefuse.evaluation.intervals import Bootstrap, Estimate, Floats, mean_interval, paired_bootstrap
from latefuse.evaluation.metrics import METRICS, RANKED, main_metric
from latefuse.evaluation.scores import ORACLE, ScoreTable


@dataclass(frozen=True)
class Cell:
    """One arm on one metric: its mean and its paired differences against the controls (None for the control itself).

    oracle: the best reachable mean over the rows that the arm has a value on; reached: the arm's share of it there.
    Both are None without an oracle, the share also where the oracle is not above zero or less is better.
    """

    mean: Estimate
    against_zero: Estimate | None = None
    against_mixed: Estimate | None = None
    against_wide: Estimate | None = None
    oracle: float | None = None
    reached: float | None = None


@dataclass(frozen=True)
class Contribution:
    """What a modality is worth to an arm: full minus knocked out, and what is left when it is knocked out."""

    modality: str
    task: str
    metric: str
    arm: str
    condition: str
    full: Estimate
    left: Estimate
    worth: Estimate


@dataclass(frozen=True)
class TaskSummary:
    """A task's rows and cells: metric -> arm -> cell; oracle: metric -> best reachable mean over all rows."""

    name: str
    rows: int
    main: str
    cells: Mapping[str, Mapping[str, Cell]]
    oracle: Mapping[str, float] = field(default_factory=dict)

    def measured(self, metric: str) -> int:
        """How many rows the metric was measured on, by the arm that has most."""
        return max((cell.mean.rows for cell in self.cells.get(metric, {}).values()), default=0)

    @property
    def harm_metric(self) -> str | None:
        """Where harm by another task's adapter can be seen: the headline, else a ranked metric, with zero-shot above 0.

        None where zero-shot is not shown to get anything right by any of them: nothing can be lost there.
        """
        for metric in (self.main, *RANKED):
            control = self.cells.get(metric, {}).get(ZERO)
            if control is not None and control.mean.value > 0 and not control.mean.low <= 0:
                return metric
        return None


@dataclass(frozen=True)
class Summary:
    """Everything the report, the metrics file and the terminal table show."""

    arms: Sequence[Arm]
    tasks: Sequence[TaskSummary]
    contributions: Sequence[Contribution] = ()
    off: Mapping[str, Mapping[str, Mapping[str, Cell]]] = field(default_factory=dict)  # adapter -> task -> metric
    slices: Mapping[str, Mapping[str, Mapping[str, Cell]]] = field(default_factory=dict)  # task -> slice -> arm -> cell

    def task(self, name: str) -> TaskSummary:
        """A task by name."""
        return next(task for task in self.tasks if task.name == name)

    def arm(self, name: str) -> Arm:
        """An arm by name."""
        return next(arm for arm in self.arms if arm.name == name)


def summarise(table: ScoreTable, arms: Sequence[Arm], how: Bootstrap) -> Summary:
    """All estimates. `table` holds the lines of every arm under its own name, and of the oracle under 'oracle'."""
    shown = [arm for arm in arms if arm.group != "off"]
    present = set(table.distinct("task", condition="full"))
    ordered = [task for task in dict.fromkeys(name for arm in arms for name in arm.sources) if task in present]
    tasks = [_task(table, name, shown, how) for name in ordered]
    return Summary(
        arms=arms,
        tasks=tasks,
        contributions=_contributions(table, tasks, how),
        off=_off(table, tasks, arms, how),
        slices={task.name: found for task in tasks if (found := _slices(table, task, shown, how))},
    )


def _task(table: ScoreTable, name: str, arms: Sequence[Arm], how: Bootstrap) -> TaskSummary:
    known = set(table.distinct("metric", task=name, condition="full"))
    metrics = [metric for metric in METRICS if metric in known]
    cells: dict[str, dict[str, Cell]] = {}
    for metric in metrics:
        here = [arm.name for arm in arms if table.has(arm.name, name, metric)]
        cells[metric] = {arm: cell(table, arm, name, metric, how) for arm in here}
    oracle = {
        metric: float(np.nanmean(table.matrix(ORACLE, name, metric)[0]))
        for metric in metrics
        if table.has(ORACLE, name, metric)
    }
    rows = len(set(table.frame.filter(condition="full", task=name)["row"].to_list()))
    return TaskSummary(name, rows, main_metric([m for m in metrics if cells[m]] or metrics), cells, oracle)


def cell(
    table: ScoreTable, arm: str, task: str, metric: str, how: Bootstrap, rows: Sequence[str] | None = None
) -> Cell:
    """Mean and paired differences of one arm, on all rows or on some."""
    values, names, items = table.matrix(arm, task, metric, rows=rows)

    def against(control: str) -> Estimate | None:
        if arm == control or not table.has(control, task, metric):
            return None
        return paired_bootstrap(values, table.matrix(control, task, metric, rows=names)[0], items, how)

    oracle, reached = _reached(table, values, names, task, metric)
    return Cell(mean_interval(values, items, how), against(ZERO), against(MIXED), against(WIDE), oracle, reached)


def _reached(
    table: ScoreTable, values: Floats, rows: Sequence[str], task: str, metric: str
) -> tuple[float | None, float | None]:
    """The oracle's mean where both have a value, and the share of it that is reached. values: (seeds, rows)."""
    if not table.has(ORACLE, task, metric):
        return None, None
    best = np.broadcast_to(table.matrix(ORACLE, task, metric, rows=rows)[0], values.shape)
    both = ~(np.isnan(values) | np.isnan(best))
    if not both.any():
        return None, None
    oracle = float(best[both].mean())
    defined = METRICS[metric].better > 0 and oracle > 0
    return oracle, float(values[both].mean()) / oracle if defined else None


def _contributions(table: ScoreTable, tasks: Sequence[TaskSummary], how: Bootstrap) -> list[Contribution]:
    """A contribution for every knocked-out condition that was measured; condition names are 'shuffled:video'."""
    found = []
    for task in tasks:
        for condition in table.distinct("condition", task=task.name):
            kind, _, modality = condition.partition(":")
            for arm in table.distinct("arm", task=task.name, condition=condition) if modality else []:
                if arm == only(task.name):  # the routed arm shows the same lines
                    continue
                if not table.has(arm, task.name, task.main, condition) or not table.has(arm, task.name, task.main):
                    continue
                left, rows, items = table.matrix(arm, task.name, task.main, condition)
                full = table.matrix(arm, task.name, task.main, rows=rows)[0]
                found.append(
                    Contribution(
                        modality, task.name, task.main, arm, kind,
                        mean_interval(full, items, how), mean_interval(left, items, how),
                        paired_bootstrap(full, left, items, how),
                    )
                )  # fmt: skip
    return found


def _off(
    table: ScoreTable, tasks: Sequence[TaskSummary], arms: Sequence[Arm], how: Bootstrap
) -> dict[str, dict[str, dict[str, Cell]]]:
    """Every adapter on every task: the headline and, where that leaves nothing to lose, the metric that does."""
    adapters = [task.name for task in tasks if any(arm.name == only(task.name) for arm in arms)]
    return {
        adapter: {
            task.name: {
                metric: cell(table, only(adapter), task.name, metric, how)
                for metric in dict.fromkeys((task.main, task.harm_metric or task.main))
                if table.has(only(adapter), task.name, metric)
            }
            for task in tasks
            if table.has(only(adapter), task.name, task.main)
        }
        for adapter in adapters
    }


def _slices(table: ScoreTable, task: TaskSummary, arms: Sequence[Arm], how: Bootstrap) -> dict[str, dict[str, Cell]]:
    here = [arm.name for arm in arms if table.has(arm.name, task.name, task.main)]
    return {
        name: {arm: cell(table, arm, task.name, task.main, how, rows) for arm in here}
        for name, rows in table.slice_rows(task.name).items()
    }


def flat_metrics(summary: Summary) -> dict[str, float]:
    """The numbers for the tracker under fixed names.

    `eval/<metric>` is separate+route (or the best that was trained) over its tasks, `eval/<metric>/<arm>` every arm,
    `eval/<metric>/<slice>` the slices, `eval/contribution/<modality>` full minus shuffled (else absent).
    """
    flat: dict[str, float] = {}
    for task in summary.tasks:
        for metric, row in task.cells.items():
            for name, found in row.items():
                flat.update(_cell_metrics(f"eval/{metric}/{_at(summary, task, metric)}{summary.arm(name).slug}", found))
            lead = next((arm for arm in (ROUTE, MIXED, ZERO) if arm in row), None)
            if lead and task.name != FUSED:
                flat.setdefault(f"eval/{metric}", row[lead].mean.value)
        for metric, value in task.oracle.items():
            flat[f"eval/{metric}/{_at(summary, task, metric)}oracle"] = value
        for name, cells in summary.slices.get(task.name, {}).items():
            lead = next((arm for arm in (ROUTE, MIXED, ZERO) if arm in cells), None)
            if lead:
                flat[f"eval/{task.main}/{_at(summary, task, task.main)}{name}"] = cells[lead].mean.value
    for one in headline_contributions(summary):
        flat[f"eval/contribution/{one.modality}"] = one.worth.value
    for adapter, on_tasks in summary.off.items():
        for name, by_metric in on_tasks.items():
            against = by_metric[summary.task(name).main].against_zero
            if name != adapter and against is not None:
                flat[f"eval/off_modality/{adapter}-on-{name}"] = against.value
    return {name: value for name, value in flat.items() if not isnan(value)}


def _at(summary: Summary, task: TaskSummary, metric: str) -> str:
    """'' where only one task has the metric, else 'task/'."""
    return f"{task.name}/" if sum(metric in other.cells for other in summary.tasks) > 1 else ""


def _cell_metrics(name: str, found: Cell) -> dict[str, float]:
    flat = {name: found.mean.value}
    if found.mean.has_interval:
        flat |= {f"{name}/low": found.mean.low, f"{name}/high": found.mean.high}
    for control, difference in ((ZERO, found.against_zero), (MIXED, found.against_mixed), (WIDE, found.against_wide)):
        if difference is not None:
            flat[f"{name}/minus-{control}"] = difference.value
    return flat


def headline_contributions(summary: Summary) -> list[Contribution]:
    """One for each modality: of the trained separate arm, on its own task, shuffled where that was measured."""
    order = ("shuffled", "absent", "constant", "noise", "alone")
    chosen: dict[str, Contribution] = {}
    for one in sorted(summary.contributions, key=lambda c: (c.task == FUSED, c.arm != ROUTE, order.index(c.condition))):
        chosen.setdefault(one.modality, one)
    return list(chosen.values())
