"""A judgement as turns of a conversation: the rule first, then demonstrations, then what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from latefuse.config import Modality
from latefuse.config_judge import Judge
from latefuse.prompts.render import MediaRef, escape
from latefuse.sections import Section

FOLDER = Path(__file__).parent / "templates" / "judge"


class JudgeTemplate(Section):
    """How a judgement becomes words.

    conversations: the conversation templates whose backbones use this one; empty for all others. opening: stands once,
    before everything; it is the same for all rows of a rule. picture, text: what is judged, of which an arm may read
    one alone; join: between them. reason: what is asked behind a verdict; with the picture's slot in it, it is asked
    anew and of the picture alone.
    """

    conversations: tuple[str, ...] = ()
    opening: str = Field(pattern=r"\{instruction\}")
    picture: str = Field(pattern=r"\{picture\}")
    text: str = Field(pattern=r"\{text\}")
    join: str
    reason: str


@dataclass(frozen=True)
class Shot:
    """One judgement. picture: its path in the dataset, empty where there is none. label: None where it is asked for."""

    picture: str
    text: str
    label: bool | None = None


@cache
def judge_template(conversation: str) -> JudgeTemplate:
    """The template for backbones of a conversation template, by its name."""
    found = [JudgeTemplate.model_validate(yaml.safe_load(path.read_text("utf-8"))) for path in FOLDER.glob("*.yaml")]
    own = [template for template in found if conversation in template.conversations]
    return own[0] if own else next(template for template in found if not template.conversations)


def opening(settings: Judge, instruction: str, template: JudgeTemplate) -> str:
    """The rule and the labels; without the rule in the control that does not show it. Its words open no media slot."""
    rule = " ".join(instruction.split()) if settings.instruction else ""
    filled = template.opening.replace("{relevant}", settings.relevant).replace("{not_relevant}", settings.not_relevant)
    return filled.replace("{instruction}", escape(rule))


def turns_of(
    shots: Sequence[Shot], instruction: str, settings: Judge, inputs: Sequence[Modality], template: JudgeTemplate
) -> tuple[list[dict[str, str]], list[MediaRef]]:
    """Turns and media of demonstrations and, last, what is asked.

    inputs: what the arm reads, `image`, `text` or both. A label of None leaves the conversation at its question.
    """
    turns: list[dict[str, str]] = []
    media: list[MediaRef] = []
    lead = opening(settings, instruction, template)
    for shot in shots:
        parts = [template.picture.replace("{picture}", "<image>")] if "image" in inputs else []
        parts += [template.text.replace("{text}", escape(shot.text))] if "text" in inputs else []
        turns.append({"role": "user", "text": lead + template.join.join(parts)})
        media += [MediaRef("image", shot.picture)] if "image" in inputs else []
        if shot.label is not None:
            turns.append({"role": "assistant", "text": settings.label(shot.label)})
        lead = ""
    return turns, media


def reason_turns(
    shot: Shot, instruction: str, settings: Judge, inputs: Sequence[Modality], template: JudgeTemplate
) -> tuple[list[dict[str, str]], list[MediaRef]]:
    """Turns and media that ask why, behind the verdict of a shot. The last turn, an empty answer, is to be written."""
    alone = "{picture}" in template.reason
    turns, media = ([], []) if alone else turns_of([shot], instruction, settings, inputs, template)
    if alone and "image" in inputs:
        media = [MediaRef("image", shot.picture)]
    asked = template.reason.replace("{picture}", "<image>" if media and alone else "").strip()
    return [*turns, {"role": "user", "text": asked}, {"role": "assistant", "text": "."}], media
