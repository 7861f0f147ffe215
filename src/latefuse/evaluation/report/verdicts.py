"""The page of a relevance judge: rows of numbers and ready charts for the template, which holds all words and looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latefuse.evaluation.arms_summary import ArmsSummary, label
from latefuse.evaluation.calibration import Bin
from latefuse.evaluation.judge_verdict import CHANCE, Calibrated, findings
from latefuse.evaluation.report import arm_parts
from latefuse.evaluation.report.page import Page, render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.retrieval_verdict import percent
from latefuse.evaluation.rulings import Ruling
from latefuse.evaluation.stress import Freely, Stressed
from latefuse.evaluation.verdict_values import METRICS, PAIRS

BALANCED = "balanced_accuracy/"
MEANINGS = {
    "balanced_accuracy": "the mean of two shares: of relevant rows called relevant, of others called not relevant",
    "roc_auc": "how often a relevant row has a higher probability than one that is not, ties half",
    "accuracy": "share of right verdicts among those that were given",
    "abstained": "share of rows that are left to people",
    "same_pair": "share of right verdicts on pictures and texts that are asked about by rules that disagree",
    "same_pair_both": "share of those pictures and texts that are judged right by all their rules",
}


@dataclass(frozen=True)
class Answer:
    """What one arm said of a row."""

    arm: str
    group: str
    verdict: str
    probability: float
    right: bool | None


@dataclass(frozen=True)
class VerdictCard:
    """A test row, what is known of it, and what the arms said. picture: a data URI or None."""

    id: str
    task: str
    instruction: str
    text: str
    label: str
    negative: str
    picture: str | None
    answers: Sequence[Answer] = ()
    rationale: str = ""


@dataclass(frozen=True, kw_only=True)
class VerdictReport(Page):
    """Everything the page shows.

    blind_arms: those that read one side alone. calibrated: arm -> how far its probabilities are off; bins: of the main
    arm. rulings: task -> what was chosen for the main arm on validation. speeds: arm -> verdicts a second.
    """

    summary: ArmsSummary
    blind_arms: Sequence[str] = ()
    calibrated: Mapping[str, Calibrated] = field(default_factory=dict)
    bins: Sequence[Bin] = ()
    rulings: Mapping[str, Ruling] = field(default_factory=dict)
    freely: Freely | None = None
    stressed: Sequence[Stressed] = ()
    speeds: Mapping[str, float] = field(default_factory=dict)
    cards: Sequence[VerdictCard] = ()


def build(report: VerdictReport) -> str:
    """The page as one string of HTML that asks nothing of any network."""
    summary = report.summary
    conditions = arm_parts.conditions(summary)
    main = [metric for metric in summary.metrics if metric in (*METRICS, *PAIRS)]
    parts = [metric for metric in summary.metrics if metric.startswith(BALANCED)]
    return render(
        "verdicts.html.j2",
        report=report,
        summary=summary,
        headline=label(summary.headline),
        main=summary.arm(summary.main).label,
        seeds=summary.lines[summary.headline][summary.main].mean.seeds,
        findings=findings(summary, report.blind_arms, report.calibrated, report.freely, report.stressed),
        chart=arm_parts.chart(summary, CHANCE),
        table=arm_parts.table(summary, main, _by_lot),
        parts_table=_named(arm_parts.table(summary, parts, _by_lot)) if parts else None,
        knocked=[arm_parts.knocked(summary, arm, conditions, CHANCE) for arm in arm_parts.main_first(summary)],
        bins=[arm_parts.reliable(one) for one in report.bins],
        calibrated=[(arm, report.calibrated[arm.name]) for arm in summary.arms if arm.name in report.calibrated],
        rulings=[_ruling(task, one) for task, one in report.rulings.items()],
        costs=[(arm.label, cost) for cost in report.costs for arm in summary.arms if arm.name == cost.name],
        speeds=[(arm, report.speeds[arm.name]) for arm in summary.arms if arm.name in report.speeds],
        manifest=provenance(report.manifest),
        meanings=[{"label": label(metric), "meaning": MEANINGS[metric]} for metric in main],
        percent=percent,
    )


def _by_lot(metric: str) -> float | None:
    """What a coin reaches."""
    return CHANCE if metric.startswith(("balanced_accuracy", "roc_auc", "accuracy")) or metric == "same_pair" else None


def _named(table: dict[str, Any]) -> dict[str, Any]:
    """Columns by what they are of: all are balanced accuracies."""
    return {**table, "heads": [head.partition(", ")[2] for head in table["heads"]]}


def _ruling(task: str, one: Ruling) -> dict[str, str]:
    """What was chosen on validation rows, in words."""
    cut, band, fitted = one.threshold, one.band, one.calibration
    return {
        "task": task or "all",
        "calibration": f"scale {fitted.scale:.2f}, shift {fitted.shift:+.2f}" if fitted else "none",
        "threshold": f"{cut.value:.3f}" if cut else "0.500",
        "there": f"F1 {percent(cut.f1)}, precision {percent(cut.precision)}, recall {percent(cut.recall)}"
        if cut
        else "",
        "band": f"{band.low:.3f} to {band.high:.3f}: {percent(band.share)} of the rows" if band else "",
        "told": " ".join(one.told),
    }
