"""Plain sentences out of the numbers of a ranker: what each input adds, is it content, is it sure, does it pay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan

from latefuse.config import Task
from latefuse.config_rank import Ranking
from latefuse.evaluation.arms_summary import KnockOut, Line, digits, label, less_is_better, number
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.judge_verdict import Calibrated
from latefuse.evaluation.money import PER
from latefuse.evaluation.rank_floors import LOGISTIC, POPULARITY, TREES
from latefuse.evaluation.rank_summary import RankSummary
from latefuse.evaluation.ranking import COLD_ITEM, rank_of
from latefuse.evaluation.retrieval_verdict import NOUNS, percent, points
from latefuse.evaluation.verdict import Sentence, Tone

CHANCE = 0.5
WORDS = {
    "good": "{main} beats {other} {where}",
    "bad": "{main} is behind {other} {where}",
    "open": "{main} is not shown to differ from {other} {where}",
    "both": "{main} is ahead of {other} by one measure and behind by the other {where}",
}
DRIFT = 0.1
"""How far the expected share of likes may be from theirs, as a part of it, before it counts as a drift."""


@dataclass(frozen=True)
class Roles:
    """Trained arms by how they differ from the main one, each in one way.

    less: they read fewer media. shuffled: name -> words for the media of which they read another item's. otherwise:
    they read the same in another form, or learn by another loss.
    """

    less: tuple[str, ...] = ()
    shuffled: Mapping[str, str] = field(default_factory=dict)
    otherwise: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sure:
    """How right the probabilities of an arm are on test rows, the mean over seeds.

    calibrated: their error beside that of a perfect model. raw: the error before calibration, None where the scores are
    no log-odds. expected, share: what they expect to be liked, and what is.
    """

    calibrated: Calibrated
    raw: float | None
    expected: float
    share: float


def roles(arms: Mapping[str, Task]) -> Roles:
    """arms: the main one first."""
    (_, main), *others = arms.items()
    less, otherwise = [], []
    shuffled: dict[str, str] = {}
    for name, task in others:
        if swapped := rank_of(task).shuffled:
            shuffled[name] = " and ".join(NOUNS[modality] for modality in swapped)
        elif set(task.modality) < set(main.modality):
            less.append(name)
        else:
            otherwise.append(name)
    return Roles(tuple(less), shuffled, tuple(otherwise))


def findings(summary: RankSummary, part: Roles, sure: Mapping[str, Sure], how: Ranking) -> list[Sentence]:
    """The findings in the order of their weight; names of arms that were not measured are passed over."""
    found = [_ranks(summary)]
    for name in (*part.less, *part.shuffled, LOGISTIC, TREES, POPULARITY, *part.otherwise):
        found += _beside(summary, name, part, how)
    found += [_knocked(summary, one) for one in summary.knock_outs]
    found.append(_keeps(summary, how))
    if summary.main in sure:
        found += [_sure(sure[summary.main]), _drift(sure[summary.main])]
    found.append(_pays(summary, how))
    return sorted(found, key=lambda one: not one.first)


def strictest(how: Ranking) -> str:
    """The false-positive rate at the highest recall: by it a ranker says what it is for."""
    return f"false_positive_rate_at_recall_{max(how.recalls):g}"


def _ranks(summary: RankSummary) -> Sentence:
    mean = summary.lines[summary.headline][summary.main].mean
    within = summary.lines["within_user_auc"][summary.main].mean
    told = f"{_label(summary, summary.main)} has {_shown(summary.headline, mean)} {label(summary.headline)}, and"
    told += f" {_shown('within_user_auc', within)} among each user's own rows; chance is 50%"
    if not mean.has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open", True)
    if mean.low <= CHANCE:
        return Sentence(f"{told}: that it ranks at all is not shown.", "bad", True)
    if within.has_interval and within.low <= CHANCE:
        return Sentence(f"{told}: which of a user's items are liked is not shown to be told.", "open", True)
    return Sentence(f"{told}.", "good", True)


def _beside(summary: RankSummary, arm: str, part: Roles, how: Ranking) -> Iterator[Sentence]:
    """The main arm and another, on all rows and on those of items that training has not seen."""
    places = [("on all rows", summary.lines)]
    if COLD_ITEM in summary.parts:
        places.append((f"on cold items (n = {summary.sizes[COLD_ITEM]:,})", summary.parts[COLD_ITEM]))
    for place, (where, lines) in enumerate(places):
        if arm in lines[summary.headline]:
            first = arm in (*part.less, *part.shuffled) or (arm == LOGISTIC and not place)
            shown, numbers = _against(summary, arm, lines, how)
            words = _content(part.shuffled[arm]) if arm in part.shuffled else WORDS
            said = words[shown].format(main=_label(summary, summary.main), other=_label(summary, arm), where=where)
            tone: Tone = "good" if shown == "good" else "bad" if shown == "bad" else "open"
            yield Sentence(f"{said}: {numbers}.", tone, first)


def _against(summary: RankSummary, arm: str, lines: Mapping[str, Mapping[str, Line]], how: Ranking) -> tuple[str, str]:
    """A key of WORDS: what the headline and the strictest rate show together; and their numbers."""
    told, sides = [], set()
    for metric in (strictest(how), summary.headline):
        mine, line = lines[metric][summary.main].mean, lines[metric][arm]
        assert line.behind is not None
        sides.add(_side(metric, line.behind))
        pair = f"{_value(metric, mine)} against {_value(metric, line.mean)}"
        told.append(f"{label(metric)} {pair}, {points(line.behind)}")
    shown = sides - {"open"}
    return "both" if len(shown) == 2 else next(iter(shown), "open"), "; ".join(told)


def _content(noun: str) -> Mapping[str, str]:
    """WORDS about an arm that was trained and asked with another item's media."""
    return {
        "good": f"The {noun}'s content counts, not an identity learned by heart, {{where}}; {{main}} minus {{other}}",
        "bad": f"Another item's {noun} serves better than its own {{where}}; {{main}} minus {{other}}",
        "open": f"That the {noun}'s content counts is not shown {{where}}; {{main}} minus {{other}}",
        "both": f"The {noun}'s content counts by one measure only {{where}}; {{main}} minus {{other}}",
    }


