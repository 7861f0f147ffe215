"""Plain sentences out of the numbers of a judge: does it judge, does it look, does it follow the rule, is it sure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from latefuse.evaluation.arms_summary import ArmsSummary, label
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.judge_floors import SIMILARITY
from latefuse.evaluation.retrieval_verdict import percent, points
from latefuse.evaluation.stress import Freely, Stressed
from latefuse.evaluation.verdict import Sentence, Tone

CHANCE = 0.5
BLIND = 0.05
"""How far a blind arm may be from chance before the data count as solvable without looking."""


@dataclass(frozen=True)
class Calibrated:
    """Expected calibration error of an arm on test rows; what a perfectly calibrated model would show there, low and
    high its 95% bounds; the mean over seeds."""

    error: float
    perfect: float
    low: float
    high: float
    rows: int


def findings(
    summary: ArmsSummary,
    blind_arms: Sequence[str],
    calibrated: Mapping[str, Calibrated],
    freely: Freely | None,
    stressed: Sequence[Stressed],
) -> list[Sentence]:
    """The findings in the order of their weight. blind_arms: those that read one side alone."""
    main = summary.main
    found = [_judges(summary), *_rivals(summary, blind_arms)]
    found += _follows_the_rule(summary)
    found += _blind(summary, blind_arms)
    if main in calibrated:
        found.append(_sure(summary, calibrated[main]))
    if freely is not None and freely.rows:
        share = freely.agreed / freely.rows
        text = f"Free greedy decoding says the label that scores in {percent(share)} of {freely.rows:,} rows"
        text += f" and something that is no label in {percent(1 - freely.parsed / freely.rows)}."
        found.append(Sentence(text, "open"))
    found += [_moved(one) for one in stressed if one.turned]
    return found


def _judges(summary: ArmsSummary) -> Sentence:
    mean = summary.lines[summary.headline][summary.main].mean
    told = f"{_label(summary, summary.main)} reaches {_with_interval(mean)} {label(summary.headline)}, chance is 50%"
    if not mean.has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open", True)
    tone: Tone = "good" if mean.low > CHANCE else "bad"
    return Sentence(f"{told}." if tone == "good" else f"{told}: that it judges is not shown.", tone, True)


def _rivals(summary: ArmsSummary, blind_arms: Sequence[str]) -> list[Sentence]:
    """The main arm beside floors, and beside the controls that see what it sees."""
    lines, found = summary.lines[summary.headline], []
    for group in ("floor", "control"):
        arms = [arm for arm in summary.arms if arm.group == group and arm.name not in blind_arms]
        pairs = [(arm.label, ahead) for arm in arms if (ahead := lines[arm.name].behind) and not isnan(ahead.value)]
        parts: dict[Tone, list[tuple[str, Estimate]]] = {"good": [], "open": [], "bad": []}
        for name, ahead in pairs:
            parts["open" if not ahead.excludes_zero else "good" if ahead.value > 0 else "bad"].append((name, ahead))
        words = {"good": "is above", "open": "is not shown to differ from", "bad": "is below"}
        for tone, some in parts.items():
            if some:
                told = ", ".join(f"{name} ({points(ahead)})" for name, ahead in some)
                found.append(Sentence(f"{_label(summary, summary.main)} {words[tone]} {told}.", tone, tone != "open"))
    return found


def _follows_the_rule(summary: ArmsSummary) -> list[Sentence]:
    lines = summary.lines.get("same_pair_both")
    if lines is None:
        return []
    both, one = lines[summary.main].mean, summary.lines["same_pair"][summary.main].mean
    similar = [f"{name} {percent(lines[name].mean.value)}" for name in SIMILARITY if name in lines]
    told = f"Asked about one picture and one text by rules that differ, it is right by both in {_with_interval(both)}"
    told += f" of pairs and in {percent(one.value)} of single verdicts; similarity, into which no rule goes, can't be"
    told += f" ({', '.join(similar)})." if similar else "."
    tone: Tone = "good" if both.has_interval and both.low > CHANCE else "open"
    return [Sentence(told, tone, True)]


def _blind(summary: ArmsSummary, blind_arms: Sequence[str]) -> list[Sentence]:
    """Whether the data can be judged without looking."""
    lines, found = summary.lines[summary.headline], []
    for name in blind_arms:
        if name not in lines:
            continue
        mean = lines[name].mean
        told = f"{_label(summary, name)} reaches {_with_interval(mean)}"
        if abs(mean.value - CHANCE) <= BLIND:
            found.append(Sentence(f"Looking at one side alone is not enough: {told}.", "good"))
        else:
            found.append(Sentence(f"The data tell the label in part without looking at both sides: {told}.", "bad"))
    return found


def _sure(summary: ArmsSummary, one: Calibrated) -> Sentence:
    told = f"Its probabilities are off by {percent(one.error)} on {one.rows:,} rows (10 bins of equal mass), where a "
    told += f"perfectly calibrated model shows {percent(one.perfect)} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
    return Sentence(f"{told}.", "good" if one.error <= one.high else "open")


def _moved(one: Stressed) -> Sentence:
    told = f"With {one.name}, {one.turned:,} of the {one.others:,} verdicts that were not relevant turn"
    return Sentence(f"{told} relevant.", "open" if one.turned < one.others / 10 else "bad")


def _label(summary: ArmsSummary, name: str) -> str:
    return next((arm.label for arm in summary.arms if arm.name == name), name)


def _with_interval(found: Estimate) -> str:
    told = percent(found.value)
    return f"{told} [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.has_interval else told
