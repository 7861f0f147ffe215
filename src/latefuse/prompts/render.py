"""A conversation as typed segments: text, control tokens, media slots, each marked as answer or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from latefuse.config import Modality
from latefuse.errors import UserError
from latefuse.prompts.template import Template, load

ANY_PLACEHOLDER = re.compile(r"<(?:image|video)>")
PLACEHOLDER = re.compile(r"(?<!\\)<(image|video)>")
ESCAPED = re.compile(r"\\(<(?:image|video)>)")
END = "{end}"


class PromptError(UserError, ValueError):
    """A conversation that can't be written with a template; the message names the row and what to do."""


@dataclass(frozen=True)
class MediaRef:
    """One medium of a row: its modality and its path in the dataset; an empty path is an absent medium."""

    modality: Modality
    path: str


@dataclass(frozen=True)
class Segment:
    """A piece of a rendered row.

    kind: "text" (words, tokenised as plain text), "control" (one token, named by `text`; `{end}` is the end token) or
    "media" (the slot of `media`). answer: whether the loss reads it. turn: the number of the turn it belongs to.
    """

    kind: Literal["text", "control", "media"]
    text: str = ""
    media: MediaRef | None = None
    answer: bool = False
    turn: int = 0


def escape(text: str) -> str:
    """Text in which no placeholder opens a media slot; `render` writes it as it was."""
    return ANY_PLACEHOLDER.sub(r"\\\g<0>", text)


def render(
    turns: Sequence[Mapping[str, Any]], media: Sequence[Any], template: Template | None = None, row: str = "?"
) -> list[Segment]:
    """Turns of {"role", "text"} and media of {modality, path} (mappings or MediaRef) as segments, in order.

    A placeholder in a user turn takes the next medium; one in an answer, or an escaped one, is plain text. A row that
    ends in a user turn ends in the opening of the answer. Raises PromptError on roles that don't alternate, on a
    placeholder without medium, a medium without placeholder, and one of another modality.
    """
    template = template or load("v1")
    refs = [as_ref(medium, row) for medium in media]
    check_roles(turns, row)
    check_placeholders(turns, refs, row)
    waiting = iter(refs)
    segments = list(_pieces(template.system, template))
    for number, turn in enumerate(turns):
        if turn["role"] == "user":
            segments += _question(turn["text"], waiting, template, number)
        else:
            segments += _pieces(template.open, template, turn=number)
            segments += _answer(turn["text"], template, number)
    if turns[-1]["role"] == "user":
        segments += _pieces(template.open, template, turn=len(turns))
    return segments


def as_ref(medium: Any, row: str) -> MediaRef:
    """A MediaRef from itself or from {modality, path}; a path of None is absent."""
    if isinstance(medium, MediaRef):
        return medium
    modality = medium["modality"]
    if modality not in ("image", "video"):
        raise PromptError(f"row {row}: a medium of modality {modality!r}; expected 'image' or 'video'")
    return MediaRef(modality, medium["path"] or "")


def check_roles(turns: Sequence[Mapping[str, Any]], row: str) -> None:
    """User and assistant in turn, the user first. Raises PromptError."""
    if not turns:
        raise PromptError(f"row {row}: a conversation without turns")
    for number, turn in enumerate(turns):
        wanted = "user" if number % 2 == 0 else "assistant"
        if turn["role"] != wanted:
            found = turn["role"]
            raise PromptError(f"row {row}: turn {number + 1} is by {found!r}, expected {wanted!r}: turns alternate")


def check_placeholders(turns: Sequence[Mapping[str, Any]], refs: Sequence[MediaRef], row: str) -> None:
    """As many placeholders in user turns as media, of the same modalities in the same order. Raises PromptError."""
    slots = [slot for turn in turns if turn["role"] == "user" for slot in PLACEHOLDER.findall(turn["text"])]
    if slots != [ref.modality for ref in refs]:
        raise PromptError(
            f"row {row}: {len(slots)} placeholder(s) {slots} in the questions but {len(refs)} medium/media "
            f"{[ref.modality for ref in refs]}; write one <image> or <video> per medium in order, and a literal "
            r"placeholder as \<image>"
        )


def _question(text: str, waiting: Iterator[MediaRef], template: Template, turn: int) -> Iterator[Segment]:
    before, after = template.user.split("{text}")
    yield from _pieces(before, template, turn=turn)
    parts = PLACEHOLDER.split(text.strip())
    at_front, gap = True, ""
    for place, part in enumerate(parts):
        if place % 2:
            ref = next(waiting)
            absent = template.absent[ref.modality]
            yield Segment("media", media=ref, turn=turn) if ref.path else Segment("text", absent, turn=turn)
            gap = template.media_break or ("" if ref.path else " ")
            continue
        words = part.lstrip() if at_front else part
        if words:
            lead = gap if at_front and place else ""
            yield Segment("text", lead + ESCAPED.sub(r"\1", words), turn=turn)
            at_front = False
    yield from _pieces(after, template, turn=turn)


def _answer(text: str, template: Template, turn: int) -> Iterator[Segment]:
    before, after = template.answer.split("{text}")
    plain = ESCAPED.sub(r"\1", text.strip())
    yield Segment("text", before + plain, answer=True, turn=turn)
    yield from _pieces(after, template, answer=True, turn=turn)
    yield from _pieces(template.close, template, turn=turn)


def _pieces(literal: str, template: Template, answer: bool = False, turn: int = 0) -> Iterator[Segment]:
    """A literal of the template cut at its control tokens; only the template's own words are looked at."""
    controls = (END, *template.control)
    for piece in re.split("|".join(f"({re.escape(control)})" for control in controls), literal):
        if piece:
            yield Segment("control" if piece in controls else "text", piece, answer=answer, turn=turn)
