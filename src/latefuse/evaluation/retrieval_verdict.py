"""Plain sentences out of the numbers of item embeddings: is the picture used, and is it content or memorised identity.

Media that an item always had in training help even when they are another item's: they are a name that can be learned
by heart. So whatever true media gain is held against an arm that was trained and measured with shuffled ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from latefuse.config import MODALITIES
from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, MeasuredArm, label
from latefuse.evaluation.intervals import Bootstrap, Estimate, paired_bootstrap
from latefuse.evaluation.scores import ScoreTable
from latefuse.evaluation.verdict import Sentence, Tone

ALL = "all"
COLD = "cold"
NOUNS = {"image": "picture", "video": "clip", "text": "text"}
UNTOLD = "whether content counts or an identity learned by heart is not told apart"
TOO_FEW = "too few queries for an interval, so this decides nothing"

Lifts = Mapping[str, Mapping[str, Estimate]]


def findings(
    summary: ArmsSummary,
    shuffled_arms: Sequence[str] = (),
    text_arm: str = "text-only",
    lifts: Lifts | None = None,
) -> list[Sentence]:
    """The findings in the order of their weight; those on the main arm's media first.

    shuffled_arms: arms trained and measured with every item's media swapped for another's. text_arm: the arm that is
    like the main one and reads words alone. lifts: see `lifts_over_text`. Names of arms that were not measured are
    passed over. tone: good where an interval speaks for the main arm and its media, bad where one speaks against them.
    """
    measured = summary.lines[summary.headline]
    shuffled = [name for name in shuffled_arms if name in measured and name != summary.main]
    found = _used(summary)
    for name in shuffled:
        found += _content(summary, name, text_arm, (lifts or {}).get(name, {}))
    over_text = _over_text(summary, text_arm)
    if not shuffled and any(one.tone == "good" for one in found + over_text):
        found.append(Sentence(f"No arm was trained on shuffled {_media(summary)}: {UNTOLD}.", "open"))
    found += over_text + _neglect(summary, text_arm)
    found += _rivals(summary, "floor", ()) + _rivals(summary, "control", (*shuffled, text_arm))
    return sorted(found + _reached(summary), key=lambda sentence: not sentence.first)


def lifts_over_text(
    table: ScoreTable,
    task: str,
    metric: str,
    shuffled_arms: Sequence[str],
    text_arm: str,
    slices: Mapping[str, Sequence[str]],
    how: Bootstrap,
) -> dict[str, dict[str, Estimate]]:
    """Arm with shuffled media -> slice, ALL for all queries -> what it finds more than the text-only arm.

    slices: name -> ids of queries. Empty where an arm or the text-only arm was not measured.
    """
    found: dict[str, dict[str, Estimate]] = {}
    for arm in shuffled_arms:
        if table.has(arm, task, metric) and table.has(text_arm, task, metric):
            parts = {ALL: table.matrix(arm, task, metric)[1], **{name: list(rows) for name, rows in slices.items()}}
            for name, rows in ((name, rows) for name, rows in parts.items() if rows):
                values, _, items = table.matrix(arm, task, metric, rows=rows)
                words = table.matrix(text_arm, task, metric, rows=rows)[0]
                found.setdefault(arm, {})[name] = paired_bootstrap(values, words, items, how)
    return found


def chance(metric: str, pool: float) -> float | None:
    """What an order drawn by lot finds: k / pool of the partners; None where the metric is no recall or hit rate.

    Of a metric over sampled candidates the pool is those.
    """
    name, _, part = metric.partition("/")
    kind, _, k = name.partition("_at_")
    among = int(part.removeprefix("sampled-")) if part.startswith("sampled-") else pool
    return min(int(k) / among, 1.0) if kind in ("recall", "hr") and among else None


def blind(summary: ArmsSummary, metric: str) -> float | None:
    """What is found without looking at any item: by lot or, where it counts and finds more, by popularity."""
    by_lot, popularity = chance(metric, summary.pool), _popularity(summary, metric)
    return by_lot if popularity is None else max(by_lot or 0.0, popularity)


def blind_name(summary: ArmsSummary) -> str:
    """What `blind` of the headline is called."""
    by_lot, popularity = chance(summary.headline, summary.pool), _popularity(summary, summary.headline)
    return "popularity" if popularity is not None and popularity > (by_lot or 0.0) else "chance"


def _popularity(summary: ArmsSummary, metric: str) -> float | None:
    """What popularity alone finds, where it counts beside the scores."""
    line = summary.lines[metric].get("popularity") if summary.prior else None
    return None if line is None or isnan(line.mean.value) else line.mean.value


def above_chance(found: Estimate, by_lot: float | None) -> bool | None:
    """Whether the whole interval is above chance; None where there is no interval or no room above chance."""
    if by_lot is None or by_lot >= 1 or not found.has_interval:
        return None
    return found.low > by_lot


def percent(value: float) -> str:
    """'24.1%'; two digits of what is below 0.1%, as chance in a large pool is; a dash where there is none."""
    if isnan(value):
        return "–"
    return f"{100 * value:.2g}%" if 0 < abs(value) < 0.001 else f"{100 * value:.1f}%"


def points(found: Estimate) -> str:
    """'+3.1 points [-1.0, 7.2]'; without queries enough '+3.1 points (n = 12)'."""
    if isnan(found.value):
        return "not measured"
    head = f"{100 * found.value:+.1f} points"
    return f"{head} [{_ends(found)}]" if found.has_interval else f"{head} (n = {found.rows})"


def _ends(found: Estimate) -> str:
    return f"{100 * found.low:.1f}, {100 * found.high:.1f}"


def _with_interval(found: Estimate) -> str:
    return f"{percent(found.value)} [{_ends(found)}]" if found.has_interval else percent(found.value)


def _main(summary: ArmsSummary) -> str:
    return _label(summary, summary.main)


def _label(summary: ArmsSummary, name: str) -> str:
    return next((arm.label for arm in summary.arms if arm.name == name), name)


def _begin(text: str) -> str:
    return text[:1].upper() + text[1:]


def _media(summary: ArmsSummary) -> str:
    """'picture', 'clip' or 'picture and clip', by what was knocked out anywhere; 'media' where nothing was."""
    there = {one.condition.partition(":")[2] for one in summary.knock_outs}
    names = [NOUNS[modality] for modality in MODALITIES if modality in there and modality != "text"]
    return " and ".join(names) or "media"


@dataclass(frozen=True)
class _Against:
    """What the main arm is ahead of another, on all queries or on cold ones. where: words for which they are."""

    queries: str
    where: str
    ahead: Estimate


def _against(summary: ArmsSummary, arm: str) -> list[_Against]:
    """On all queries and, where they are told apart, on cold ones; empty where the arm was not measured."""
    lines = [(ALL, "on all queries", summary.lines[summary.headline].get(arm))]
    if COLD in summary.slices:
        lines.append((COLD, f"on cold queries (n = {summary.sizes[COLD]:,})", summary.slices[COLD].get(arm)))
    return [_Against(name, where, line.behind) for name, where, line in lines if line and line.behind]


def _used(summary: ArmsSummary) -> list[Sentence]:
    """Whether the main arm's answers change for the worse when every item is shown another's medium."""
    found = []
    for one in summary.knock_outs:
        kind, _, modality = one.condition.partition(":")
        if one.arm != summary.main or kind != "shuffled" or modality == "text":
            continue
        noun, main, worth = NOUNS.get(modality, modality), _main(summary), one.worth
        text = f"with another item's {noun} in place of its own, {main} finds {percent(one.left.value)} instead of"
        text += f" {percent(one.full.value)} ({label(summary.headline)}); its own is worth {points(worth)}"
        tone: Tone = "good" if worth.excludes_zero and worth.value > 0 else "bad"
        if not worth.has_interval:
            found.append(Sentence(f"Is the {noun} used? {_begin(text)}; {TOO_FEW}.", "open", True))
            continue
        head = "is used" if tone == "good" else "misleads" if worth.excludes_zero else "is not shown to be used"
        found.append(Sentence(f"The {noun} {head}: {text}.", tone, True))
    return found


def _content(summary: ArmsSummary, arm: str, text_arm: str, lifts: Mapping[str, Estimate]) -> list[Sentence]:
    """Whether true media help more than another item's do, and if not, whether those help already."""
    return [
        Sentence(text, tone, one.queries == ALL)
        for one in _against(summary, arm)
        for tone, text in [_true_or_another(summary, arm, one, text_arm, lifts.get(one.queries))]
    ]


