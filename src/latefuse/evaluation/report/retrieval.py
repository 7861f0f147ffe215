"""The page of item embeddings: rows of numbers and ready charts for the template, which holds all words and looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

from markupsafe import Markup

from latefuse.config import MODALITIES
from latefuse.evaluation.cost import Cost
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.report import charts
from latefuse.evaluation.report.neighbours import NeighbourCard
from latefuse.evaluation.report.page import render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.retrieval_summary import KnockOut, Line, RetrievalSummary, gain, label
from latefuse.evaluation.retrieval_verdict import (
    NOUNS,
    Lifts,
    above_chance,
    blind,
    blind_name,
    chance,
    findings,
    percent,
)

KINDS = ("only", "shuffled", "absent", "constant", "noise")
WHAT = {"only": "{} only", "noise": "{} as noise"}  # the others: the noun and the kind
MEANINGS = {
    "recall": "share of a query's true partners among the {k} nearest items of the pool",
    "ndcg": "the same {k} nearest with a partner worth less the later it stands, 1 for all partners at the top",
    "mrr": "1 / rank of the first true partner, the mean over queries",
}


@dataclass(frozen=True)
class RetrievalReport:
    """Everything the page shows.

    flows: ready `<svg>` markup, put in as it is, of how saliency flows in the layers of the arms; no_flows: why there
    is none. facts: name -> text, for the head; repeat: name -> text, how to run it again. slice_notes: slice -> what it
    is. shuffled_arms, text_arm, lifts: the controls for content, see `retrieval_verdict.findings`. costs: of jobs; of
    what is no arm of the summary nothing is shown.
    """

    title: str
    summary: RetrievalSummary
    cards: Sequence[NeighbourCard] = ()
    flows: str = ""
    no_flows: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    costs: Sequence[Cost] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    repeat: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    confidence: float = 0.95
    fewest: int = 50
    slice_notes: Mapping[str, str] = field(default_factory=dict)
    shuffled_arms: Sequence[str] = ()
    text_arm: str = "text-only"
    lifts: Lifts = field(default_factory=dict)


def build(report: RetrievalReport) -> str:
    """The page as one string of HTML that asks nothing of any network."""
    summary = report.summary
    conditions = _conditions(summary)
    return render(
        "retrieval.html.j2",
        report=report,
        summary=summary,
        headline=label(summary.headline),
        main=summary.arm(summary.main).label,
        seeds=summary.lines[summary.headline][summary.main].mean.seeds,
        findings=findings(summary, report.shuffled_arms, report.text_arm, report.lifts),
        chart=_chart(summary),
        table=_table(summary),
        meter=_meter(summary, conditions),
        knocked=[_knocked(summary, arm, conditions) for arm in _main_first(summary)],
        slices=_slices(summary, report.slice_notes),
        cards=[_card(card) for card in report.cards],
        flows=Markup(report.flows),
        costs=[(arm.label, cost) for cost in report.costs for arm in summary.arms if arm.name == cost.name],
        manifest=provenance(report.manifest),
        meanings=[_meaning(metric) for metric in summary.metrics],
    )


def _meaning(metric: str) -> dict[str, str]:
    kind, _, k = metric.partition("_at_")
    return {"label": label(metric), "meaning": MEANINGS[kind].format(k=k)}


def _mark(found: Estimate | None) -> str:
    """'better' where the main arm is shown to be ahead, 'worse' where behind."""
    if found is None or not found.excludes_zero:
        return ""
    return "better" if found.value > 0 else "worse"


def _interval(found: Estimate, rows: int | None = None) -> str:
    """The interval, and how many queries there were where that is not `rows` or allows none."""
    if not found.has_interval:
        return f"n = {found.rows:,}"
    ends = f"{100 * found.low:.1f} – {100 * found.high:.1f}"
    return ends if rows in (None, found.rows) else f"{ends}, n = {found.rows:,}"


def _behind(found: Estimate | None) -> dict[str, str]:
    return {"text": gain(found).removesuffix(" *"), "mark": _mark(found)}


def _at_chance(summary: RetrievalSummary, at: charts.Scale) -> float | None:
    """Where chance stands on a chart, in per cent of its width."""
    by_lot = blind(summary, summary.headline)
    return None if by_lot is None else at(by_lot)


def _chart(summary: RetrievalSummary) -> dict[str, Any]:
    """The headline: a bar per arm, its interval, and what the main arm is ahead by."""
    row, best = summary.lines[summary.headline], summary.oracle.get(summary.headline)
    at = charts.scale([line.mean for line in row.values()], False, [] if best is None else [best])
    lines = []
    for arm in summary.arms:
        mean = row[arm.name].mean
        value, interval = percent(mean.value), _interval(mean, summary.queries)
        lines.append(
            {
                "arm": arm,
                "bar": charts.bar(mean, at, arm.group, best, f"{arm.label}: {value}, {interval}"),
                "value": value,
                "interval": interval,
                "behind": _behind(row[arm.name].behind),
                "reached": "" if not best or isnan(mean.value) else f"{100 * mean.value / best:.0f}%",
            }
        )
    by_lot = blind(summary, summary.headline)
    return {
        "lines": lines,
        "chance": "" if by_lot is None else percent(by_lot),
        "blind": blind_name(summary),
        "at": _at_chance(summary, at),
        "oracle": None if best is None else percent(best),
    }


def _table(summary: RetrievalSummary) -> dict[str, Any]:
    """Arms by metrics, and under them the oracle and chance."""
    shown_ndcg = "ndcg_at_10" if "ndcg_at_10" in summary.metrics else ""
    metrics = [metric for metric in summary.metrics if not metric.startswith("ndcg_at_") or metric == shown_ndcg]
    lines = []
    for arm in summary.arms:
        row = [summary.lines[metric][arm.name] for metric in metrics]
        lines.append({"arm": arm, "cells": [_cell(summary, *pair) for pair in zip(metrics, row, strict=True)]})
    by_lot = [chance(metric, summary.pool) for metric in metrics]
    feet = {
        "oracle": [percent(summary.oracle[metric]) if metric in summary.oracle else "" for metric in metrics],
        "chance": ["" if one is None else percent(one) for one in by_lot],
    }
    names = [label(metric) for metric in metrics]
    return {"heads": names, "lines": lines, "feet": {name: cells for name, cells in feet.items() if any(cells)}}


def _cell(summary: RetrievalSummary, metric: str, line: Line) -> dict[str, Any]:
    means = [other.mean.value for other in summary.lines[metric].values()]
    return {
        "value": percent(line.mean.value),
        "interval": _interval(line.mean, summary.queries),
        "behind": _behind(line.behind),
        "best": line.mean.value >= max((mean for mean in means if not isnan(mean)), default=0.0),
    }


def _conditions(summary: RetrievalSummary) -> list[str]:
    """Every condition once: by kind, then by modality, what this page does not know last."""

    def place(condition: str) -> tuple[int, int]:
        kind, _, modality = condition.partition(":")
        modalities: Sequence[str] = MODALITIES
        return (
            KINDS.index(kind) if kind in KINDS else len(KINDS),
            modalities.index(modality) if modality in modalities else len(modalities),
        )

    return sorted(dict.fromkeys(one.condition for one in summary.knock_outs), key=place)


def _what(condition: str) -> str:
    """'picture only', 'clip shuffled', 'text as noise'."""
    kind, _, modality = condition.partition(":")
    return WHAT.get(kind, f"{{}} {kind}").format(NOUNS.get(modality, modality)).strip()


def _main_first(summary: RetrievalSummary) -> list[str]:
    """The arms that lost a modality."""
    knocked = {one.arm for one in summary.knock_outs}
    arms = sorted(summary.arms, key=lambda arm: arm.group != "main")
    return [arm.name for arm in arms if arm.name in knocked]


def _of(summary: RetrievalSummary, arm: str) -> dict[str, KnockOut]:
    return {one.condition: one for one in summary.knock_outs if one.arm == arm}


def _meter(summary: RetrievalSummary, conditions: Iterable[str]) -> dict[str, Any]:
    """Arms by what tells most: what each modality finds alone, and what shuffling it costs."""
    shown = [condition for condition in conditions if condition.startswith(("only:", "shuffled:"))]
    lines = []
    for name in _main_first(summary):
        full, by_condition = summary.lines[summary.headline][name].mean, _of(summary, name)
        cells = [_read(summary, by_condition.get(condition)) for condition in shown]
        lines.append({"arm": summary.arm(name), "value": percent(full.value), "cells": cells})
    heads = [{"name": _what(condition), "alone": condition.startswith("only:")} for condition in shown]
    return {"heads": heads, "lines": lines}


def _read(summary: RetrievalSummary, one: KnockOut | None) -> dict[str, str]:
    """A cell of the meter: by a modality alone its value, worse where not above chance; shuffled what that costs."""
    if one is None:
        return {"value": "", "interval": "", "mark": ""}
    if one.condition.startswith("only:"):
        above = above_chance(one.left, blind(summary, summary.headline))
        mark = {True: "", False: "worse", None: ""}[above]
        return {"value": percent(one.left.value), "interval": _interval(one.left), "mark": mark}
    worth = one.worth
    mark = _mark(worth) or ("worse" if worth.has_interval else "")
    value = "–" if isnan(worth.value) else f"{100 * worth.value:+.1f}"
    return {"value": value, "interval": _interval(worth), "mark": mark}


def _knocked(summary: RetrievalSummary, name: str, conditions: Iterable[str]) -> dict[str, Any]:
    """One arm under every condition, all arms on one scale."""
    every = [found for one in summary.knock_outs for found in (one.full, one.left)]
    at, by_condition = charts.scale(every, False), _of(summary, name)
    lines = []
    for condition in (condition for condition in conditions if condition in by_condition):
        one, what = by_condition[condition], _what(condition)
        full, left = percent(one.full.value), percent(one.left.value)
        said = f"{summary.arm(name).label}, {what}: from {full} to {left}"
        empty = isnan(one.full.value) or isnan(one.left.value)
        chart = charts.svg([], f"{said}, not measured") if empty else charts.drop(one.full, one.left, at, said)
        worth = {"text": gain(one.worth).removesuffix(" *"), "mark": _mark(one.worth)}
        lines.append({"what": what, "chart": chart, "left": left, "full": full, "worth": worth})
    return {"arm": summary.arm(name), "lines": lines, "at": _at_chance(summary, at)}


def _slices(summary: RetrievalSummary, notes: Mapping[str, str]) -> dict[str, Any]:
    """Arms by slices of the headline."""
    lines = []
    for arm in summary.arms if summary.slices else ():
        row = [(name, lines_of.get(arm.name)) for name, lines_of in summary.slices.items()]
        cells = [
            {
                "value": percent(line.mean.value),
                "interval": _interval(line.mean, summary.sizes.get(name)),
                "behind": _behind(line.behind),
            }
            if line
            else None
            for name, line in row
        ]
        lines.append({"arm": arm, "cells": cells})
    heads = [{"name": name, "rows": f"{summary.sizes.get(name, 0):,}"} for name in summary.slices]
    return {"heads": heads, "lines": lines, "notes": {n: notes[n] for n in summary.slices if n in notes}}


def _card(card: NeighbourCard) -> dict[str, Any]:
    """A query and its rows of neighbours with the rank of the true partner."""
    rows = [{"name": name, "items": items, "rank": card.ranks.get(name)} for name, items in card.found.items()]
    return {"query": card.query, "partner": card.partner, "rows": rows}
