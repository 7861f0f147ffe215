"""The relevance judge: does this picture fit this text, by this rule? (LLaVA-RE, arXiv 2508.05602)

A row is a judgement, shown with a rule and demonstrations; what is learned is its label. A verdict is never free text:
it is the log-odds of the two labels' first tokens, of which nothing but a number can come.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latefuse.config import Task, Train
from latefuse.config_judge import Judge
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.errors import UserError
from latefuse.models.backbone import Backbone
from latefuse.models.shared_prefix import Prefix
from latefuse.prompts import MediaRef, Splicer
from latefuse.prompts.judgement import Shot, judge_template, turns_of
from latefuse.prompts.splice import IGNORE
from latefuse.sections import nearest
from latefuse.tasks import answering
from latefuse.tasks.answering import Batch, attach, collate, loss, nll, save, warm
from latefuse.tasks.conversation import LEFT_OUT_LIMIT, Example, Selection
from latefuse.tasks.demonstrations import Demonstrations, Rule, rule_of
from latefuse.tasks.likeness import Likeness
from latefuse.training.batching import by_length
from latefuse.training.features import Features

__all__ = [
    "Batch", "JudgeError", "Judgement", "Writer", "attach", "collate", "examples", "label_ids", "loss", "nll", "save",
    "score", "select", "steps", "warm",
]  # fmt: skip


FEWEST = 4
"""Rows that begin alike below which sharing that beginning does not pay for a batch of their own."""


class JudgeError(UserError, ValueError):
    """A judge that can't tell its labels apart; the message names them and what to do."""


@dataclass(frozen=True)
class Judgement(Example):
    """A judgement as token ids; `topic` is its task, `answer` its label, `truth` what is known of it.

    demos: the ids of its demonstrations. rule: what it is judged by. cut: how many more there would have been. times:
    how often it is seen where another is seen once.
    """

    demos: tuple[str, ...] = ()
    rule: Rule = ("", "")
    times: int = 1


class Writer:
    """Judgements as token ids, for one backbone and arm."""

    def __init__(self, backbone: Backbone, task: Task, shown: Demonstrations) -> None:
        backbone.must_speak()
        self.backbone, self.task, self.settings, self.shown = backbone, task, _settings(task), shown
        self.splicer = Splicer.of(backbone)
        self.template = judge_template(self.splicer.template.name)
        label_ids(self.splicer, self.settings)

    @classmethod
    def behind(cls, backbone: Backbone, task: Task, known: Sequence[Any], features: Features) -> Writer:
        """A writer that shows rows of the training split, of which features has the pictures."""
        settings = _settings(task)
        near = Likeness(backbone, features, known, task.modality).vectors if settings.choose == "nearest" else None
        return cls(backbone, task, Demonstrations(known, settings, near))

    def write_all(self, rows: Sequence[dict[str, Any]], fixed: bool) -> list[Judgement | None]:
        """See `write`."""
        self.shown.expect(rows)
        return [self.write(row, fixed) for row in rows]

    def write(self, row: dict[str, Any], fixed: bool) -> Judgement | None:
        """The row behind its demonstrations, of which the last are left out until it fits; None if it never does.

        fixed: whether the demonstrations are those of the task; else they are the row's own. The rule and what is asked
        are never cut.
        """
        demos = self.shown.of(row, fixed)
        for count in range(len(demos), -1, -1):
            found = self._written(row, demos[:count])
            if len(found.input_ids) <= self.task.train.max_tokens:
                return replace(found, cut=len(demos) - count)
        return None

    def _written(self, row: dict[str, Any], demos: Sequence[Any]) -> Judgement:
        asked = Shot(row["image"] or "", row["text"] or "", row["label"])
        shots = [*(Shot(one["image"] or "", one["text"] or "", one["label"]) for one in demos), asked]
        turns, media = turns_of(shots, row["instruction"], self.settings, self.task.modality, self.template)
        found = self.splicer.encode(turns, media, None, row["id"])
        assert found is not None
        labels = found.labels
        if not self.settings.learn_demos:
            labels = [IGNORE] * found.prompt + labels[found.prompt :]
        return Judgement(
            row=row["id"],
            item=row["item"] or "",
            modality="image",
            topic=row["task"] or "",
            input_ids=found.input_ids,
            labels=labels,
            prompt_ids=found.input_ids[: found.prompt],
            answer=self.settings.label(row["label"]),
            truth={"relevant": row["label"], "negative": row["negative"] or ""},
            media=found.media,
            turns=tuple(dict(turn) for turn in found.turns),
            shown=tuple(bool(ref.path) for ref in found.media),
            demos=tuple(str(one["id"]) for one in demos),
            rule=rule_of(row),
            times=self.settings.weights.get(row.get("source") or "", 1),
        )


def _settings(task: Task) -> Judge:
    assert task.judge is not None
    return task.judge


def label_ids(splicer: Splicer, settings: Judge) -> tuple[int, int]:
    """The first tokens of the two labels, as they follow a prompt. Raises JudgeError where they are the same."""
    first = [splicer.answer_ids(label, end=False)[0] for label in (settings.relevant, settings.not_relevant)]
    if first[0] == first[1]:
        raise JudgeError(
            f"judge.relevant={settings.relevant!r} and judge.not_relevant={settings.not_relevant!r} begin with the "
            "same token in this backbone's tokenizer, so that a verdict can't be read off it; choose labels that "
            "differ in their first token"
        )
    return first[0], first[1]


def examples(dataset: Dataset, task: Task, split: str, backbone: Backbone) -> list[Judgement]:
    """The judgements of a split, in stored order. See `select`."""
    found: list[Any] = select(dataset, task, split, backbone).examples
    return found


