"""Segments as token ids and labels, for one tokenizer: our own placeholder expansion, and the cutting of long rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latefuse.config import Modality
from latefuse.prompts.plain import PlainText
from latefuse.prompts.render import END, PLACEHOLDER, MediaRef, PromptError, Segment, as_ref, check_placeholders, render
from latefuse.prompts.template import Template, template_for

IGNORE = -100


@dataclass(frozen=True)
class Encoded:
    """A row as token ids. labels: IGNORE outside answers. prompt: how many ids stand before the last answer.

    turns, media: what is left of the row after cutting. cut: how many exchanges were left out.
    """

    input_ids: list[int]
    labels: list[int]
    prompt: int
    turns: tuple[Mapping[str, Any], ...]
    media: tuple[MediaRef, ...]
    cut: int = 0


class Splicer:
    """The tokenizer-side half of a template.

    tokenizer: a Hugging Face tokenizer. expand: the ids that one medium of a modality takes. Plain text is tokenised
    so that no control token can come out of it, whatever it says.
    """

    def __init__(self, tokenizer: Any, template: Template, expand: Callable[[Modality], Sequence[int]]) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.expand = expand
        self.end_id = self._control_id(END)
        self._plain = PlainText(tokenizer, template.control)
        self._open_ids: list[int] | None = None

    @classmethod
    def of(cls, backbone: Any) -> Splicer:
        """The splicer of a backbone, by its family's template."""
        family = backbone.model.config.model_type
        return cls(backbone.tokenizer, template_for(family, backbone.tokenizer), backbone.placeholder_ids)

    def plain(self, text: str) -> list[int]:
        """The ids of a text without any control token: one that is spelled out in it falls apart into its letters."""
        return self._plain.ids(text)

    def answer_ids(self, text: str, end: bool = True) -> list[int]:
        """The ids of an answer as they follow the opening `ASSISTANT:`; with the end token unless `end` is False."""
        before, _ = self.template.answer.split("{text}")
        return self._continued(before + text.strip()) + ([self.end_id] if end else [])

    def splice(self, segments: Sequence[Segment]) -> tuple[list[int], list[int], int]:
        """Token ids, labels, and how many ids stand before the last answer.

        Neighbouring text of one side (question or answer) is tokenised in one go, an answer as the continuation of its
        opening, so that a prompt is a prefix of the row it asks for, token by token.
        """
        begin = [self.tokenizer.bos_token_id] if self.template.begin and self.tokenizer.bos_token_id is not None else []
        ids, labels = list(begin), [IGNORE] * len(begin)
        starts: dict[int, int] = {}
        for run in _runs(segments):
            first = run[0]
            if first.answer:
                starts.setdefault(first.turn, len(ids))
            new = self._run_ids(run)
            ids += new
            labels += new if first.answer else [IGNORE] * len(new)
        return ids, labels, starts.get(segments[-1].turn, len(ids))

    def encode(
        self, turns: Sequence[Mapping[str, Any]], media: Sequence[Any], max_tokens: int | None = None, row: str = "?"
    ) -> Encoded | None:
        """Render and splice a row, cut as the template allows until it fits into max_tokens; None if it never does."""
        left, refs = list(turns), [as_ref(medium, row) for medium in media]
        check_placeholders(left, refs, row)
        for cut in range(len(turns)):
            ids, labels, prompt = self.splice(render(left, refs, self.template, row))
            if max_tokens is None or len(ids) <= max_tokens:
                return Encoded(ids, labels, prompt, tuple(left), tuple(refs), cut)
            if self.template.cut.history == "never" or len(left) <= 2:
                return None
            left = drop_oldest(left)
        return None

    def _run_ids(self, run: Sequence[Segment]) -> list[int]:
        first = run[0]
        if first.kind == "control":
            return [self._control_id(first.text)]
        if first.media is not None:
            return list(self.expand(first.media.modality))
        text = "".join(segment.text for segment in run)
        return self._continued(text) if first.answer else self.plain(text)

    def _continued(self, text: str) -> list[int]:
        """The ids of an answer's text behind the template's opening, or alone where the tokenizer merges the two."""
        opening = _after_last_control(self.template.open, self.template.control)
        if self._open_ids is None:
            self._open_ids = self.plain(opening)
        whole = self.plain(opening + text)
        if whole[: len(self._open_ids)] == self._open_ids:
            return whole[len(self._open_ids) :]
        return self.plain(text)

    def _control_id(self, name: str) -> int:
        literal = (self.template.end or self.tokenizer.eos_token) if name == END else name
        found = self.tokenizer.convert_tokens_to_ids(literal) if literal else None
        if found is None or (found == self.tokenizer.unk_token_id and literal != self.tokenizer.unk_token):
            raise PromptError(
                f"template {self.template.name!r} needs the token {literal!r}, which this tokenizer does not have; "
                "choose another template for this backbone"
            )
        return int(found)


def drop_oldest(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The turns without the first exchange; its media slots move to the front of the next question."""
    slots = [f"<{slot}>" for slot in PLACEHOLDER.findall(turns[0]["text"])]
    question = turns[2]
    return [{**question, "text": "\n".join([*slots, question["text"]])}, *turns[3:]]


def _runs(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments with neighbouring text of the same side put together; media and control tokens stand alone."""
    runs: list[list[Segment]] = []
    for segment in segments:
        last = runs[-1][0] if runs else None
        if last is not None and segment.kind == last.kind == "text" and segment.answer == last.answer:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def _after_last_control(literal: str, controls: Sequence[str]) -> str:
    for control in controls:
        literal = literal.rsplit(control, 1)[-1]
    return literal
