"""The page of personalised prompts: each kind of question with its arms, then rows as they were asked and answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from latefuse.evaluation import next_item
from latefuse.evaluation.arms_summary import label
from latefuse.evaluation.personal_summary import PersonalSummary
from latefuse.evaluation.redraw import FEWEST
from latefuse.evaluation.report import arm_parts
from latefuse.evaluation.report.page import Page, render
from latefuse.evaluation.report.provenance import provenance
from latefuse.evaluation.retrieval_verdict import COLD, blind, chance
from latefuse.evaluation.verdict import Sentence

MEANINGS = {
    "hr": "share of questions whose item is among the first {k}; items of the history do not compete, ties count as "
    "missed",
    "ndcg": "the same, an item worth 1 / log2(place + 1), so 1 for the first place",
    "bleu_4": "BLEU of all explanations on words, sacrebleu with tokens 13a in lower case",
    "rouge_1": "F1 of words shared with the true explanation, rouge-score; the mean over rows",
    "rouge_2": "F1 of shared pairs of words",
    "rouge_l": "F1 of the longest common subsequence of words",
    "feature_hit": "share of explanations that name the feature word of their row",
    "feature_coverage": "share of the features asked for that any explanation names",
    "distinct_1": "different words among all words written",
    "distinct_2": "different pairs of words among all pairs written",
    "unique_sentences": "different explanations among all",
}
SLICES = {
    COLD: "the item asked for stands in no training history",
    next_item.NO_PICTURE: "the item asked for has no picture: a learned one stands for it",
    next_item.SHORT: "histories up to the lower third in length",
    next_item.LONG: "all longer histories",
}
CUT = 160
"""Letters of a text that are shown of a row."""


@dataclass(frozen=True)
class Asked:
    """One kind of question. name: as a heading, `next item, as in training (A-3)`. findings: see `personal_verdict`.
    note: one sentence on how it was asked."""

    name: str
    summary: PersonalSummary
    findings: Sequence[Sentence] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PersonalReport(Page):
    """Everything the page shows.

    asked: kinds of questions, the main one first. rows: examples, each a dictionary with `history`, a list of items
    oldest first, `truth`, an item, `top`, the first items answered, best first, and, each where there is one, `user`,
    `place` of the truth from 1, `feature`, `written` and `true`, the explanations. An item is a dictionary with `id`,
    and, where known, `title` and `picture`, a data URI. skipped: controls that could not be measured, and why.
    """

    asked: Sequence[Asked]
    rows: Sequence[Mapping[str, Any]] = ()
    skipped: Sequence[str] = ()
    slice_notes: Mapping[str, str] = field(default_factory=dict)


def build(report: PersonalReport) -> str:
    """The page as one string of HTML that asks nothing of any network. Raises ValueError for an example row without a
    history, truth or top, or a picture that is no data URI."""
    shown = [_asked(report, one, number) for number, one in enumerate(report.asked)]
    arms = {arm.name: arm for one in report.asked for arm in one.summary.arms}
    metrics = dict.fromkeys(metric for one in report.asked for metric in one.summary.metrics)
    return render(
        "personal.html.j2",
        report=report,
        asked=shown,
        arms=list(arms.values()),
        seeds=max((one["seeds"] for one in shown), default=1),
        cards=[card(row, number) for number, row in enumerate(report.rows)],
        costs=[(arms[cost.name].label, cost) for cost in report.costs if cost.name in arms],
        manifest=provenance(report.manifest),
        meanings=[{"label": label(metric), "meaning": _meaning(metric)} for metric in metrics],
        fewest_users=FEWEST,
    )


def card(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """An example row for the template; `number` is for errors."""
    if missing := [key for key in ("history", "truth", "top") if key not in row]:
        raise ValueError(f"example row {number}: no {', '.join(missing)}")
    truth = _item(row["truth"], number)
    history, top = ([_item(one, number) for one in row[key]] for key in ("history", "top"))
    for one in top:
        one["true"] = one["id"] == truth["id"]
    texts = {key: str(row.get(key) or "") for key in ("user", "feature", "written", "true")}
    return {"history": history, "truth": truth, "top": top, "place": row.get("place"), **texts}


def _asked(report: PersonalReport, one: Asked, number: int) -> dict[str, Any]:
    """One kind of question: bars of the headline, a table for each protocol, slices, knock-outs."""
    summary = one.summary
    by_lot, conditions = blind(summary, summary.headline), arm_parts.conditions(summary)
    tables = [
        (words, arm_parts.table(summary, some, lambda metric: chance(metric, summary.pool)))
        for words, some in _protocols(summary)
    ]
    return {
        "name": one.name,
        "note": one.note,
        "anchor": f"asked-{number}",
        "findings": one.findings,
        "summary": summary,
        "main": summary.arm(summary.main).label,
        "headline": label(summary.headline),
        "seeds": summary.lines[summary.headline][summary.main].mean.seeds,
        "chart": arm_parts.chart(summary, by_lot),
        "tables": tables,
        "slices": arm_parts.slices(summary, SLICES | dict(report.slice_notes)),
        "knocked": [arm_parts.knocked(summary, arm, conditions, by_lot) for arm in arm_parts.main_first(summary)],
    }


def _protocols(summary: PersonalSummary) -> list[tuple[str, list[str]]]:
    """Metrics over everything, and those over samples of each size, with words for each; NDCG@1 is HR@1."""
    found: dict[str, list[str]] = {}
    for metric in summary.metrics:
        name, _, part = metric.partition("/")
        if name != "ndcg_at_1":
            found.setdefault(part, []).append(metric)
    words = "Over the whole catalogue" if summary.pool else "By every metric"
    told = {part: f"Over {part.removeprefix('sampled-')} stored candidates" if part else words for part in found}
    return [(told[part], some) for part, some in found.items()]


def _meaning(metric: str) -> str:
    name, _, part = metric.partition("/")
    kind, _, k = name.partition("_at_")
    told = MEANINGS[kind].format(k=k)
    return (
        f"{told}; among {part.removeprefix('sampled-')} stored candidates, the item and others drawn" if part else told
    )


def _item(item: Mapping[str, Any], number: int) -> dict[str, Any]:
    picture, name = item.get("picture"), str(item["id"])
    if picture is not None and not str(picture).startswith("data:"):
        raise ValueError(f"example row {number}: the picture of {name} is no data URI; a page loads nothing")
    return {"id": name, "title": str(item.get("title") or name)[:CUT], "picture": picture, "true": False}
