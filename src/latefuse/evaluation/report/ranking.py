"""The page of a ranker: rows of numbers and ready charts for the template, which holds all words and looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latefuse.config_rank import Ranking
from latefuse.evaluation.arms_summary import label
from latefuse.evaluation.calibration import Bin, Floats
from latefuse.evaluation.money import Offer
from latefuse.evaluation.rank_summary import RankSummary
from latefuse.evaluation.rank_values import VALUES, order_names
from latefuse.evaluation.rank_verdict import CHANCE, Roles, Sure, findings, strictest
from latefuse.evaluation.ranking import COLD_ITEM, COLD_USER, WARM
from latefuse.evaluation.redraw import FEWEST
from latefuse.evaluation.report import arm_parts, curves
from latefuse.evaluation.report.page import Page, render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.retrieval_verdict import percent
from latefuse.evaluation.rulings import Ruling

AT_THRESHOLD = ("precision", "recall", "f1", "false_positive_rate", "log_loss", "log_loss_uncalibrated")
MEANINGS = {
    "roc_auc": "how often a liked row has a higher score than one that is not, ties half; over the rows of all users",
    "within_user_auc": "the same among one user's rows, the mean over users who have rows of both labels, each once",
    "pr_auc": "the mean over liked rows of the precision from their score on (average precision)",
    "false_positive_rate": "share of the rows that are not liked which the threshold calls liked",
    "false_positive_rate_at_recall": "the same at the highest threshold that finds so many of the liked rows",
    "recall_at_false_positive_rate": "share of liked rows found at the lowest threshold that calls only so many of the "
    "others liked",
    "precision": "share of liked ones among the rows that the threshold calls liked",
    "recall": "share of liked rows that the threshold calls liked",
    "f1": "the harmonic mean of precision and recall",
    "log_loss": "minus the logarithm of the probability of what came, in nats, the mean over rows; calibrated",
    "log_loss_uncalibrated": "the same with probabilities as the arm says them",
}
VALUE_HEADS = ("scored", "recommended", "even")
SLICES = {
    COLD_ITEM: "rows whose item stands in no training row",
    COLD_USER: "rows whose user stands in no training row",
    WARM: "rows whose user and item both stand in training rows",
}


@dataclass(frozen=True)
class Count:
    """Rows of a split or slice, and how many of them are liked."""

    name: str
    rows: int
    liked: int


@dataclass(frozen=True)
class Confusion:
    """Test rows at the threshold of validation rows."""

    hits: int
    alarms: int
    misses: int
    rejected: int


@dataclass(frozen=True)
class ArmCurves:
    """An arm under its lowest seed. alarms, recall, precision: (k,) from the highest threshold down. share, value:
    what recommending that share of rows is worth of 1,000; chosen: both at the threshold of validation rows."""

    arm: str
    alarms: Floats
    recall: Floats
    precision: Floats
    share: Floats
    value: Floats
    chosen: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class RankReport(Page):
    """Everything the page shows.

    part: what each trained arm is beside the main one. sure: arm -> how right its probabilities are; bins, ruling,
    offer, confusion: of the main arm under its lowest seed. counts: of splits and slices. drawn: curves of some arms,
    the main one first. everything: what recommending all test rows is worth of 1,000. speeds: arm -> rows a second.
    """

    summary: RankSummary
    how: Ranking
    part: Roles
    sure: Mapping[str, Sure] = field(default_factory=dict)
    bins: Sequence[Bin] = ()
    ruling: Ruling
    offer: Offer
    confusion: Confusion
    counts: Sequence[Count] = ()
    drawn: Sequence[ArmCurves] = ()
    everything: float = 0.0
    speeds: Mapping[str, float] = field(default_factory=dict)


def build(report: RankReport) -> str:
    """The page as one string of HTML that asks nothing of any network."""
    summary, how = report.summary, report.how
    conditions, strict = arm_parts.conditions(summary), strictest(how)
    order = order_names(how)
    notes = SLICES | {name: "rows that lack it" for name in summary.parts if name not in SLICES}
    by_alarms = {name: lines[strict] for name, lines in summary.parts.items()}
    return render(
        "ranking.html.j2",
        report=report,
        summary=summary,
        headline=label(summary.headline),
        strict=label(strict),
        main=summary.arm(summary.main).label,
        seeds=summary.lines[summary.headline][summary.main].mean.seeds,
        findings=findings(summary, report.part, report.sure, how),
        chart=arm_parts.chart(summary, CHANCE),
        table=arm_parts.table(summary, order, _by_lot),
        cut_table=arm_parts.table(summary, AT_THRESHOLD, lambda metric: None),
        money_table=arm_parts.table(summary, VALUES, lambda metric: None) | {"heads": VALUE_HEADS},
        slices=arm_parts.slices(summary, notes),
        alarm_slices=arm_parts.slices(summary, {}, strict, by_alarms),
        knocked=[arm_parts.knocked(summary, arm, conditions, CHANCE) for arm in arm_parts.main_first(summary)],
        roc=_roc(report),
        precision=_precision(report),
        money=_money(report),
        looks=[(look, _label(report, one)) for look, one in enumerate(_shown(report))],
        bins=[arm_parts.reliable(one) for one in report.bins],
        sure=[(arm, report.sure[arm.name]) for arm in summary.arms if arm.name in report.sure],
        chosen=_chosen(report),
        costs=[(arm.label, cost) for cost in report.costs for arm in summary.arms if arm.name == cost.name],
        speeds=[(arm, report.speeds[arm.name]) for arm in summary.arms if arm.name in report.speeds],
        manifest=provenance(report.manifest),
        meanings=[{"label": label(metric), "meaning": _meaning(metric)} for metric in (*order, *AT_THRESHOLD)],
        fewest_users=FEWEST,
        percent=percent,
    )


def _by_lot(metric: str) -> float | None:
    """What scores drawn by lot reach."""
    if metric in ("roc_auc", "within_user_auc"):
        return CHANCE
    return float(metric.rpartition("_")[2]) if "_at_" in metric else None


def _meaning(metric: str) -> str:
    found = MEANINGS.get(metric)
    return found if found is not None else MEANINGS[metric.rpartition("_")[0]]


def _shown(report: RankReport) -> Sequence[ArmCurves]:
    return report.drawn[: curves.LOOKS]


def _label(report: RankReport, one: ArmCurves) -> str:
    return report.summary.arm(one.arm).label


def _roc(report: RankReport) -> Any:
    lines = [curves.Drawn(_label(report, one), look, one.alarms, one.recall) for look, one in enumerate(_shown(report))]
    return curves.plot(lines, "false-positive rate", "recall", "Recall by false-positive rate")


def _precision(report: RankReport) -> Any:
    lines = [
        curves.Drawn(_label(report, one), look, one.recall, one.precision) for look, one in enumerate(_shown(report))
    ]
    return curves.plot(lines, "recall", "precision", "Precision by recall")


def _money(report: RankReport) -> Any:
    lines = [
        curves.Drawn(_label(report, one), look, one.share, one.value, one.chosen)
        for look, one in enumerate(_shown(report))
    ]
    return curves.plot(lines, "share of rows recommended", "value of 1,000 rows scored", "Value by share", share=False)


def _chosen(report: RankReport) -> list[tuple[str, str]]:
    """What validation rows chose for the main arm, in words."""
    fitted, cut, offer = report.ruling.calibration, report.ruling.threshold, report.offer
    nothing = "above all probabilities: nothing is recommended"
    return [
        ("calibration", f"scale {fitted.scale:.2f}, shift {fitted.shift:+.2f}" if fitted else "none"),
        (f"threshold for a false-positive rate of {percent(report.how.target)}", f"{cut.value:.4f}" if cut else "0.5"),
        ("threshold of most value", f"{offer.threshold:.4f}" if offer.threshold <= 1 else nothing),
        ("break-even, loss / (gain + loss)", f"{offer.break_even:.4f}" if offer.break_even <= 1 else nothing),
        *(("told", one) for one in report.ruling.told),
    ]
