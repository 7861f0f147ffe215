"""From the scores of rows to what a report says of arms of one task: floors, controls, knock-outs, slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Literal

import numpy as np

from latefuse.evaluation.intervals import Bootstrap, Estimate, mean_interval, paired_bootstrap
from latefuse.evaluation.scores import ORACLE, ScoreTable

Group = Literal["floor", "control", "main"]
FULL = "full"
NOTHING = Estimate(nan, nan, nan, 0)


@dataclass(frozen=True)
class MeasuredArm:
    """One line of the table: a trained arm of the recipe (its task the main one) or a floor, which nothing trained."""

    name: str
    label: str
    meaning: str
    group: Group


@dataclass(frozen=True)
class Line:
    """An arm on a metric: its mean, and the main arm's mean minus it on the same queries (None for the main arm)."""

    mean: Estimate
    behind: Estimate | None = None


@dataclass(frozen=True)
class KnockOut:
    """What an arm finds when a modality is taken away, and what that cost. condition: 'shuffled:image', 'only:text'."""

    arm: str
    condition: str
    full: Estimate
    left: Estimate
    worth: Estimate


@dataclass(frozen=True)
class ArmsSummary:
    """Everything that report, metrics file and terminal table show.

    metrics: in order, the headline first. rows: what is measured, queries or judgements; about: words for them. pool:
    items that a query is asked of, 0 where there is none. lines: metric -> arm -> line. slices: slice -> arm -> line,
    of the headline. oracle: metric -> best reachable mean, where the source can tell it. sizes: slice -> rows. prior:
    whether popularity counts beside the scores.
    """

    task: str
    main: str
    arms: Sequence[MeasuredArm]
    metrics: Sequence[str]
    rows: int
    about: str
    lines: Mapping[str, Mapping[str, Line]]
    knock_outs: Sequence[KnockOut] = ()
    slices: Mapping[str, Mapping[str, Line]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    oracle: Mapping[str, float] = field(default_factory=dict)
    pool: float = 0
    prior: bool = False

    @property
    def headline(self) -> str:
        """The metric that slices and knock-outs are told by."""
        return self.metrics[0]

    def arm(self, name: str) -> MeasuredArm:
        """An arm by name."""
        return next(arm for arm in self.arms if arm.name == name)


def summarise(
    table: ScoreTable,
    task: str,
    arms: Sequence[MeasuredArm],
    metrics: Sequence[str],
    slices: Mapping[str, Sequence[str]],
    about: str,
    how: Bootstrap,
    pool: float = 0,
    prior: bool = False,
) -> ArmsSummary:
    """All estimates. table: a line per arm, seed, condition and row; slices: name -> ids of rows.

    about: what rows are called, with {rows} for how many. pool, prior: as in ArmsSummary.
    """
    main = next(arm.name for arm in arms if arm.group == "main")
    here = [arm for arm in arms if table.has(arm.name, task, metrics[0])]
    lines = {metric: {arm.name: _line(table, arm.name, main, task, metric, how) for arm in here} for metric in metrics}
    cut = {
        name: {arm.name: _line(table, arm.name, main, task, metrics[0], how, rows) for arm in here}
        for name, rows in slices.items()
        if rows
    }
    best = {
        metric: float(np.nanmean(table.matrix(ORACLE, task, metric)[0]))
        for metric in metrics
        if table.has(ORACLE, task, metric)
    }
    rows = len(table.matrix(main, task, metrics[0])[1])
    return ArmsSummary(
        task=task,
        main=main,
        arms=here,
        metrics=metrics,
        rows=rows,
        about=about.format(rows=f"{rows:,}"),
        lines=lines,
        knock_outs=_knock_outs(table, here, task, metrics[0], how),
        slices=cut,
        sizes={name: len(slices[name]) for name in cut},
        oracle=best,
        pool=pool,
        prior=prior,
    )


def _line(
    table: ScoreTable, arm: str, main: str, task: str, metric: str, how: Bootstrap, rows: Sequence[str] | None = None
) -> Line:
    if not table.has(arm, task, metric):
        return Line(NOTHING, None if arm == main else NOTHING)
    values, names, items = table.matrix(arm, task, metric, rows=rows)
    if arm == main:
        return Line(mean_interval(values, items, how))
    best = table.matrix(main, task, metric, rows=names)[0]
    return Line(mean_interval(values, items, how), paired_bootstrap(best, values, items, how))


def _knock_outs(
    table: ScoreTable, arms: Sequence[MeasuredArm], task: str, metric: str, how: Bootstrap
) -> list[KnockOut]:
    found = []
    for arm in arms:
        for condition in table.distinct("condition", arm=arm.name, task=task):
            if condition != FULL and table.has(arm.name, task, metric, condition):
                left, rows, items = table.matrix(arm.name, task, metric, condition)
                full = table.matrix(arm.name, task, metric, rows=rows)[0]
                worth = paired_bootstrap(full, left, items, how)
                estimates = mean_interval(full, items, how), mean_interval(left, items, how)
                found.append(KnockOut(arm.name, condition, *estimates, worth))
    return found


def flat_metrics(summary: ArmsSummary) -> dict[str, float]:
    """The numbers for the tracker: `eval/<metric>` of the main arm, `eval/<metric>/<arm>` of every arm with its
    interval and what the main arm is ahead by, `eval/<metric>/<slice>`, `eval/contribution/<modality>`: full minus
    shuffled, `eval/<metric>/<arm>/<condition>`."""
    flat: dict[str, float] = {}
    for metric, lines in summary.lines.items():
        flat[f"eval/{metric}"] = lines[summary.main].mean.value
        for arm, line in lines.items():
            flat |= with_interval(f"eval/{metric}/{arm}", line.mean)
            if line.behind is not None:
                flat |= with_interval(f"eval/{metric}/{arm}/main-minus", line.behind)
        if metric in summary.oracle:
            flat[f"eval/{metric}/oracle"] = summary.oracle[metric]
    for name, lines in summary.slices.items():
        flat[f"eval/{summary.headline}/{name}"] = lines[summary.main].mean.value
        for arm, line in lines.items():
            flat |= with_interval(f"eval/{summary.headline}/{name}/{arm}", line.mean)
    for one in summary.knock_outs:
        condition = one.condition.replace(":", "-")
        flat |= with_interval(f"eval/{summary.headline}/{one.arm}/{condition}", one.left)
        kind, _, modality = one.condition.partition(":")
        if one.arm == summary.main and kind == "shuffled":
            flat[f"eval/contribution/{modality}"] = one.worth.value
    return {name: value for name, value in flat.items() if not isnan(value)}


def with_interval(name: str, found: Estimate) -> dict[str, float]:
    """The value by a name, and the ends of its interval, where there is one, by that name with `/low` and `/high`."""
    flat = {name: found.value}
    return flat | ({f"{name}/low": found.low, f"{name}/high": found.high} if found.has_interval else {})


def metric_names(ks: Sequence[int]) -> list[str]:
    """The metrics of `retrieval.retrieval_scores`, the headline first."""
    return [*(f"recall_at_{k}" for k in ks), *(f"ndcg_at_{k}" for k in ks), "mrr"]


CUT = {"recall": "R", "ndcg": "NDCG", "hr": "HR"}
NAMES = {
    "mrr": "MRR", "balanced_accuracy": "balanced accuracy", "roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "f1": "F1",
    "within_user_auc": "AUC within users", "false_positive_rate": "false-positive rate", "log_loss": "log-loss",
    "log_loss_uncalibrated": "log-loss, uncalibrated", "calibration_error": "calibration error",
    "calibration_error_uncalibrated": "calibration error, uncalibrated",
    "same_pair_both": "both of a pair", "same_pair": "one of a pair",
    "bleu_4": "BLEU-4", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L",
    "feature_hit": "feature named", "feature_coverage": "features covered", "distinct_1": "distinct-1",
    "distinct_2": "distinct-2", "unique_sentences": "unique explanations",
}  # fmt: skip
LESS_IS_BETTER = ("false_positive_rate", "log_loss", "calibration_error")


DIGITS = {"log_loss": 3, "value_per_1000": 1}
"""Of metrics that are no shares."""


def less_is_better(metric: str) -> bool:
    """Whether an arm is ahead by being below."""
    return metric.startswith(LESS_IS_BETTER)


def digits(metric: str) -> int | None:
    """Digits behind the point of a metric that is no share; None for a share, which is told in per cent."""
    return next((count for name, count in DIGITS.items() if metric.startswith(name)), None)


def number(metric: str, value: float, sign: str = "") -> str:
    """`24.1` of a share, in per cent, `0.523` of a log-loss; sign: `+` for differences."""
    places = digits(metric)
    return f"{100 * value:{sign}.1f}" if places is None else f"{value:{sign},.{places}f}"


def label(metric: str) -> str:
    """`R@10`, `NDCG@10`, `MRR`, `balanced accuracy, random`, `recall at false-positive rate 1%`."""
    name, _, part = metric.partition("/")
    kind, _, cut = name.partition("_at_")
    what, _, rate = cut.rpartition("_")
    told = NAMES.get(kind, kind)
    if what:
        told = f"{told} at {NAMES.get(what, what)} {100 * float(rate):g}%"
    elif cut:
        told = f"{CUT.get(kind, told)}@{int(cut):,}"
    return f"{told}, {part.replace('sampled-', 'sampled@')}" if part else told


def table_text(summary: ArmsSummary, confidence: float, shown: Sequence[str] | None = None) -> str:
    """The arms as a table for a terminal: metrics side by side, and how far the main arm is ahead by the headline.

    shown: the metrics, where not all of the summary but the longer NDCGs.
    """
    few = [metric for metric in summary.metrics if not metric.startswith("ndcg_at_") or metric == "ndcg_at_10"]
    shown = few if shown is None else [metric for metric in shown if metric in summary.metrics]
    head = ["arm", *(label(metric) for metric in shown), f"{summary.main} minus it, {label(summary.headline)}"]
    lines = [head]
    for arm in summary.arms:
        cells = [(metric, summary.lines[metric][arm.name]) for metric in shown]
        told = [share(cells[0][1].mean, cells[0][0]), *(_bare(metric, cell.mean) for metric, cell in cells[1:])]
        lines.append([arm.label, *told, gain(cells[0][1].behind, cells[0][0])])
    if summary.oracle:
        lines.append(["oracle", *(f"{100 * summary.oracle[m]:.1f}" if m in summary.oracle else "" for m in shown), ""])
    widths = [max(len(line[k]) for line in lines) for k in range(len(head))]
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    rule = "  ".join("-" * width for width in widths)
    few_shares = "" if all(digits(metric) is None for metric in shown) else ", shares in"
    about = f"{summary.about};{few_shares} per cent, [{confidence:.0%} interval]"
    return "\n".join([rows[0], rule, *rows[1:], "", about, ""])


def share(found: Estimate, metric: str = "") -> str:
    """`24.1 [22.0, 26.3]`, as `number` tells it, `24.1` where there is no interval."""
    if isnan(found.value):
        return ""
    text = number(metric, found.value)
    return f"{text} [{number(metric, found.low)}, {number(metric, found.high)}]" if found.has_interval else text


def gain(found: Estimate | None, metric: str = "") -> str:
    """`+2.1 [0.4, 3.9] *`, of a share in points; the star where the interval excludes zero."""
    if found is None or isnan(found.value):
        return ""
    text = number(metric, found.value, "+")
    if not found.has_interval:
        return text
    ends = f"{number(metric, found.low)}, {number(metric, found.high)}"
    return f"{text} [{ends}]{' *' if found.excludes_zero else ''}"


def _bare(metric: str, found: Estimate) -> str:
    return "" if isnan(found.value) else number(metric, found.value)
