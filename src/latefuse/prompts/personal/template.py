"""The 29 templates of personalised prompts (VIP5, arXiv 2305.14302): one YAML file a family, each a checked record."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, model_validator

from latefuse.sections import Section, nearest

FOLDER = Path(__file__).parents[1] / "templates" / "personal"
SLOT = re.compile(r"\{(\w+)\}")

Family = Literal["sequential", "direct", "explanation"]
FAMILIES: tuple[Family, ...] = ("sequential", "direct", "explanation")
ITEMS = ("history", "candidate", "candidates", "item")
"""Slots of items: numbers with visual slots, and in `item` the title with them."""
TEXTS = ("headline", "stars", "feature")
"""Slots of what a review says."""
YES, NO = "yes", "no"
UNKNOWN, NOTHING, ANY = "unknown", "nothing", "item"
"""The words for an item that the catalogue does not have, for a history without any, and for any item at all."""
ANSWERS = ("{number}", "{verdict}", "{text}", "{stars} , {text}")


class PersonalTemplate(Section):
    """How the fields of a row become a question and an answer.

    ask: words and slots with a blank around each: {user} the user's number, {name} the user's name, {history},
    {candidate}, {candidates}, {item}, {headline}, {stars}, {feature}. answer: the number of an item, yes or no, a text,
    or stars before a text. join: what stands between the items of a list.
    """

    ask: str
    answer: Literal["{number}", "{verdict}", "{text}", "{stars} , {text}"]
    join: str = ","

    @model_validator(mode="after")
    def _slots_are_known(self) -> Self:
        known = {"user", "name", *ITEMS, *TEXTS}
        for word in self.ask.split():
            for slot in SLOT.findall(word):
                if slot not in known:
                    raise ValueError(f"no slot {{{slot}}}{nearest(slot, known)}")
                if word != f"{{{slot}}}":
                    raise ValueError(f"{word!r}: a slot has blanks around it")
        slots = self.slots
        if len(set(slots)) != len(slots) or ("user" in slots) == ("name" in slots):
            raise ValueError(f"slots {list(slots)}: each once, and of {{user}} and {{name}} one")
        if not set(slots) & set(ITEMS):
            raise ValueError(f"slots {list(slots)}: none shows an item")
        return self

    @property
    def slots(self) -> tuple[str, ...]:
        """The slots of the question, in order."""
        return tuple(SLOT.findall(self.ask))

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields of a review that a row must have: of the question and of the answer."""
        told = [slot for slot in self.slots if slot in TEXTS]
        return tuple(dict.fromkeys([*told, *(slot for slot in SLOT.findall(self.answer) if slot in ("stars", "text"))]))


class PersonalFamily(Section):
    """The templates of a family by name. seen, also, unseen: what is evaluated, of which `unseen` never trains."""

    family: Family
    seen: str
    unseen: str
    also: tuple[str, ...] = ()
    templates: dict[str, PersonalTemplate] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_there(self) -> Self:
        for name in self.evaluated:
            if name not in self.templates:
                raise ValueError(f"no template {name!r}{nearest(name, self.templates)}")
        return self

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The names of the templates that are evaluated: what stands for the family first, the unseen one last."""
        return self.seen, *self.also, self.unseen

    @property
    def trained(self) -> tuple[str, ...]:
        """The names of the templates that train."""
        return tuple(name for name in self.templates if name != self.unseen)


@cache
def family(name: Family) -> PersonalFamily:
    """The templates of a family."""
    return PersonalFamily.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def names() -> tuple[str, ...]:
    """The names of all templates, family by family."""
    return tuple(name for part in FAMILIES for name in family(part).templates)


def family_of(name: str) -> Family:
    """The family of a template. Raises ValueError with the nearest name."""
    for part in FAMILIES:
        if name in family(part).templates:
            return part
    raise ValueError(f"no template {name!r}{nearest(name, names())}")


def template(name: str) -> PersonalTemplate:
    """The template of that name. Raises ValueError with the nearest name."""
    return family(family_of(name)).templates[name]


def vocabulary() -> list[str]:
    """Every word that a template writes itself: what a small tokenizer should know whole."""
    told = [text for part in FAMILIES for one in family(part).templates.values() for text in (one.ask, one.join)]
    words = {word for text in (*told, *ANSWERS) for word in text.split() if not SLOT.fullmatch(word)}
    return sorted(words | {YES, NO, UNKNOWN, NOTHING})
