"""What one source says to one set of rows: written answers, ranks in closed lists, and their scores.

A source is a set of weights switched on, or several adapters whose outputs are mixed; both answer through the same
functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latefuse.config import Evaluation
from latefuse.data.dataset import Dataset
from latefuse.evaluation.classification import Score, naming_scores
from latefuse.evaluation.grammar import Allowed
from latefuse.evaluation.metrics import kind_of, written_scores
from latefuse.fusion.generate import Stream, generate_mixed
from latefuse.models.adapters import active
from latefuse.models.backbone import Backbone
from latefuse.models.closed_list import build_trie
from latefuse.models.name_search import Ladder, Ranked, Switched, Walk, ladder, search
from latefuse.prompts import Splicer
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example
from latefuse.training.features import Features

MOST_ANSWERS = 2_000  # a longer closed list of answers is not ranked: free text, not a choice


@dataclass
class Answer:
    """What was said to one row. text: written, or the name ranked first. top: the best names. rank: of the true one."""

    text: str = ""
    top: list[str] = field(default_factory=list)
    rank: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class ClosedList:
    """What may be said on a topic. place: every spelling's number in `names`; what tokenises alike has one number.

    tree: the names as tokens, ready to be searched.
    """

    names: list[str]
    place: Mapping[str, int]
    tree: Ladder

    def number(self, truth: str) -> int:
        """The number of a true name or answer."""
        return self.place[truth.strip()]

    def named(self, numbers: Sequence[int]) -> list[str]:
        """The names of some numbers, those below zero left out."""
        return [self.names[number] for number in numbers if number >= 0]


@dataclass(frozen=True)
class Bench:
    """What every source is measured on: backbone, features, settings and the closed lists by topic."""

    backbone: Backbone
    features: Features
    settings: Evaluation
    lists: Mapping[tuple[str, str], ClosedList]

    def closed_list(self, row: Example) -> ClosedList | None:
        """The names or answers that a row is ranked among; None where it is written text."""
        kind = kind_of(row.truth)
        return self.lists.get((kind, row.topic)) if kind in ("name", "answer") else None


def closed_lists(dataset: Dataset, backbone: Backbone) -> dict[tuple[str, str], ClosedList]:
    """All distinct names, and all distinct answers, of each topic over all splits: (kind, topic) -> list.

    A topic with one name or answer, or with too many answers, has no list.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for part in dataset.batches("conversations", ["topic", "truth"]):
        for row in part:
            truth = json.loads(row["truth"] or "{}")
            kind = kind_of(truth)
            if kind in ("name", "answer"):
                found.setdefault((kind, row["topic"] or ""), set()).add(str(truth[kind]).strip())
    lists = {key: _closed_list(names, backbone) for key, names in found.items()}
    return {
        key: one
        for key, one in lists.items()
        if len(one.names) > 1 and (key[0] == "name" or len(one.names) <= MOST_ANSWERS)
    }


def _closed_list(names: Iterable[str], backbone: Backbone) -> ClosedList:
    splicer = Splicer.of(backbone)
    numbers: dict[tuple[int, ...], int] = {}
    kept: list[str] = []
    place: dict[str, int] = {}
    for name in sorted(names):
        number = numbers.setdefault(tuple(splicer.answer_ids(name)), len(kept))
        if number == len(kept):
            kept.append(name)
        place[name] = number
    return ClosedList(kept, place, ladder(build_trie(list(numbers))))


Ranker = Callable[[Sequence[Example], ClosedList, Tensor], Ranked]
Writer = Callable[[Sequence[Example]], list[str]]


def answer(bench: Bench, rows: Sequence[Example], rank: Ranker, write: Writer) -> list[Answer]:
    """Answers and scores of all rows: names are ranked, all else is written; short answers are ranked as well."""
    answers = [Answer() for _ in rows]
    by_list: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        if bench.closed_list(row) is not None:
            by_list.setdefault((kind_of(row.truth), row.topic), []).append(number)
    for (kind, topic), numbers in by_list.items():
        closed = bench.lists[kind, topic]
        truths = torch.tensor([closed.number(str(rows[number].truth[kind])) for number in numbers])
        found = rank([rows[number] for number in numbers], closed, truths)
        for number, place, top in zip(numbers, found.rank.tolist(), found.top.tolist(), strict=True):
            answers[number] = ranked_answer(kind, place, closed.named(top))
    written = [number for number, row in enumerate(rows) if kind_of(row.truth) != "name"]
    if written:
        for number, text in zip(written, write([rows[number] for number in written]), strict=True):
            row = rows[number]
            answers[number].text = text
            answers[number].scores |= written_scores(text, row.answer, row.truth)
    return answers


def ranked_answer(kind: str, rank: int, top: list[str]) -> Answer:
    """The answer to a question with a closed list, from the rank of the truth and the best names found."""
    if kind == "name":
        return Answer(top[0], top, rank, naming_scores(rank))
    return Answer("", top, rank, {"answer_top1": (float(rank < 1), 1)})


def answer_alone(
    bench: Bench,
    rows: Sequence[Example],
    switched: Callable[[], AbstractContextManager[Any]],
    allowed: Allowed | None = None,
) -> list[Answer]:
    """The answers of one set of weights; `switched` turns it on."""
    settings = bench.settings

    def rank(part: Sequence[Example], closed: ClosedList, truths: Tensor) -> Ranked:
        return _ranked(bench, part, closed, truths, [nullcontext], None)

    def write(part: Sequence[Example]) -> list[str]:
        return instruct.predict(
            bench.backbone, part, settings.max_new_tokens,
            features=bench.features, batch_size=settings.batch_size, allowed=allowed,
        )  # fmt: skip

    with switched():
        return answer(bench, rows, rank, write)


def answer_mixed(bench: Bench, rows: Sequence[Example], adapters: Sequence[str], weights: Tensor) -> list[Answer]:
    """The answers of several attached adapters whose outputs are mixed, all seeing the same rows."""

    def rank(part: Sequence[Example], closed: ClosedList, truths: Tensor) -> Ranked:
        return _ranked(
            bench, part, closed, truths, [partial(active, bench.backbone, name) for name in adapters], weights
        )

    def write(part: Sequence[Example]) -> list[str]:
        streams = [Stream(bench.backbone, part, name, bench.features) for name in adapters]
        return generate_mixed(streams, weights, bench.settings.max_new_tokens, batch_size=bench.settings.batch_size)

    return answer(bench, rows, rank, write)


def _ranked(
    bench: Bench,
    rows: Sequence[Example],
    closed: ClosedList,
    truths: Tensor,
    members: Sequence[Switched],
    weights: Tensor | None,
) -> Ranked:
    """Ranks of the truth, batch by batch, under one member or the mixture of several that see the same rows."""
    found, size = [], bench.settings.batch_size
    with torch.no_grad():
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            prompts = instruct.prompt_batch(bench.backbone, part, bench.features)
            walks = [Walk(bench.backbone, prompts, switched) for switched in members]
            found.append(search(walks, closed.tree, truths[start : start + size], weights))
    return Ranked(torch.cat([one.rank for one in found]), torch.cat([one.top for one in found]))
