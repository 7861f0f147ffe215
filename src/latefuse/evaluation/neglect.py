"""Knock-outs: what is left of an answer or a vector when a modality is taken away, made constant, noise, or shuffled.

Identity that was memorised survives shuffling, content does not. A knock-out changes what is shown and nothing else:
truth, answer and pairs stay, so the same scores can be paired row by row with the untouched ones. Rows are
conversations or items of a catalogue; a knock-out sees them through the `View` of their type.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, Protocol, TypeVar

from latefuse.config import MODALITIES, Modality
from latefuse.prompts import Item, MediaRef
from latefuse.tasks.conversation import Example

GREY = 128
NO_TEXT = "no text"
_SLOT = re.compile(r"(?<!\\)<(?:image|video)>\n?")

Row = TypeVar("Row")
Kind = tuple[str, int]
Told = Callable[[int, "View"], Sequence[str]]


class KnockOut(Protocol):
    """Rows in, as many of the same type out; what is drawn is drawn by the seed."""

    def __call__(self, rows: Sequence[Row], modality: Modality, seed: int = 0) -> list[Row]: ...


class View(Protocol):
    """What a knock-out sees of a row and can change in it; whatever it changes makes a new row.

    key: names the row. item: what it is of. words: its fields of words, `no_words` when they are taken away; `least`:
    words that noise puts into a field. kind: what rows must have in common to swap a modality; None for a row that does
    not have it and is left as it is. paths: of the media of a modality that can be replaced.
    """

    @property
    def least(self) -> int: ...

    @property
    def no_words(self) -> tuple[str, ...]: ...

    @property
    def key(self) -> str: ...

    @property
    def item(self) -> str: ...

    @property
    def media(self) -> Sequence[MediaRef]: ...

    @property
    def words(self) -> tuple[str, ...]: ...

    def kind(self, modality: Modality) -> Kind | None: ...

    def paths(self, modality: Modality) -> list[str]: ...

    def with_media(self, modality: Modality, paths: Sequence[str]) -> Any: ...

    def with_words(self, words: Sequence[str]) -> Any: ...


@singledispatch
def view(row: Any) -> View:
    """The view of a row, by its type."""
    raise TypeError(f"rows of type {type(row).__name__} have no view; register one with `neglect.view`")


def absent(rows: Sequence[Row], modality: Modality, seed: int = 0) -> list[Row]:
    """The medium is missing; where a question is knocked out, 'no text' stands in its place."""
    return _replaced(rows, modality, lambda _, one: one.no_words, lambda _, one: [""] * len(one.paths(modality)))


def constant(rows: Sequence[Row], modality: Modality, seed: int = 0) -> list[Row]:
    """Every row gets the same grey picture or clip, or the words of one and the same row of its kind."""
    first: dict[Kind | None, Sequence[str]] = {}
    for one in sorted(map(view, rows), key=lambda one: one.key):
        first.setdefault(one.kind("text"), one.words)
    grey = f"constant:{GREY}"
    return _replaced(
        rows, modality, lambda _, one: first[one.kind("text")], lambda _, one: [grey] * len(one.paths(modality))
    )


def noise(rows: Sequence[Row], modality: Modality, seed: int = 0) -> list[Row]:
    """Random pixels, another seed for every row; for words, as many drawn from all words of its kind."""
    pool: dict[Kind | None, list[str]] = {}
    for one in map(view, rows):
        pool.setdefault(one.kind("text"), []).extend(word for field in one.words for word in field.split())

    def pixels(_: int, one: View) -> list[str]:
        return [f"noise:{_number(one, seed) + k}" for k in range(len(one.paths(modality)))]

    return _replaced(rows, modality, lambda _, one: _random_words(one, pool[one.kind("text")], seed), pixels)


def shuffled(rows: Sequence[Row], modality: Modality, seed: int = 0) -> list[Row]:
    """Every row gets the media, or the words, of another item's row of its kind: a derangement of items by seed.

    All media of a modality move together. Raises ValueError where only one item has rows of a kind.
    """
    donors = _donors(rows, modality, seed)
    return _replaced(
        rows, modality, lambda number, _: donors[number].words, lambda number, _: donors[number].paths(modality)
    )


KNOCK_OUTS: dict[str, KnockOut] = {"absent": absent, "constant": constant, "noise": noise, "shuffled": shuffled}


def only(rows: Iterable[Row], modality: Modality) -> list[Row]:
    """The rows with every other modality absent."""
    left = list(rows)
    for other in MODALITIES:
        left = left if other == modality else absent(left, other)
    return left


def modalities_of(rows: Sequence[Any]) -> list[Modality]:
    """What can be knocked out: the media that rows have, and their words where those differ from row to row."""
    views = [view(row) for row in rows]
    found = {ref.modality for one in views for ref in one.media if ref.path}
    told = [one.words for one in views if one.kind("text")]
    if len(set(told)) > max(1, len(told) // 2):
        found.add("text")
    return [modality for modality in MODALITIES if modality in found]


def can_shuffle(rows: Sequence[Any], modality: Modality) -> bool:
    """Whether every kind of rows has two items at least."""
    groups = _groups([view(row) for row in rows], modality)
    return bool(groups) and all(len(items) > 1 for items in groups.values())


@dataclass(frozen=True)
class _Conversation:
    """A conversation's words are those of its last question without its media slots; rows of one topic may swap."""

    row: Example
    least = 1
    no_words = (NO_TEXT,)

    @property
    def key(self) -> str:
        return self.row.row

    @property
    def item(self) -> str:
        return self.row.item or self.row.row

    @property
    def media(self) -> Sequence[MediaRef]:
        return self.row.media

    @property
    def words(self) -> tuple[str, ...]:
        return (_SLOT.sub("", self.row.turns[-2]["text"]).strip(),)

    def kind(self, modality: Modality) -> Kind:
        """The topic and, since a slot takes one medium, how many media there are."""
        return f"topic {self.row.topic!r}", 0 if modality == "text" else len(self.paths(modality))

    def paths(self, modality: Modality) -> list[str]:
        return [ref.path for ref in self.row.media if ref.modality == modality]

    def with_media(self, modality: Modality, paths: Sequence[str]) -> Example:
        """Slot by slot; an absent medium stays absent: a knock-out can't give a row what it never had."""
        waiting = iter(paths)
        media = []
        for ref in self.row.media:
            path = next(waiting) if ref.modality == modality else ref.path
            media.append(MediaRef(ref.modality, path if ref.path else ""))
        return replace(self.row, media=tuple(media))

    def with_words(self, words: Sequence[str]) -> Example:
        slots = "".join(_SLOT.findall(self.row.turns[-2]["text"]))
        turns = [dict(turn) for turn in self.row.turns]
        turns[-2]["text"] = f"{slots}{words[0]}"
        return replace(self.row, turns=tuple(turns))