def _true_or_another(
    summary: ArmsSummary, arm: str, one: _Against, text_arm: str, lift: Estimate | None
) -> tuple[Tone, str]:
    """lift: the arm with shuffled media minus the text-only one on the same queries, where that was taken."""
    ahead, media, other, words = one.ahead, _media(summary), _label(summary, arm), _label(summary, text_arm)
    trained = f"trained with every item's {media} swapped for another's"
    told = f"{_main(summary)} minus {other}, {trained}, is {points(ahead)}"
    if not ahead.has_interval:
        return "open", f"Content or memorised identity {one.where}? {_begin(told)}; {TOO_FEW}."
    if ahead.excludes_zero and ahead.value > 0:
        return "good", f"Content, not memorised identity, {one.where}: {told}."
    if ahead.excludes_zero:
        return "bad", f"Not content {one.where}: {told}, so another item's {media} serve better than its own."
    if lift is not None and lift.excludes_zero and lift.value > 0:
        head = "Memorised identity, not content," if one.queries == ALL else "Not content"
        text = f"{head} {one.where}: {trained}, {other} still finds more than {words} ({points(lift)}), and what"
        return "bad", f"{text} true media add to that is not shown to differ from zero ({points(ahead)})."
    text = f"True media are not shown to help more than another item's {one.where}: {told}"
    if lift is not None and lift.has_interval:
        text += f"; nor is {other} shown to find more than {words} ({points(lift)})"
    return "open", f"{text}."


