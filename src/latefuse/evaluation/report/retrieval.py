"""The page of item embeddings: rows of numbers and ready charts for the template, which holds all words and looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from markupsafe import Markup

from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, label
from latefuse.evaluation.report import arm_parts
from latefuse.evaluation.report.neighbours import NeighbourCard
from latefuse.evaluation.report.page import Page, render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.retrieval_verdict import (
    Lifts,
    above_chance,
    blind,
    blind_name,
    chance,
    findings,
    percent,
)

MEANINGS = {
    "recall": "share of a query's true partners among the {k} nearest items of the pool",
    "ndcg": "the same {k} nearest with a partner worth less the later it stands, 1 for all partners at the top",
    "mrr": "1 / rank of the first true partner, the mean over queries",
}


@dataclass(frozen=True, kw_only=True)
class RetrievalReport(Page):
    """Everything the page shows.

    flows: ready `<svg>` markup, put in as it is, of how saliency flows in the layers of the arms; no_flows: why there
    is none. slice_notes: slice -> what it is. shuffled_arms, text_arm, lifts: the controls for content, see
    `retrieval_verdict.findings`. Of a cost that is of no arm of the summary nothing is shown.
    """

    summary: ArmsSummary
    cards: Sequence[NeighbourCard] = ()
    flows: str = ""
    no_flows: str = ""
    slice_notes: Mapping[str, str] = field(default_factory=dict)
    shuffled_arms: Sequence[str] = ()
    text_arm: str = "text-only"
    lifts: Lifts = field(default_factory=dict)


def build(report: RetrievalReport) -> str:
    """The page as one string of HTML that asks nothing of any network."""
    summary = report.summary
    conditions, by_lot = arm_parts.conditions(summary), blind(summary, summary.headline)
    ndcg = "ndcg_at_10" if "ndcg_at_10" in summary.metrics else ""
    metrics = [metric for metric in summary.metrics if not metric.startswith("ndcg_at_") or metric == ndcg]
    return render(
        "retrieval.html.j2",
        report=report,
        summary=summary,
        headline=label(summary.headline),
        main=summary.arm(summary.main).label,
        seeds=summary.lines[summary.headline][summary.main].mean.seeds,
        findings=findings(summary, report.shuffled_arms, report.text_arm, report.lifts),
        chart=arm_parts.chart(summary, by_lot) | {"blind": blind_name(summary)},
        table=arm_parts.table(summary, metrics, lambda metric: chance(metric, summary.pool)),
        meter=_meter(summary, conditions),
        knocked=[arm_parts.knocked(summary, arm, conditions, by_lot) for arm in arm_parts.main_first(summary)],
        slices=arm_parts.slices(summary, report.slice_notes),
        cards=[_card(card) for card in report.cards],
        flows=Markup(report.flows),
        costs=[(arm.label, cost) for cost in report.costs for arm in summary.arms if arm.name == cost.name],
        manifest=provenance(report.manifest),
        meanings=[_meaning(metric) for metric in summary.metrics],
    )


def _meaning(metric: str) -> dict[str, str]:
    kind, _, k = metric.partition("_at_")
    return {"label": label(metric), "meaning": MEANINGS[kind].format(k=k)}


def _meter(summary: ArmsSummary, conditions: Iterable[str]) -> dict[str, Any]:
    """Arms by what tells most: what each modality finds alone, and what shuffling it costs."""
    shown = [condition for condition in conditions if condition.startswith(("only:", "shuffled:"))]
    lines = []
    for name in arm_parts.main_first(summary):
        full, by_condition = summary.lines[summary.headline][name].mean, arm_parts.of(summary, name)
        cells = [_read(summary, by_condition.get(condition)) for condition in shown]
        lines.append({"arm": summary.arm(name), "value": percent(full.value), "cells": cells})
    heads = [{"name": arm_parts.what(condition), "alone": condition.startswith("only:")} for condition in shown]
    return {"heads": heads, "lines": lines}


def _read(summary: ArmsSummary, one: KnockOut | None) -> dict[str, str]:
    """A cell of the meter: by a modality alone its value, worse where not above chance; shuffled what that costs."""
    if one is None:
        return {"value": "", "interval": "", "mark": ""}
    if one.condition.startswith("only:"):
        above = above_chance(one.left, blind(summary, summary.headline))
        mark = {True: "", False: "worse", None: ""}[above]
        return {"value": percent(one.left.value), "interval": arm_parts.interval(one.left), "mark": mark}
    worth = one.worth
    mark = arm_parts.mark(worth) or ("worse" if worth.has_interval else "")
    value = "–" if isnan(worth.value) else f"{100 * worth.value:+.1f}"
    return {"value": value, "interval": arm_parts.interval(worth), "mark": mark}


def _card(card: NeighbourCard) -> dict[str, Any]:
    """A query and its rows of neighbours with the rank of the true partner."""
    rows = [{"name": name, "items": items, "rank": card.ranks.get(name)} for name, items in card.found.items()]
    return {"query": card.query, "partner": card.partner, "rows": rows}