def select(dataset: Dataset, task: Task, split: str, backbone: Backbone, needed: bool = True) -> Selection:
    """The judgements of a split that `where` keeps, each behind demonstrations of the training split.

    Rows that train see demonstrations of their own; others those of their task, where `judge.fixed` says so. One that
    is longer than `train.max_tokens` without any demonstration, or has none of the modalities that the arm reads, is
    left out and counted. Raises DataError without rows (unless they are not `needed`), and when more than half of the
    rows are left out; JudgeError for labels that can't be told apart.
    """
    rows = dataset.rows(task.table, split, where=task.where)
    if not rows and needed:
        raise DataError(
            f"{dataset.path}: no row of {task.table!r} in split {split!r} has {task.where or 'a judgement'}"
        )
    known = rows if split == "train" else dataset.rows(task.table, "train", where=task.where)
    writer = Writer.behind(backbone, task, known, Features(backbone, dataset.media))
    if split == "train":
        _must_weigh(writer.settings, rows)
    fixed = _settings(task).fixed and split != "train"
    kept: list[Example] = []
    left_out = Counter[str]()
    readable = [row for row in rows if any(row[modality] for modality in task.modality)]
    if len(readable) < len(rows):
        left_out["nothing-to-read"] = len(rows) - len(readable)
    for found in writer.write_all(readable, fixed):
        if found is None:
            left_out["too-long"] += 1
        else:
            kept.append(found)
    if sum(left_out.values()) > LEFT_OUT_LIMIT * len(rows):
        raise DataError(
            f"{dataset.path}: {sum(left_out.values())} of {len(rows)} judgements of split {split!r} left out: "
            f"{dict(left_out)}; look at train.max_tokens (now {task.train.max_tokens}) and at the task's modality"
        )
    return Selection(kept, dict(left_out), sum(1 for example in kept if example.cut))


def _must_weigh(settings: Judge, rows: Sequence[dict[str, Any]]) -> None:
    """Raises DataError for a weight of a source that no training row is of."""
    sources = {row["source"] or "" for row in rows}
    for name in settings.weights:
        if name not in sources:
            raise DataError(
                f"judge.weights: no training row has source {name!r}{nearest(name, sources)}; there are "
                f"{', '.join(sorted(filter(None, sources))) or 'rows without a source only'}"
            )


def steps(rows: Sequence[Judgement], train: Train, seed: int, parts: int) -> list[list[int]]:
    """As those of `answering`, with every row as often as `judge.weights` has it."""
    often = [number for number, row in enumerate(rows) for _ in range(row.times)]
    planned = answering.steps([rows[number] for number in often], train, seed, parts)
    return [[often[place] for place in step] for step in planned]


@torch.no_grad()
def score(
    backbone: Backbone,
    rows: Sequence[Judgement],
    settings: Judge,
    *,
    features: Features,
    batch_size: int = 32,
    share: bool = True,
) -> Tensor:
    """Log-odds (n,) in nats that each row is relevant: its first label's first token against the other's.

    One state a row is turned into logits. share: rows behind the same rule and demonstrations have those encoded once,
    where the backbone can go on behind them.
    """
    yes, no = label_ids(Splicer.of(backbone), settings)
    out = torch.empty(len(rows))
    for numbers, prefix, media in _groups(backbone, rows, share):
        begun = Prefix(backbone, prefix, features.batch(rows[numbers[0]].media[:media]))
        for some in by_length([len(rows[number].prompt_ids) for number in numbers], [""] * len(numbers), batch_size):
            part = [rows[numbers[place]] for place in some]
            ends = [row.prompt_ids[len(prefix) :] for row in part]
            states = begun.last_states(ends, features.batch([ref for row in part for ref in row.media[media:]]))
            logits = backbone.logits(states).float()
            out[[numbers[place] for place in some]] = (logits[:, yes] - logits[:, no]).cpu()
    return out


def _groups(backbone: Backbone, rows: Sequence[Judgement], share: bool) -> Iterator[tuple[list[int], list[int], int]]:
    """Numbers of rows that begin alike, the ids they share, and how many media those hold.

    What is asked may begin alike too, but never into a picture: its placeholder says nothing of what it shows.
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    share = share and backbone.family.goes_on
    alone: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        groups[(row.rule, row.demos, row.shown) if share else number].append(number)
    for numbers in groups.values():
        if len(numbers) < FEWEST:
            for number in numbers:
                alone[rows[number].group].append(number)
            continue
        some = [rows[number] for number in numbers]
        media = min(len(some[0].demos), len(some[0].media))
        common = _common([row.prompt_ids[:-1] for row in some])
        yield numbers, common[: _before_picture(backbone, common, some[0].media, media)], media
    for numbers in alone.values():
        yield numbers, [], 0


def _common(rows: Sequence[list[int]]) -> list[int]:
    """What all the lists begin with: the first and the last of them in order differ soonest."""
    first, last = min(rows), max(rows)
    ends = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return first[: next(ends, min(len(first), len(last)))]


def _before_picture(backbone: Backbone, ids: Sequence[int], media: Sequence[MediaRef], known: int) -> int:
    """Where, in ids, the first token stands that belongs to a medium behind the first `known`."""
    if len(media) <= known:
        return len(ids)
    token = backbone.token_id("image")
    passed = sum(backbone.placeholder_ids("image").count(token) for ref in media[:known] if ref.path)
    places = [place for place, one in enumerate(ids) if one == token]
    return places[passed] if len(places) > passed else len(ids)