def _over_text(summary: ArmsSummary, text_arm: str) -> list[Sentence]:
    """The main arm against the one that reads words alone."""
    main, media, found = _main(summary), _media(summary), []
    for one in _against(summary, text_arm):
        where, ahead = one.where, one.ahead
        told = f"{main} minus {_label(summary, text_arm)} is {points(ahead)}"
        if not ahead.has_interval:
            found.append(Sentence(f"Text with {media} against text alone {where}: {told}; {TOO_FEW}.", "open"))
        elif not ahead.excludes_zero:
            found.append(Sentence(f"Text with {media} is not shown to beat text alone {where}: {told}.", "open"))
        elif ahead.value > 0:
            found.append(Sentence(f"Text with {media} beats text alone {where}: {told}.", "good"))
        else:
            found.append(Sentence(f"Text with {media} is worse than text alone {where}: {told}.", "bad"))
    return found


def _neglect(summary: ArmsSummary, text_arm: str) -> list[Sentence]:
    """Which arms find nothing by a medium alone: for each medium the main arm, then all others in one sentence."""
    by_lot, found = blind(summary, summary.headline), []
    for modality in MODALITIES:
        alone = [one for one in summary.knock_outs if one.condition == f"only:{modality}" and one.arm != text_arm]
        if modality == "text" or not alone or by_lot is None:
            continue
        noun, lot = NOUNS[modality], percent(by_lot)
        found += [_by_itself(summary, one, noun, by_lot) for one in alone if one.arm == summary.main]
        ignoring = [
            f"{_label(summary, one.arm)} ({_with_interval(one.left)})"
            for one in alone
            if one.arm != summary.main and above_chance(one.left, by_lot) is False
            if not _shown_used(summary, one.arm, modality)
        ]
        if ignoring:
            text = f"Arms that ignore the {noun}: by it alone no more than {blind_name(summary)} ({lot}) is shown for"
            found.append(Sentence(f"{text} {', '.join(ignoring)}.", "open"))
    return found


