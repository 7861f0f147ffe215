"""Plain sentences out of the numbers of personalised prompts: is anything worth its prompt, and where does a floor win.

Of next items the sentences are those of `retrieval_verdict`, with whether item numbers tell the future, and what a
sample of candidates hides. Of explanations they hold the likeness to true ones against copies and boilerplate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan

from latefuse.evaluation import retrieval_verdict
from latefuse.evaluation.arms_summary import label
from latefuse.evaluation.explanations import AGAINST_BOILERPLATE
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.personal_summary import PersonalSummary
from latefuse.evaluation.retrieval_verdict import Lifts, chance, percent, points
from latefuse.evaluation.sequence_floors import PROBES
from latefuse.evaluation.verdict import Sentence, Tone

DULL = 0.5
"""Share of the true explanations' variety below which what is written counts as boilerplate."""


def next_items(
    summary: PersonalSummary,
    shuffled_arms: Sequence[str] = (),
    text_arm: str = "text-only",
    lifts: Lifts | None = None,
) -> list[Sentence]:
    """The findings in the order of their weight; see `retrieval_verdict.findings` for the arguments."""
    found = retrieval_verdict.findings(summary, shuffled_arms, text_arm, lifts)
    found += [_probe(summary, name) for name in PROBES if name in summary.lines[summary.headline]]
    found += _of_samples(summary)
    return sorted(found, key=lambda one: not one.first)


def explained(summary: PersonalSummary) -> list[Sentence]:
    """The findings about explanations: against every other arm, then whether they are boilerplate.

    summary: with the metrics of `explanations.measures`; its oracle: what the true explanations reach of those against
    boilerplate.
    """
    found = []
    for arm in summary.arms:
        if arm.name != summary.main:
            found.append(_likeness(summary, arm.name, arm.group == "floor"))
            found += _named_by(summary, arm.name)
    return sorted(found + _variety(summary), key=lambda one: not one.first)


def free(shares: Mapping[str, float], k: int) -> Sentence:
    """What beams that may write anything write (see `recommending.Found.free`). k: of the hit rates."""
    told = f"Beams that may write anything write items in {percent(shares['valid'])} of answers"
    told += (
        f" ({percent(shares['distinct'])} without repetition, {percent(shares['new'])} also new to the user) and find"
    )
    told += f" {percent(shares['hit'])} (HR@{k}); beams over items, whose answers are all three, find"
    return Sentence(f"{told} {percent(shares['hit_constrained'])} on the same users.", "open")


def unseen(summary: PersonalSummary, template: str, ahead: Estimate) -> Sentence:
    """What a prompt that training has not shown costs. summary: of that prompt. ahead: the main arm as asked in
    training minus as asked by it."""
    told = f"Asked by {template}, a prompt that training has not shown, {_label(summary, summary.main)} is at"
    told += f" {_shown(summary, summary.main)} {label(summary.headline)}; as in training minus this is {points(ahead)}"
    if not ahead.has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open")
    if not ahead.excludes_zero:
        return Sentence(f"{told}, which is not shown to differ from zero.", "open")
    return Sentence(f"{told}.", "bad" if ahead.value > 0 else "good")


def renumbered(summary: PersonalSummary, arms: Sequence[str]) -> list[Sentence]:
    """Whether it counts which numbers items have. arms: those that differ from the main one in that alone."""
    found = []
    for arm in arms:
        ahead = summary.lines[summary.headline][arm].behind
        if ahead is None:
            continue
        told = f"{_label(summary, summary.main)} minus {_label(summary, arm)}, whose items have other numbers, is"
        told += f" {points(ahead)} {label(summary.headline)}"
        if not ahead.has_interval:
            found.append(Sentence(f"{told}; too few rows for an interval.", "open"))
        elif ahead.excludes_zero:
            text = f"Which numbers items have changes what is found: {told}; by that much numbers tell something,"
            found.append(Sentence(f"{text} or one training differs from the next, which more seeds show.", "bad"))
        else:
            found.append(Sentence(f"Which numbers items have is not shown to matter: {told}.", "good"))
    return found


def _probe(summary: PersonalSummary, name: str) -> Sentence:
    """Whether item numbers alone, in their order, find the next item."""
    mean, by_lot = summary.lines[summary.headline][name].mean, chance(summary.headline, summary.pool)
    told = f"The probe “{name}” finds {_estimate(mean)} ({label(summary.headline)})"
    if by_lot is None:
        return Sentence(f"{told}; how many items there are is not known, so chance is not.", "open")
    told += f", chance is {percent(by_lot)}"
    if not mean.has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open")
    if mean.low > by_lot:
        return Sentence(f"Item numbers tell the future, so nothing here counts: {told}.", "bad", True)
    return Sentence(f"Item numbers are not shown to tell anything: {told}.", "good")


