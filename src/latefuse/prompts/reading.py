"""How a language model is asked to sum up reviews or to describe a picture: templates as data, with versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from latefuse.sections import Section

FOLDER = Path(__file__).parent / "templates" / "readings"
CURRENT = "v1"
MARKS = re.compile(r"<(?=\s*/?\s*review\b)|<(?=\|)|(?<=\|)>", re.IGNORECASE)
"""What in a review could end it, or pass for a control token of a chat template."""


class ReadingTemplate(Section):
    """item, user: of reviews. picture: beside a picture. review: one of the reviews.

    max_words: of all reviews of a prompt; where there are more, the oldest reviews go first, and of a single one that
    is longer its end.
    """

    version: str
    max_words: int = Field(ge=1)
    item: str = Field(pattern=r"\{reviews\}")
    user: str = Field(pattern=r"\{reviews\}")
    picture: str = Field(pattern=r"\{words\}")
    review: str = Field(pattern=r"\{text\}")

    def reviews(self, of: str, documents: Sequence[str], words: int) -> str:
        """The prompt of kind `item` or `user`, with all documents in it; they can't end their own marks."""
        told = "\n".join(self.review.replace("{text}", harmless(document)) for document in documents)
        asked = self.item if of == "item" else self.user
        return asked.replace("{words}", f"{words}").replace("{reviews}", told)

    def look(self, words: int) -> str:
        """The prompt beside a picture."""
        return self.picture.replace("{words}", f"{words}")


@cache
def reading_template(version: str = CURRENT) -> ReadingTemplate:
    """The template of a version."""
    return ReadingTemplate.model_validate(yaml.safe_load((FOLDER / f"{version}.yaml").read_text(encoding="utf-8")))


def harmless(text: str) -> str:
    """A review that opens no mark and no control token: the angle brackets of such become ‹ and ›."""
    return MARKS.sub(lambda found: "‹" if found[0] == "<" else "›", text)


def newest(documents: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> int:
    """How many of the newest documents fit together, at least one. Found by bisection: more never fit better."""
    low, high = 1, len(documents)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(documents[-middle:]) else (low, middle - 1)
    return low


def shortened(document: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a document, in whole words, that fits; all of it where it does."""
    if fits(document):
        return document
    words = document.split()
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(" ".join(words[:middle])) else (low, middle - 1)
    return " ".join(words[:low])
