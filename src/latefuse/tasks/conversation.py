"""Conversations as token ids: what every task over the table `conversations` starts from."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from latefuse.config import Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models.backbone import Backbone
from latefuse.prompts import MediaRef, Splicer
from latefuse.prompts.splice import IGNORE

log = logging.getLogger(__name__)

LEFT_OUT_LIMIT = 0.5


@dataclass(frozen=True)
class Example:
    """One conversation as token ids.

    labels: IGNORE outside answers. prompt_ids: what stands before the last answer. answer: the text of that answer.
    media, turns: what the ids were written from (`rewrite` writes them again). cut: exchanges left out for length.
    """

    row: str
    item: str
    modality: Modality
    topic: str
    input_ids: list[int]
    labels: list[int]
    prompt_ids: list[int]
    answer: str
    truth: dict[str, Any]
    media: tuple[MediaRef, ...]
    turns: tuple[dict[str, str], ...] = ()
    cut: int = 0
    shown: tuple[bool, ...] = ()

    @property
    def group(self) -> str:
        """The modalities of its media that are there: rows of one group may share a batch."""
        return "+".join(sorted({ref.modality for ref in self.media if ref.path})) or "text"

    @property
    def tokens(self) -> int:
        """Tokens of the row, media included."""
        return len(self.input_ids)

    @property
    def learned(self) -> int:
        """How many tokens of the row are learned: what its `nll` is the sum over."""
        return sum(label != IGNORE for label in self.labels)

    @property
    def identity(self) -> list[Any]:
        """What the weights at the end of a training depend on."""
        return [self.input_ids, self.labels, [ref.path for ref in self.media]]

    def as_guest(self) -> Self:
        """The same row without anything to learn."""
        return replace(self, labels=[IGNORE] * len(self.labels))


@dataclass(frozen=True)
class Selection:
    """The examples of a split, and how many rows were left out, by reason."""

    examples: list[Example]
    left_out: dict[str, int] = field(default_factory=dict)
    cut: int = 0


def select(dataset: Dataset, task: Task, split: str, backbone: Backbone, needed: bool = True) -> Selection:
    """The rows of the task's modality that `where` keeps.

    A row longer than `train.max_tokens` loses its oldest exchanges; one that still does not fit, or has no answer, is
    left out, counted and warned of. Raises DataError without rows (unless they are not `needed`), and when more than
    half of them are left out, BackboneError on a backbone without a language model.
    """
    backbone.must_speak()
    rows = dataset.rows(task.table, split, where={"modality": task.single, **task.where})
    if not rows:
        wanted = f"modality {task.single!r} and {task.where}"
        said = f"{dataset.path}: no row of {task.table!r} in split {split!r} has {wanted}"
        if needed:
            raise DataError(said)
        log.warning("%s", said)
    splicer = Splicer.of(backbone)
    kept: list[Example] = []
    left_out: Counter[str] = Counter()
    for row in rows:
        found = _example(row, splicer, task.train.max_tokens)
        if isinstance(found, str):
            left_out[found] += 1
        else:
            kept.append(found)
    if left_out:
        said = f"{sum(left_out.values())} of {len(rows)} rows of split {split!r} left out: {dict(left_out)}"
        hint = f"; raise train.max_tokens (now {task.train.max_tokens})" if left_out["too-long"] else ""
        if sum(left_out.values()) > LEFT_OUT_LIMIT * len(rows):
            raise DataError(f"{dataset.path}: {said}{hint}")
        log.warning("%s%s", said, hint)
    return Selection(kept, dict(left_out), sum(1 for example in kept if example.cut))


def _example(row: dict[str, Any], splicer: Splicer, max_tokens: int | None) -> Example | str:
    """An example, or the reason why the row can't be one."""
    turns, media = list(row["turns"]), list(row["media"] or ())
    if len(turns) < 2 or turns[-1]["role"] != "assistant" or not turns[-1]["text"].strip():
        return "no-answer"
    found = splicer.encode(turns, media, max_tokens, row["id"])
    if found is None:
        return "too-long"
    return Example(
        row=row["id"],
        item=row["item"] or "",
        modality=row["modality"],
        topic=row["topic"] or "",
        input_ids=found.input_ids,
        labels=found.labels,
        prompt_ids=found.input_ids[: found.prompt],
        answer=turns[-1]["text"].strip(),
        truth=json.loads(row["truth"]) if row.get("truth") else {},
        media=found.media,
        turns=tuple(dict(turn) for turn in found.turns),
        cut=found.cut,
        shown=tuple(bool(ref.path) for ref in found.media),
    )


def rewrite(example: Example, backbone: Backbone) -> Example:
    """The example with its ids written anew from `turns` and `media`: for controls that change one of them."""
    return _rewritten(example, Splicer.of(backbone))


def _rewritten(example: Example, splicer: Splicer) -> Example:
    found = splicer.encode(example.turns, example.media, None, example.row)
    assert found is not None
    shown = tuple(bool(ref.path) for ref in example.media)
    ids, prompt = found.input_ids, found.input_ids[: found.prompt]
    return replace(example, input_ids=ids, labels=found.labels, prompt_ids=prompt, shown=shown)


def current(rows: Sequence[Example], backbone: Backbone) -> list[Example]:
    """Examples whose ids fit their media: one whose medium was taken away says so in words instead of a slot."""
    stale = [any(bool(ref.path) != shown for ref, shown in zip(row.media, row.shown, strict=True)) for row in rows]
    if not any(stale):
        return list(rows)
    splicer = Splicer.of(backbone)
    return [_rewritten(row, splicer) if old else row for row, old in zip(rows, stale, strict=True)]
