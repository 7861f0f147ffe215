"""The demo's judgements: does a text fit a picture, by a rule? Every label is right by construction.

Texts say in plain words what can be seen: captions, bullet lists, spec sheets, long texts and searches. Under `only-*`
rules the same picture and text are asked about twice, and the answers differ: nothing but the rule tells them apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latefuse.config_judge import Judge
from latefuse.data.demo import words
from latefuse.data.demo.world import COLOURS, GARNISHES, INGREDIENTS, MAINS, MAX_TIMES, PLATINGS, Dish

Claims = dict[str, str]

RULES: Mapping[str, str] = {
    "every": "the text describes a dish : it is relevant when every claim in it fits the picture",
    "some": "the text is a search : it is relevant when one claim in it or more fits the picture",
    "only-colour": "the text describes a dish : it is relevant when the colour of the food fits , nothing else counts",
    "only-top": "the text describes a dish : it is relevant when what is on top fits , nothing else counts",
    "only-bits": "the text describes a dish : it is relevant when the bits fit , nothing else counts",
    "only-plate": "the text describes a dish : it is relevant when the plate fits , nothing else counts",
    "step": "the text says what falls into the pot : it is relevant when the food and the count fit the picture",
}
"""Task -> its instruction."""
CLAIMS: Mapping[str, tuple[str, str, str]] = {
    "colour": ("colour", "{} food", "food"),
    "top": ("object", "{} on top", "on top"),
    "bits": ("object", "{} bits", "bits"),
    "plate": ("relation", "{} plate", "plate"),
}
"""What the picture of a dish shows -> the kind of its swap, the claim, its key in a spec sheet."""
VALUES: Mapping[str, tuple[str, ...]] = {
    "colour": tuple(plain for plain, _ in COLOURS.values()),
    "top": tuple(" ".join(look) for look in GARNISHES.values()),
    "bits": tuple(INGREDIENTS[main].shape for main in MAINS),
    "plate": PLATINGS,
}
ROUND = ("every", "pair", "step", "every", "pair", "some")
"""What is asked about a dish in one round; a pair is two rows."""
LABELS = (Judge().relevant, Judge().not_relevant)
TEXTS = (*RULES.values(), *LABELS, *(part for told in CLAIMS.values() for part in told), "a dish with - : ;")
WORDS = tuple(sorted({word for text in TEXTS for word in text.replace("{}", " ").split()}))
"""Every word of rules, claims and labels."""
NEGATIVES = ("random", "same-class", "nearest", "attribute")


def _sentence(claims: Claims) -> str:
    return f"a dish with {' and '.join(_said(claims))}"


def _bullets(claims: Claims) -> str:
    return "\n".join(f"- {claim}" for claim in _said(claims))


def _sheet(claims: Claims) -> str:
    return " ; ".join(f"{CLAIMS[part][2]} : {value}" for part, value in claims.items())


def _said(claims: Claims) -> list[str]:
    return [CLAIMS[part][1].format(value) for part, value in claims.items()]


FORMATS: Sequence[Callable[[Claims], str]] = (_sentence, _bullets, _sheet)


def looks(dish: Dish) -> Claims:
    """What the picture of a dish shows, in plain words."""
    return {
        "colour": COLOURS[dish.colour][0],
        "top": " ".join(GARNISHES[dish.garnish]),
        "bits": INGREDIENTS[dish.main].shape,
        "plate": dish.plating,
    }


@dataclass(frozen=True)
class Asked:
    """One judgement. picture: "dish" or "step", of the dish that is asked about."""

    task: str
    text: str
    label: bool
    negative: str
    picture: str = "dish"

    def row(self) -> dict[str, Any]:
        """As a row of the table, but for ids and the picture's path."""
        return {
            "task": self.task, "instruction": RULES[self.task], "text": self.text, "label": self.label,
            "negative": self.negative, "source": "demo",
        }  # fmt: skip