def _by_itself(summary: ArmsSummary, one: KnockOut, noun: str, by_lot: float) -> Sentence:
    """The main arm by one medium alone."""
    lot = f"{blind_name(summary)} is {percent(by_lot)}"
    text = f"by the {noun} alone {_main(summary)} finds {_with_interval(one.left)} ({label(summary.headline)}), {lot}"
    above = above_chance(one.left, by_lot)
    if above is None:
        reason = "the pool is no larger than k, so this can't tell" if by_lot >= 1 else TOO_FEW
        return Sentence(f"Is the {noun} neglected? {_begin(text)}; {reason}.", "open")
    if above:
        return Sentence(f"The {noun} is not neglected: {text}.", "good")
    if _shown_used(summary, one.arm, one.condition.partition(":")[2]):
        return Sentence(f"The {noun} counts beside the text only: {text}, and more is not shown.", "open")
    return Sentence(f"The {noun} is neglected: {text}, and more is not shown.", "bad")


def _shown_used(summary: ArmsSummary, arm: str, modality: str) -> bool:
    """Whether shuffling the medium is shown to cost the arm."""
    worths = [one.worth for one in summary.knock_outs if (one.arm, one.condition) == (arm, f"shuffled:{modality}")]
    return any(worth.excludes_zero and worth.value > 0 for worth in worths)


def _rivals(summary: ArmsSummary, group: str, told: Sequence[str]) -> list[Sentence]:
    """The floors or the controls beside the main arm; told: arms that have a sentence of their own."""
    lines, main = summary.lines[summary.headline], _main(summary)
    arms = [arm for arm in summary.arms if arm.group == group and arm.name not in told]
    pairs = [(arm, ahead) for arm in arms if (ahead := lines[arm.name].behind) and not isnan(ahead.value)]
    pairs.sort(key=lambda pair: pair[1].value)
    below = [(arm, found) for arm, found in pairs if found.excludes_zero and found.value < 0]
    unsure = [(arm, found) for arm, found in pairs if not found.excludes_zero]
    said = []
    if below:
        said.append(Sentence(f"By {label(summary.headline)} {main} is below {_named(group, below)}.", "bad"))
    if unsure:
        said.append(
            Sentence(
                f"By {label(summary.headline)} {main} is not shown to differ from {_named(group, unsure)}.", "open"
            )
        )
    if pairs and not below and not unsure:
        nearest = _named("nearest", pairs[:1])
        said.append(Sentence(f"By {label(summary.headline)} {main} is above every {group}; {nearest}.", "good"))
    return said


def _named(what: str, pairs: Sequence[tuple[MeasuredArm, Estimate]]) -> str:
    """'the floor co-occurrence (-3.1 points [-4.0, -2.2])', 'the floors a (...), b (...)'."""
    told = ", ".join(f"{arm.label} ({points(found)})" for arm, found in pairs)
    return f"the {what}{'s' if len(pairs) > 1 else ''} {told}"


def _reached(summary: ArmsSummary) -> list[Sentence]:
    """The main arm's share of what can be reached at best."""
    best = summary.oracle.get(summary.headline)
    mean = summary.lines[summary.headline][summary.main].mean
    if not best or isnan(mean.value):
        return []
    share = f"{100 * mean.value / best:.0f}%"
    if mean.has_interval:
        share += f" [{100 * mean.low / best:.0f}, {100 * mean.high / best:.0f}]"
    text = f"{_main(summary)} reaches {share} of what can be found at best"
    return [Sentence(f"{text} ({label(summary.headline)} {percent(best)}).", "open")]
