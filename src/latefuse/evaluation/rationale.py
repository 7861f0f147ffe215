"""Why a judge said so: a second generation behind the verdict, apart from it, for people to read.

It decides nothing. The backbone writes it without the judge's adapter, which has only learned to say labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latefuse.models import adapters
from latefuse.prompts.judgement import Shot, reason_turns
from latefuse.tasks import instruct
from latefuse.tasks.conversation import Example
from latefuse.tasks.judge import Writer
from latefuse.training.features import Features

TOKENS = 48


def explain(
    writer: Writer,
    rows: Sequence[dict[str, Any]],
    said: Sequence[bool],
    *,
    features: Features,
    batch_size: int = 16,
    max_new_tokens: int = TOKENS,
) -> list[str]:
    """One sentence a row, "" where the row is too long to be asked again. said: whether each was called relevant."""
    asked: list[Example] = []
    places = []
    for place, (row, label) in enumerate(zip(rows, said, strict=True)):
        shot = Shot(row["image"] or "", row["text"] or "", label)
        turns, media = reason_turns(shot, row["instruction"], writer.settings, writer.task.modality, writer.template)
        found = writer.splicer.encode(turns, media, writer.task.train.max_tokens, row["id"])
        if found is not None:
            asked.append(
                Example(
                    row=row["id"],
                    item=row["item"] or "",
                    modality="image",
                    topic=row["task"] or "",
                    input_ids=found.input_ids,
                    labels=found.labels,
                    prompt_ids=found.input_ids[: found.prompt],
                    answer="",
                    truth={},
                    media=found.media,
                    turns=tuple(dict(turn) for turn in found.turns),
                    shown=tuple(bool(ref.path) for ref in found.media),
                )
            )
            places.append(place)
    out = [""] * len(rows)
    with adapters.active(writer.backbone, None):
        told = instruct.predict(writer.backbone, asked, max_new_tokens, features=features, batch_size=batch_size)
    for place, text in zip(places, told, strict=True):
        out[place] = text
    return out
