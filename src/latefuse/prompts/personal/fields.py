"""What goes into a personalised prompt and what comes out of it: plain records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Directory:
    """What items and users are called in prompts, by code; a code is a row of the items table, or of the users.

    ids: the words of each item's id (`personal.ids`). titles: of each item. users: the word of each user, as
    `user_17`. names: of each user, "" where there is none: then the word stands in its place.
    """

    ids: Sequence[str]
    titles: Sequence[str]
    users: Sequence[str]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Fields:
    """What a row fills into a template.

    user: its code. history: item codes, the oldest first. candidates: item codes. item: the one that is asked about, or
    that is the answer. An item code of -1 is one that the catalogue does not have. liked: whether the answer is yes.
    stars (0: none), headline, feature, text: of the review. row: what messages call it.
    """

    user: int
    history: Sequence[int] = ()
    candidates: Sequence[int] = ()
    item: int = -1
    liked: bool = False
    stars: float = 0.0
    headline: str = ""
    feature: str = ""
    text: str = ""
    row: str = "?"


@dataclass(frozen=True)
class Limits:
    """tokens: of a question, its end token included. answer: of an answer, the same. words: tokens of each name, title,
    headline or feature. history: items that a history shows at most, None for all that fit.
    """

    tokens: int = 1024
    answer: int = 64
    words: int = 64
    history: int | None = None


@dataclass(frozen=True)
class Encoded:
    """One prompt. L positions: ids the tokens; words the whole-word index (0: end token); items the code of the item of
    a visual slot, else -1; slot which of its k tokens, else -1.

    target: the answer's tokens with the end token. cut: items of the history that did not fit. shortened: tokens of
    names, titles, headlines, features and the answer that their limits left out.
    """

    ids: list[int]
    words: list[int]
    items: list[int]
    slot: list[int]
    target: list[int]
    family: str
    template: str
    cut: int = 0
    shortened: int = 0