def _side(metric: str, ahead: Estimate) -> Tone:
    """'good' where the main arm is shown to be ahead, 'bad' where behind."""
    if not ahead.excludes_zero:
        return "open"
    return "good" if (ahead.value > 0) != less_is_better(metric) else "bad"


def _knocked(summary: RankSummary, one: KnockOut) -> Sentence:
    kind, _, what = one.condition.partition(":")
    noun = NOUNS.get(what, what)
    taken = f"another item's {noun}" if kind == "shuffled" else f"no {noun}" if kind == "absent" else one.condition
    told = f"Asked with {taken}, {_label(summary, one.arm)} falls from {percent(one.full.value)} to"
    told += f" {percent(one.left.value)} {label(summary.headline)}: its own is worth {points(one.worth)}"
    if not one.worth.excludes_zero:
        return Sentence(f"{told}, which is not shown to differ from zero.", "open")
    return Sentence(f"{told}.", "good" if one.worth.value > 0 else "bad")


def _keeps(summary: RankSummary, how: Ranking) -> Sentence:
    """Whether the threshold of validation rows keeps its promise on test rows."""
    names = ("false_positive_rate", "precision", "recall")
    found = [summary.lines[name][summary.main].mean for name in names]
    rate, precision, recall = (_shown(name, one) for name, one in zip(names, found, strict=True))
    told = f"The threshold that keeps a false-positive rate of {percent(how.target)} on validation rows has"
    told += f" {rate} on test rows, with precision {precision} and recall {recall}"
    if not found[0].has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open")
    if found[0].low > how.target:
        return Sentence(f"{told}: more false alarms than were asked for.", "bad")
    return Sentence(f"{told}.", "good")


def _sure(one: Sure) -> Sentence:
    error = one.calibrated
    told = f"Its calibrated probabilities are off by {percent(error.error)} on {error.rows:,} rows (10 bins of equal"
    told += f" mass), where a perfectly calibrated model shows {percent(error.perfect)}"
    told += f" [{100 * error.low:.1f}, {100 * error.high:.1f}]"
    if one.raw is not None:
        told += f"; as it says them they are off by {percent(one.raw)}"
    return Sentence(f"{told}.", "good" if error.error <= error.high else "open")


def _drift(one: Sure) -> Sentence:
    told = f"It expects {percent(one.expected)} of the test rows to be liked, and {percent(one.share)} are"
    if one.share and abs(one.expected - one.share) > DRIFT * one.share:
        return Sentence(f"{told}: likes are not as common as on validation rows, so thresholds drift.", "open")
    return Sentence(f"{told}.", "good")


def _pays(summary: RankSummary, how: Ranking) -> Sentence:
    scored, each = (summary.lines[name][summary.main].mean for name in ("value_per_1000", "value_per_1000_recommended"))
    told = f"With a gain of {how.gain:g} for a liked recommendation and a loss of {how.loss:g} for another, it is worth"
    told += f" {_shown('value_per_1000', scored)} of {PER:,} rows scored, recommending from the threshold that was best"
    if isnan(each.value):
        return Sentence(f"{told} on validation rows: above all of them, so that nothing is recommended.", "open")
    told += f" on validation rows; that is {_value('value_per_1000', each)} of {PER:,} rows recommended"
    if not scored.has_interval:
        return Sentence(f"{told}; too few rows for an interval.", "open")
    if scored.low > 0:
        return Sentence(f"{told}.", "good")
    tone: Tone = "bad" if scored.high < 0 else "open"
    return Sentence(f"{told}: that it is worth more than recommending nothing is not shown.", tone)


def _label(summary: RankSummary, name: str) -> str:
    return next((arm.label for arm in summary.arms if arm.name == name), name)


def _value(metric: str, found: Estimate) -> str:
    return percent(found.value) if isnan(found.value) or digits(metric) is None else number(metric, found.value)


def _shown(metric: str, found: Estimate) -> str:
    told = _value(metric, found)
    return f"{told} [{number(metric, found.low)}, {number(metric, found.high)}]" if found.has_interval else told
