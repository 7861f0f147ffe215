"""Judgements out of pictures with texts: each right text beside a wrong one of the same picture.

A wrong caption of a real picture is a *probable* negative: it may fit by accident. So each is held against all captions
of the picture before it is taken, and the share that fits all the same has to be looked at by people.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import Field

from latefuse.data.schema import SPLITS
from latefuse.data.sources.files import Row
from latefuse.data.splits import cut, uniform
from latefuse.sections import Section, Share

Kind = Literal["random", "same-class", "nearest", "attribute"]
NEIGHBOURS, TRIES = 10, 50
"""Nearest pictures, and drawn ones, among which a wrong caption is looked for."""
OWN = 0.5
"""Share of a caption's telling words that stand in the picture's own captions from which on it may well fit."""

SWAPS: Mapping[str, Sequence[Sequence[str]]] = {
    "colour": (("red", "blue", "green", "yellow", "black", "white", "brown", "orange", "pink", "purple"),),
    "count": (("two", "three", "four", "five", "six"), ("one", "several")),
    "object": (
        ("man", "woman"), ("men", "women"), ("boy", "girl"), ("boys", "girls"), ("dog", "cat", "horse"),
        ("dogs", "cats", "horses"), ("bike", "car", "boat"), ("ball", "frisbee", "stick"), ("grass", "snow", "sand"),
        ("beach", "street", "field", "mountain"), ("shirt", "jacket", "dress"), ("hat", "helmet"),
    ),
    "relation": (
        ("on", "under"), ("in front of", "behind"), ("up", "down"), ("inside", "outside"), ("over", "below"),
        ("left", "right"), ("into", "out of"),
    ),
}  # fmt: skip
"""What is swapped -> groups of words of which one may stand for another and then says something else."""


class Judged(Section):
    """How captions become judgements.

    per_picture: right captions of a picture, each with one wrong beside it. kinds: of the wrong ones, in turn; one that
    a picture does not allow becomes a random one; same-class needs classes. instruction: the rule. valid, test, seed:
    splits are drawn here, since a wrong caption is another picture's and must be of the same split; those that the
    source gives are kept.
    """

    per_picture: int = Field(2, ge=1)
    kinds: tuple[Kind, ...] = Field(("random", "nearest", "attribute"), min_length=1)
    instruction: str = "The text is a caption. It is relevant when all that it says can be seen in the picture."
    valid: Share = 0.1
    test: Share = 0.2
    seed: int = 0

    def split(self, key: str) -> str:
        """The split of a picture that the source gives none."""
        return SPLITS[int(cut(uniform([key], self.seed), self.valid, self.test)[0])]


@dataclass(frozen=True)
class Captioned:
    """A picture by its key, with its captions, its split, the path of its file, and the class that it shares with
    others, "" where it has none."""

    key: str
    captions: Sequence[str]
    split: str
    path: str
    group: str = ""


@dataclass(frozen=True)
class Claim:
    """A caption said of a picture. negative: the kind of a wrong one, "" for a right one."""

    key: str
    text: str
    negative: str


class Claims:
    """Right and wrong captions of pictures, all of one seed. Texts and a sparse matrix of them are held in memory."""

    def __init__(self, pictures: Sequence[Captioned], how: Judged) -> None:
        self.pictures, self.how = pictures, how
        self.rooms: dict[str, list[int]] = defaultdict(list)
        self.classes: dict[tuple[str, str], list[int]] = defaultdict(list)
        for number, picture in enumerate(pictures):
            self.rooms[picture.split].append(number)
            if picture.group:
                self.classes[picture.split, picture.group].append(number)

    def rows(self, task: str, source: str) -> Iterator[Row]:
        """As rows of the table judgements."""
        known = {picture.key: picture for picture in self.pictures}
        for number, claim in enumerate(self):
            picture = known[claim.key]
            yield {
                "id": f"judgement:{claim.key}#{number}", "task": task, "instruction": self.how.instruction,
                "image": picture.path, "text": claim.text, "label": not claim.negative, "source": source,
                "negative": claim.negative, "item": claim.key, "split_item": picture.split,
                "_line": picture.path,
            }  # fmt: skip

    def __iter__(self) -> Iterator[Claim]:
        """As many wrong captions as right ones, picture by picture."""
        turn = 0
        for number, picture in enumerate(self.pictures):
            rng = random.Random(f"{self.how.seed}/{picture.key}")
            for caption in rng.sample(list(picture.captions), min(self.how.per_picture, len(picture.captions))):
                kind = self.how.kinds[turn % len(self.how.kinds)]
                wrong = self._wrong(kind, number, caption, rng)
                turn += 1
                if wrong is not None:
                    yield Claim(picture.key, caption, "")
                    yield wrong

    def _wrong(self, kind: Kind, number: int, caption: str, rng: random.Random) -> Claim | None:
        """A wrong caption of the kind, else a random one; None where no other picture of the split has one."""
        key = self.pictures[number].key
        if kind == "attribute":
            swapped = swap(caption, self.pictures[number].captions, rng)
            if swapped:
                return Claim(key, swapped[0], f"attribute:{swapped[1]}")
        if kind == "nearest":
            for other in self._nearest[number]:
                text = self._of_another(number, other, rng)
                if text:
                    return Claim(key, text, "nearest")
        if number in self._exchanged:
            text, what = self._exchanged[number]
            return Claim(key, text, what)
        found = self._drawn(number, self.rooms[self.pictures[number].split], rng)
        return Claim(key, found, "random") if found else None

    @cached_property
    def _exchanged(self) -> dict[int, tuple[str, str]]:
        """Picture -> the text that another one gives it, and the kind of that, where pictures have classes.

        Texts change hands, so that each is wrong as often as it is right: words alone must not tell the label.
        """
        if not self.classes:
            return {}
        kinds = {number: self.how.kinds[number % len(self.how.kinds)] for number in range(len(self.pictures))}
        found: dict[int, tuple[str, str]] = {}
        for kind, rooms in (("same-class", self.classes), ("random", self.rooms)):
            for room in rooms.values():
                some = [n for n in room if n not in found and kinds[n] in ("same-class", kind)]
                found |= {number: (text, kind) for number, text in self._exchange(some).items()}
        return found

    def _exchange(self, room: Sequence[int]) -> dict[int, str]:
        """The texts of some pictures in another order, drawn so that each is wrong where it comes to.

        Left out is who would get one that may well fit, as where half of the pictures share a text.
        """
        given = {number: self.pictures[number].captions[0] for number in room}
        rng = random.Random(f"{self.how.seed}/{len(room)}/{self.pictures[room[0]].key if room else ''}")
        for _ in range(TRIES):
            for number in [number for number in room if not self._is_wrong(number, given[number])]:
                other = rng.choice(room)
                given[number], given[other] = given[other], given[number]
        return {number: text for number, text in given.items() if self._is_wrong(number, text)}

    def _is_wrong(self, number: int, text: str) -> bool:
        return _share(telling(text), telling(" ".join(self.pictures[number].captions))) < OWN

    def _drawn(self, number: int, room: Sequence[int], rng: random.Random) -> str:
        """A caption of some other picture in the room; "" where none is found that is wrong."""
        others = (self._of_another(number, other, rng) for other in rng.sample(room, min(len(room), TRIES)))
        return next(filter(None, others), "")

    def _of_another(self, number: int, other: int, rng: random.Random) -> str:
        """A caption of another picture that says little of what this picture's captions say; "" where it has none."""
        if other == number:
            return ""
        own = telling(" ".join(self.pictures[number].captions))
        captions = list(self.pictures[other].captions)
        rng.shuffle(captions)
        return next((text for text in captions if _share(telling(text), own) < OWN), "")

    @cached_property
    def _nearest(self) -> dict[int, list[int]]:
        """Picture -> those of its split whose captions are most alike, by TF-IDF, the nearest first."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.neighbors import NearestNeighbors

        words = TfidfVectorizer(stop_words="english", sublinear_tf=True)
        matrix = words.fit_transform([" ".join(picture.captions) for picture in self.pictures])
        found: dict[int, list[int]] = {}
        for room in self.rooms.values():
            part = matrix[np.array(room)]
            near = NearestNeighbors(n_neighbors=min(NEIGHBOURS + 1, len(room)), metric="cosine").fit(part)
            for number, others in zip(room, near.kneighbors(part, return_distance=False).tolist(), strict=True):
                found[number] = [room[other] for other in others if room[other] != number]
        return found


def swap(caption: str, captions: Sequence[str], rng: random.Random) -> tuple[str, str] | None:
    """The caption with one word for another that no caption of the picture says, and what was swapped; None if it has
    no word of SWAPS."""
    said = " ".join(captions).casefold()
    places = [
        (found, what, group)
        for what, groups in SWAPS.items()
        for group in groups
        for found in re.finditer(rf"\b({'|'.join(map(re.escape, group))})\b", caption, re.IGNORECASE)
    ]
    rng.shuffle(places)
    for found, what, group in places:
        others = [word for word in group if not re.search(rf"\b{re.escape(word)}\b", said)]
        if others:
            word = rng.choice(others)
            word = word[0].upper() + word[1:] if found[0][0].isupper() else word
            return caption[: found.start()] + word + caption[found.end() :], what
    return None


def telling(text: str) -> set[str]:
    """The words of a text that say something of a picture, without their plural."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    words = re.findall(r"[^\W\d_]+", text.casefold())
    return {word.removesuffix("s") for word in words if word not in ENGLISH_STOP_WORDS and len(word) > 1}


def _share(words: set[str], own: set[str]) -> float:
    return len(words & own) / len(words) if words else 1.0