def _of_samples(summary: PersonalSummary) -> list[Sentence]:
    """What the same arms seem among sampled candidates, and which of them change sides there."""
    headline, main, found = summary.headline, summary.main, []
    for metric in (one for one in summary.metrics if one.startswith(f"{headline}/sampled-")):
        whole, sample = summary.lines[headline], summary.lines[metric]
        told = f"Among sampled candidates {_label(summary, main)} finds {percent(sample[main].mean.value)}"
        told += f" ({label(metric)}), in the whole catalogue {percent(whole[main].mean.value)}"
        turned = []
        for arm in summary.arms:
            one, other = whole[arm.name].behind, sample[arm.name].behind
            if one is not None and other is not None and _side(one) * _side(other) < 0:
                turned.append(f"{arm.label} ({points(one)} in the catalogue, {points(other)} in the sample)")
        if turned:
            told += f"; it changes sides with {', '.join(turned)}"
        found.append(Sentence(f"{told}.", "bad" if turned else "open"))
    return found


def _side(ahead: Estimate | None) -> int:
    """1 where the main arm is shown to be ahead, -1 where behind, 0 where neither."""
    if ahead is None or not ahead.excludes_zero:
        return 0
    return 1 if ahead.value > 0 else -1


def _likeness(summary: PersonalSummary, arm: str, floor: bool) -> Sentence:
    ahead, main, other = summary.lines[summary.headline][arm].behind, summary.main, _label(summary, arm)
    numbers = f"{label(summary.headline)} {_shown(summary, main)} against {_shown(summary, arm)}"
    numbers += f", {points(ahead)}" if ahead is not None else ""
    what = f"the floor {other}" if floor else other
    side = _side(ahead)
    if side > 0:
        return Sentence(f"{_label(summary, main)} is nearer to the true explanations than {what}: {numbers}.", "good")
    if side < 0:
        return Sentence(f"{what[:1].upper()}{what[1:]} wins over {_label(summary, main)}: {numbers}.", "bad", floor)
    return Sentence(f"{_label(summary, main)} is not shown to differ from {what}: {numbers}.", "open")


def _named_by(summary: PersonalSummary, arm: str) -> list[Sentence]:
    """Where another arm names what a row is about more often than the main one, or less often."""
    lines = summary.lines.get("feature_hit", {})
    ahead = lines[arm].behind if arm in lines else None
    side = _side(ahead)
    if ahead is None or not side:
        return []
    mine, theirs = lines[summary.main].mean, lines[arm].mean
    told = f"{_label(summary, summary.main)} names the feature in {percent(mine.value)} of explanations,"
    told += f" {_label(summary, arm)} in {percent(theirs.value)}: {points(ahead)}"
    tone: Tone = "good" if side > 0 else "bad"
    return [Sentence(f"{told}.", tone)]


def _variety(summary: PersonalSummary) -> list[Sentence]:
    """Whether the main arm's explanations are one text for everybody, by the variety of the true ones."""
    found = []
    for metric in AGAINST_BOILERPLATE:
        best, line = summary.oracle.get(metric), summary.lines.get(metric, {}).get(summary.main)
        if not best or line is None or isnan(line.mean.value):
            continue
        told = f"{_estimate(line.mean)} {label(metric)}, where the true ones have {percent(best)}"
        top = line.mean.high if line.mean.has_interval else line.mean.value
        found.append((metric, top < DULL * best, told))
    if not found:
        return []
    dull = [told for _, poor, told in found if poor]
    text = "; ".join(dull or [told for _, _, told in found])
    if dull:
        return [Sentence(f"The explanations of {_label(summary, summary.main)} are boilerplate: {text}.", "bad", True)]
    return [Sentence(f"The explanations of {_label(summary, summary.main)} are no boilerplate: {text}.", "good")]


def _label(summary: PersonalSummary, name: str) -> str:
    return next((arm.label for arm in summary.arms if arm.name == name), name)


def _shown(summary: PersonalSummary, arm: str) -> str:
    return _estimate(summary.lines[summary.headline][arm].mean)


def _estimate(found: Estimate) -> str:
    ends = f" [{100 * found.low:.1f}, {100 * found.high:.1f}]" if found.has_interval else ""
    return f"{percent(found.value)}{ends}"
