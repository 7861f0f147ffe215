"""From the answers of every arm of a ranker to what a report says of them, with intervals over redrawn users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np

from latefuse.config_rank import Ranking
from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, Line, MeasuredArm, flat_metrics, with_interval
from latefuse.evaluation.calibration import Floats, Ints, Truth
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.rank_values import Answers, auc, measured, metric_names, order_names
from latefuse.evaluation.redraw import Redraw

Lines = dict[str, dict[str, Line]]
WITHOUT_INTERVAL = "calibration_error"
"""Redrawn rows are off by more than the rows are: what chance makes of it is told by a perfect model beside it."""


@dataclass(frozen=True)
class RankSummary(ArmsSummary):
    """parts: slice -> metric -> arm -> line; that of the headline is in `slices` too. users: how many there are."""

    parts: Mapping[str, Mapping[str, Mapping[str, Line]]] = field(default_factory=dict)
    users: int = 0


def summarise(
    task: str,
    arms: Sequence[MeasuredArm],
    answers: Mapping[str, Sequence[Answers]],
    knocked: Mapping[str, Sequence[Floats]],
    truth: Truth,
    slices: Mapping[str, Ints],
    redraw: Redraw,
    how: Ranking,
) -> RankSummary:
    """All estimates. answers: arm -> what it says of the n test rows under each seed. knocked: condition -> scores
    (n,) of the main arm under each seed. truth: (n,) whether liked. slices: name -> places of rows.
    """
    here = [arm for arm in arms if arm.name in answers]
    names, main, every = metric_names(how), next(arm.name for arm in here if arm.group == "main"), np.arange(len(truth))
    lines = _lines(answers, every, main, truth, redraw, how)
    parts = {name: _lines(answers, rows, main, truth, redraw, how) for name, rows in slices.items() if len(rows)}
    return RankSummary(
        task=task,
        main=main,
        arms=here,
        metrics=names,
        rows=len(truth),
        about=f"{len(truth):,} rows of {redraw.users:,} users, {truth.mean():.1%} liked",
        lines=lines,
        knock_outs=_knock_outs(answers[main], knocked, main, truth, redraw),
        slices={name: found[names[0]] for name, found in parts.items()},
        sizes={name: len(slices[name]) for name in parts},
        parts=parts,
        users=redraw.users,
    )


def flat(summary: RankSummary, how: Ranking) -> dict[str, float]:
    """The numbers for the tracker: those of `flat_metrics`, `eval/<metric>/<slice>` of the main arm for every metric
    and, for those of the order, of all arms, with what the main arm is ahead by."""
    found = flat_metrics(summary)
    for name, lines in summary.parts.items():
        found |= {f"eval/{metric}/{name}": of_arms[summary.main].mean.value for metric, of_arms in lines.items()}
        for metric in order_names(how):
            for arm, line in lines[metric].items():
                found |= with_interval(f"eval/{metric}/{name}/{arm}", line.mean)
                if line.behind is not None:
                    found |= with_interval(f"eval/{metric}/{name}/{arm}/main-minus", line.behind)
    return {name: value for name, value in found.items() if not isnan(value)}


def _lines(
    answers: Mapping[str, Sequence[Answers]], rows: Ints, main: str, truth: Truth, redraw: Redraw, how: Ranking
) -> Lines:
    """Metric -> arm -> line, on some of the rows."""
    found = {arm: _seeds(seeds, rows, truth, redraw, how) for arm, seeds in answers.items()}

    def line(metric: str, arm: str) -> Line:
        best, values = found[main][metric], found[arm][metric]
        behind = None if arm == main else _told(metric, redraw.difference(best, values, rows))
        return Line(_told(metric, redraw.estimate(values, rows)), behind)

    return {metric: {arm: line(metric, arm) for arm in found} for metric in metric_names(how)}


def _seeds(seeds: Sequence[Answers], rows: Ints, truth: Truth, redraw: Redraw, how: Ranking) -> dict[str, Floats]:
    """Metric -> (seeds, 1 + draws)."""
    each = [measured(redraw, rows, truth[rows], one.at(rows), how) for one in seeds]
    return {metric: np.stack([one[metric] for one in each]) for metric in each[0]}


def _told(metric: str, found: Estimate) -> Estimate:
    without = metric.startswith(WITHOUT_INTERVAL)
    return Estimate(found.value, nan, nan, found.rows, found.seeds) if without else found


def _knock_outs(
    answers: Sequence[Answers], knocked: Mapping[str, Sequence[Floats]], main: str, truth: Truth, redraw: Redraw
) -> list[KnockOut]:
    every, found = np.arange(len(truth)), []
    full = np.stack([auc(redraw, truth, one.scores) for one in answers]) if knocked else np.zeros((0, 0))
    for condition, seeds in knocked.items():
        left = np.stack([auc(redraw, truth, scores) for scores in seeds])
        means = redraw.estimate(full, every), redraw.estimate(left, every)
        found.append(KnockOut(main, condition, *means, redraw.difference(full, left, every)))
    return found