def judgements(dish: Dish, menu: Sequence[Dish], rng: random.Random) -> Iterator[Asked]:
    """One round about a dish. menu: all dishes, whose descriptions may be wrong for this one.

    No text holds colour, top and bits together: splits are drawn by that triple, and words alone could tell them.
    """
    for what in ROUND:
        if what == "pair":
            yield from _pair(dish, rng)
        elif what == "every":
            yield _every(dish, menu, rng)
        elif what == "some":
            yield _some(dish, rng)
        else:
            yield _step(dish, rng)


def _every(dish: Dish, menu: Sequence[Dish], rng: random.Random) -> Asked:
    parts = _parts(rng)
    claims, negative = _told(dish, parts), ""
    if rng.random() < 0.5:
        negative = rng.choice(NEGATIVES)
        if negative == "attribute":
            part = rng.choice(parts)
            claims[part], negative = _other(part, claims[part], rng), f"attribute:{CLAIMS[part][0]}"
        else:
            claims = _told(_another(dish, menu, parts, negative, rng), parts)
    return Asked("every", _written(dish, claims, rng), not negative, negative)


def _another(dish: Dish, menu: Sequence[Dish], parts: Sequence[str], negative: str, rng: random.Random) -> Dish:
    """A dish of which not all `parts` fit: any, one of the same main, or the one that looks most like this one."""
    wrong = [other for other in menu if _told(other, parts) != _told(dish, parts)]
    if negative == "nearest":
        rng.shuffle(wrong)
        mine = looks(dish)
        return max(wrong, key=lambda other: sum(looks(other)[part] == value for part, value in mine.items()))
    same = [other for other in wrong if other.main == dish.main]
    return rng.choice(same if negative == "same-class" and same else wrong)


def _some(dish: Dish, rng: random.Random) -> Asked:
    """A search of two claims, of which both, one or none fit."""
    claims, label = _told(dish, _parts(rng)[:2]), rng.random() < 0.5
    kept = rng.sample(list(claims), rng.choice((1, 2))) if label else []
    claims = {part: value if part in kept else _other(part, value, rng) for part, value in claims.items()}
    return Asked("some", " ".join(_said(claims)), label, "" if label else "random")


def _pair(dish: Dish, rng: random.Random) -> Iterator[Asked]:
    """One text, a claim of which is wrong: relevant by the rule of a right claim, and not by that of the wrong one."""
    claims = _told(dish, _parts(rng))
    right, wrong = rng.sample(list(claims), 2)
    claims[wrong] = _other(wrong, claims[wrong], rng)
    text = _written(dish, claims, rng)
    yield Asked(f"only-{right}", text, True, "")
    yield Asked(f"only-{wrong}", text, False, f"attribute:{CLAIMS[wrong][0]}")


def _step(dish: Dish, rng: random.Random) -> Asked:
    """What falls into the pot, and how often."""
    (food, times), negative = dish.additions[0], ""
    if rng.random() < 0.5:
        negative = rng.choice(("attribute:object", "attribute:count"))
        if negative == "attribute:object":
            food = rng.choice([name for name in INGREDIENTS if name != food])
        else:
            times = rng.choice([count for count in range(1, MAX_TIMES + 1) if count != times])
    look = INGREDIENTS[food]
    return Asked("step", f"{times} {look.colour} {look.shape}", not negative, negative, "step")


def _parts(rng: random.Random) -> list[str]:
    """What a text claims: two things, or the plate and two others; in any order."""
    parts = rng.sample(list(CLAIMS), 2)
    if "plate" not in parts and rng.random() < 0.5:
        parts.insert(rng.randrange(3), "plate")
    return parts


def _told(dish: Dish, parts: Sequence[str]) -> Claims:
    shown = looks(dish)
    return {part: shown[part] for part in parts}


def _other(part: str, value: str, rng: random.Random) -> str:
    return rng.choice([one for one in VALUES[part] if one != value])


def _written(dish: Dish, claims: Claims, rng: random.Random) -> str:
    """The claims in one of FORMATS, one time in six behind the card of the dish."""
    text = rng.choice(FORMATS)(claims)
    return f"{words.card(dish, rng)}\n{text}" if rng.random() < 1 / 6 else text
