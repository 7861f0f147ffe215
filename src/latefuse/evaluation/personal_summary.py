"""From what arms answered to one kind of question to what a report says of it, with intervals over redrawn users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan

import numpy as np

from latefuse.evaluation.arms_summary import (
    NOTHING,
    ArmsSummary,
    KnockOut,
    Line,
    MeasuredArm,
    flat_metrics,
    with_interval,
)
from latefuse.evaluation.calibration import Floats, Ints
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.retrieval_verdict import ALL
from latefuse.evaluation.sums import Sums, redrawn, stacked

Measured = Mapping[str, Sequence[Mapping[str, Sums]]]
"""Arm -> what each seed measured: metric -> sums over the same n rows."""
Lines = dict[str, dict[str, Line]]


@dataclass(frozen=True)
class PersonalSummary(ArmsSummary):
    """parts: slice -> metric -> arm -> line; that of the headline is in `slices` too. users: how many there are."""

    parts: Mapping[str, Mapping[str, Mapping[str, Line]]] = field(default_factory=dict)
    users: int = 0


def summarise(
    task: str,
    arms: Sequence[MeasuredArm],
    measured: Measured,
    metrics: Sequence[str],
    slices: Mapping[str, Ints],
    redraw: Redraw,
    knocked: Mapping[str, Mapping[str, Sequence[Sums]]] | None = None,
    oracle: Mapping[str, float] | None = None,
    pool: float = 0,
) -> PersonalSummary:
    """All estimates of one kind of question.

    metrics: the headline first; an arm may lack some. slices: name -> places of rows. redraw: of the rows' users.
    knocked: arm -> condition -> the headline under each seed. oracle: metric -> what the true answers reach. pool: how
    many items there are to find. Raises ValueError where the main arm or its headline is not measured.
    """
    here = [arm for arm in arms if arm.name in measured]
    main = next((arm.name for arm in here if arm.group == "main"), None)
    if main is None or metrics[0] not in measured[main][0]:
        raise ValueError(f"{task}: the main arm has no {metrics[0]}")
    rows = np.arange(len(redraw.group))
    lines = _lines(measured, metrics, rows, main, redraw)
    parts = {name: _lines(measured, metrics, places, main, redraw) for name, places in slices.items() if len(places)}
    return PersonalSummary(
        task=task,
        main=main,
        arms=here,
        metrics=metrics,
        rows=len(rows),
        about=f"{len(rows):,} questions of {redraw.users:,} users",
        lines=lines,
        knock_outs=_knock_outs(measured, knocked or {}, metrics[0], redraw),
        slices={name: found[metrics[0]] for name, found in parts.items()},
        sizes={name: len(slices[name]) for name in parts},
        oracle={metric: value for metric, value in (oracle or {}).items() if metric in metrics},
        pool=pool,
        parts=parts,
        users=redraw.users,
    )


def flat(summary: PersonalSummary, place: str = "") -> dict[str, float]:
    """The numbers for the tracker: those of `flat_metrics`, and `eval/<metric>/<slice>` of the main arm for every
    metric, with what it is ahead of each arm by. place: stands behind `eval/`, for questions beside the main one."""
    found = flat_metrics(summary)
    for name, part in summary.parts.items():
        for metric, lines in part.items():
            found[f"eval/{metric}/{name}"] = lines[summary.main].mean.value
            for arm, line in lines.items():
                if line.behind is not None:
                    found |= with_interval(f"eval/{metric}/{name}/{arm}/main-minus", line.behind)
    head = f"eval/{place}/" if place else "eval/"
    return {head + name.removeprefix("eval/"): value for name, value in found.items() if not isnan(value)}


def between(a: Sequence[Sums], b: Sequence[Sums], redraw: Redraw, rows: Ints | None = None) -> Estimate:
    """a - b on the same users and, where there are as many, the same seeds: two arms, or one asked in two ways."""
    rows = np.arange(len(redraw.group)) if rows is None else rows
    return redraw.difference(stacked(a, redraw, rows), stacked(b, redraw, rows), _known(a, _known(b, rows)))


def lifts_over_text(
    measured: Measured,
    metric: str,
    shuffled_arms: Sequence[str],
    text_arm: str,
    slices: Mapping[str, Ints],
    redraw: Redraw,
) -> dict[str, dict[str, Estimate]]:
    """Arm with shuffled pictures -> slice, ALL for all rows -> what it finds more than the text-only arm, as
    `retrieval_verdict.findings` reads it. Empty where an arm was not measured."""
    if text_arm not in measured:
        return {}
    places = {ALL: np.arange(len(redraw.group)), **slices}
    words = [seed[metric] for seed in measured[text_arm]]
    return {
        arm: {name: between([seed[metric] for seed in measured[arm]], words, redraw, rows)
              for name, rows in places.items() if len(rows)}
        for arm in shuffled_arms if arm in measured
    }  # fmt: skip


def _lines(measured: Measured, metrics: Sequence[str], rows: Ints, main: str, redraw: Redraw) -> Lines:
    """Metric -> arm -> line, on some of the rows."""
    drawn = {arm: _seeds(seeds, metrics, rows, redraw) for arm, seeds in measured.items()}

    def line(metric: str, arm: str) -> Line:
        best, values = drawn[main].get(metric), drawn[arm].get(metric)
        if values is None:
            return Line(NOTHING, None if arm == main else NOTHING)
        known = _known([seed[metric] for seed in measured[arm]], rows)
        mean = redraw.estimate(values, known)
        if arm == main:
            return Line(mean)
        return Line(mean, NOTHING if best is None else redraw.difference(best, values, known))

    return {metric: {arm: line(metric, arm) for arm in measured} for metric in metrics}


def _seeds(
    seeds: Sequence[Mapping[str, Sums]], metrics: Sequence[str], rows: Ints, redraw: Redraw
) -> dict[str, Floats]:
    """Metric -> (seeds, 1 + draws), of those that were measured."""
    here = [metric for metric in metrics if all(metric in seed for seed in seeds)]
    each = [redrawn({metric: seed[metric] for metric in here}, redraw, rows) for seed in seeds]
    return {metric: np.stack([one[metric] for one in each]) for metric in here}


def _known(seeds: Sequence[Sums], rows: Ints) -> Ints:
    """Those of the rows that have a say in it under any seed."""
    known = np.any([seed.known[rows] for seed in seeds], axis=0)
    return rows[known]


def _knock_outs(
    measured: Measured, knocked: Mapping[str, Mapping[str, Sequence[Sums]]], headline: str, redraw: Redraw
) -> list[KnockOut]:
    every, found = np.arange(len(redraw.group)), []
    for arm, conditions in knocked.items():
        full = stacked([seed[headline] for seed in measured[arm]], redraw, every) if conditions else None
        for condition, seeds in conditions.items():
            assert full is not None
            left = stacked(seeds, redraw, every)
            means = redraw.estimate(full, every), redraw.estimate(left, every)
            found.append(KnockOut(arm, condition, *means, redraw.difference(full, left, every)))
    return found
