"""Knock-outs: what is left of an answer when a modality is taken away, made constant, turned to noise, or shuffled.

Identity that was memorised survives shuffling, content does not. A knock-out changes the examples and nothing else:
truth and answer stay, so the same scores can be paired row by row with the untouched ones.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from latefuse.config import MODALITIES, Modality
from latefuse.prompts import MediaRef
from latefuse.tasks.instruct import Example

GREY = 128
NO_TEXT = "no text"
_SLOT = re.compile(r"(?<!\\)<(?:image|video)>\n?")

KnockOut = Callable[[Sequence[Example], Modality, int], list[Example]]


def absent(rows: Sequence[Example], modality: Modality, seed: int = 0) -> list[Example]:
    """The medium is missing; where words are knocked out, 'no text' stands in their place."""
    if modality == "text":
        return [_with_words(row, NO_TEXT) for row in rows]
    return [_with_media(row, modality, [""] * _count(row, modality)) for row in rows]


def constant(rows: Sequence[Example], modality: Modality, seed: int = 0) -> list[Example]:
    """Every row gets the same grey picture or clip, or the words of one and the same row of its topic."""
    if modality == "text":
        first: dict[str, str] = {}
        for row in sorted(rows, key=lambda row: row.row):
            first.setdefault(row.topic, _words(row))
        return [_with_words(row, first[row.topic]) for row in rows]
    return [_with_media(row, modality, [f"constant:{GREY}"] * _count(row, modality)) for row in rows]


def noise(rows: Sequence[Example], modality: Modality, seed: int = 0) -> list[Example]:
    """Random pixels, another seed for every row; for words, as many drawn from all words of the topic."""
    if modality == "text":
        pool: dict[str, list[str]] = {}
        for row in rows:
            pool.setdefault(row.topic, []).extend(_words(row).split())
        return [_with_words(row, _random_words(row, pool[row.topic], seed)) for row in rows]
    return [
        _with_media(row, modality, [f"noise:{_number(row, seed) + k}" for k in range(_count(row, modality))])
        for row in rows
    ]


def shuffled(rows: Sequence[Example], modality: Modality, seed: int = 0) -> list[Example]:
    """Every row gets the medium, or the words, of another item's row of the same topic: a derangement of items by seed.

    Raises ValueError where a topic has one item only, or where rows have different numbers of media.
    """
    donors = _donors(rows, modality, seed)
    if modality == "text":
        return [_with_words(row, _words(donor)) for row, donor in zip(rows, donors, strict=True)]
    return [
        _with_media(row, modality, [ref.path for ref in donor.media if ref.modality == modality])
        for row, donor in zip(rows, donors, strict=True)
    ]


KNOCK_OUTS: dict[str, KnockOut] = {"absent": absent, "constant": constant, "noise": noise, "shuffled": shuffled}


def modalities_of(rows: Sequence[Example]) -> list[Modality]:
    """What can be knocked out: the media that rows have, and their words where those differ from row to row."""
    media = {ref.modality for row in rows for ref in row.media if ref.path}
    told = {_words(row) for row in rows}
    if len(told) > max(1, len(rows) // 2):
        media.add("text")
    return [modality for modality in MODALITIES if modality in media]


def can_shuffle(rows: Sequence[Example], modality: Modality) -> bool:
    """Whether every group of like rows has two items at least."""
    items: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        items.setdefault(_kind(row, modality), set()).add(row.item or row.row)
    return bool(items) and all(len(group) > 1 for group in items.values())


def _donors(rows: Sequence[Example], modality: Modality, seed: int) -> list[Example]:
    groups: dict[tuple[str, int], dict[str, list[int]]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_kind(row, modality), {}).setdefault(row.item or row.row, []).append(number)
    donors: list[Example | None] = [None] * len(rows)
    for (topic, _), items in groups.items():
        if len(items) < 2:
            raise ValueError(
                f"topic {topic!r}: only the item {next(iter(items))!r} has such rows, nothing to shuffle with"
            )
        order = sorted(items)
        random.Random(seed).shuffle(order)
        for item, donor in zip(order, [*order[1:], order[0]], strict=True):
            for k, number in enumerate(items[item]):
                donors[number] = rows[items[donor][k % len(items[donor])]]
    return [donor for donor in donors if donor is not None]


def _kind(row: Example, modality: Modality) -> tuple[str, int]:
    return row.topic, 0 if modality == "text" else _count(row, modality)


def _count(row: Example, modality: Modality) -> int:
    return sum(ref.modality == modality for ref in row.media)


def _with_media(row: Example, modality: Modality, paths: Sequence[str]) -> Example:
    """An absent medium stays absent: a knock-out can't give a row what it never had."""
    waiting = iter(paths)
    media = []
    for ref in row.media:
        path = next(waiting) if ref.modality == modality else ref.path
        media.append(MediaRef(ref.modality, path if ref.path else ""))
    return replace(row, media=tuple(media))


def _words(row: Example) -> str:
    """The words of the last question without its media slots."""
    return _SLOT.sub("", row.turns[-2]["text"]).strip()


def _with_words(row: Example, words: str) -> Example:
    slots = "".join(_SLOT.findall(row.turns[-2]["text"]))
    turns = [dict(turn) for turn in row.turns]
    turns[-2]["text"] = f"{slots}{words}"
    return replace(row, turns=tuple(turns))


def _number(row: Example, seed: int) -> int:
    return zlib.crc32(f"{seed}/{row.row}".encode()) * 16


def _random_words(row: Example, pool: Sequence[str], seed: int) -> str:
    draw = random.Random(_number(row, seed))
    return " ".join(draw.choices(pool, k=max(len(_words(row).split()), 1)))