@dataclass(frozen=True)
class _Item:
    """An item's words are its title, its text and its topics; items that have a modality may swap it."""

    row: Item
    least = 0
    no_words = ("", "")

    @property
    def key(self) -> str:
        return self.row.id

    @property
    def item(self) -> str:
        return self.row.id

    @property
    def media(self) -> Sequence[MediaRef]:
        return self.row.media

    @property
    def words(self) -> tuple[str, ...]:
        return (self.row.title, self.row.text, *self.row.topics)

    def kind(self, modality: Modality) -> Kind | None:
        there = any(word.strip() for word in self.words) if modality == "text" else bool(self.paths(modality))
        return (f"items with {modality}", 0) if there else None

    def paths(self, modality: Modality) -> list[str]:
        return [ref.path for ref in self.row.media if ref.modality == modality and ref.path]

    def with_media(self, modality: Modality, paths: Sequence[str]) -> Item:
        """All at once, where the first of that modality stands: the numbers may differ."""
        media: list[MediaRef] = []
        new = [MediaRef(modality, path) for path in paths]
        for ref in self.row.media:
            if ref.modality != modality:
                media.append(ref)
            else:
                media, new = media + new, []
        return replace(self.row, media=tuple(media))

    def with_words(self, words: Sequence[str]) -> Item:
        return replace(self.row, title=words[0], text=words[1], topics=tuple(words[2:]))


view.register(Example, _Conversation)
view.register(Item, _Item)


def _replaced(rows: Sequence[Row], modality: Modality, words: Told, paths: Told) -> list[Row]:
    """The rows with other words or media; a row that does not have the modality as it is."""
    changed: list[Row] = []
    for number, row in enumerate(rows):
        one = view(row)
        if one.kind(modality) is None:
            changed.append(row)
        elif modality == "text":
            changed.append(one.with_words(words(number, one)))
        else:
            changed.append(one.with_media(modality, paths(number, one)))
    return changed


def _donors(rows: Sequence[Any], modality: Modality, seed: int) -> dict[int, View]:
    """Number of a row -> the view of the row that it gets the modality of."""
    views = [view(row) for row in rows]
    donors: dict[int, View] = {}
    for (name, _), items in _groups(views, modality).items():
        if len(items) < 2:
            raise ValueError(f"{name}: only the item {next(iter(items))!r} has such rows, nothing to shuffle with")
        order = sorted(items)
        random.Random(seed).shuffle(order)
        for item, donor in zip(order, [*order[1:], order[0]], strict=True):
            for k, number in enumerate(items[item]):
                donors[number] = views[items[donor][k % len(items[donor])]]
    return donors


def _groups(views: Sequence[View], modality: Modality) -> dict[Kind, dict[str, list[int]]]:
    """Kind -> item -> the numbers of its rows."""
    groups: dict[Kind, dict[str, list[int]]] = {}
    for number, one in enumerate(views):
        kind = one.kind(modality)
        if kind is not None:
            groups.setdefault(kind, {}).setdefault(one.item, []).append(number)
    return groups


def _number(one: View, seed: int) -> int:
    return zlib.crc32(f"{seed}/{one.key}".encode()) * 16


def _random_words(one: View, pool: Sequence[str], seed: int) -> list[str]:
    draw = random.Random(_number(one, seed))
    return [" ".join(draw.choices(pool, k=max(len(field.split()), one.least))) for field in one.words]
