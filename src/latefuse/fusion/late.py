"""Which rows late fusion learns from and is measured on, and what their adapters say to them.

Two arms, told apart everywhere: `fused`, where one item has several modalities and each adapter sees only its own; and
`same_input`, where all adapters see one and the same row.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latefuse.config import Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.fusion.rows import evenly
from latefuse.fusion.scores import Learned, learn_weights
from latefuse.models.backbone import Backbone
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example
from latefuse.training.features import Features

MAX_BYTES = 512 * 1024**2
TOKENS_A_ROW = 16
Acting = Callable[[str | None], AbstractContextManager[None]]
"""Switches one adapter on, alone; None: the bare backbone."""


@dataclass(frozen=True)
class Shared:
    """Items that several modalities show and whose name they all have to tell.

    members: modality -> the task whose adapter answers for it. rows: modality -> one example per item, None where the
    item lacks that modality (or its medium is absent). truths: the names.
    """

    topic: str
    items: list[str]
    truths: list[str]
    members: dict[Modality, str]
    rows: dict[Modality, list[Example | None]]

    @property
    def present(self) -> Tensor:
        """(modalities, items) bool, in the order of `members`."""
        return torch.tensor([[row is not None for row in self.rows[modality]] for modality in self.members])


class NotShared(ValueError):
    """A dataset or recipe in which no item can be named from several modalities; says why."""


def shared(
    dataset: Dataset, tasks: Mapping[str, Task], split: str, backbone: Backbone, max_rows: int | None = None
) -> Shared:
    """The items of a split that at least two of the tasks' modalities have to name, each from its own medium.

    The naming topic is the one that most items share. Where several tasks have one modality, the one that is trained on
    that topic answers for it, else the first. Raises NotShared.
    """
    modalities = list(dict.fromkeys(task.single for task in tasks.values()))
    if len(modalities) < 2:
        raise NotShared(f"all tasks read {modalities[0]}: late fusion needs several modalities")
    topic, names = _naming_topic(dataset, split, modalities)
    found = {
        modality: _by_item(dataset, _task_of(tasks, modality, topic)[1], topic, split, backbone, names)
        for modality in modalities
    }
    several = [item for item in names if sum(item in rows for rows in found.values()) > 1]
    items = [several[place] for place in evenly(len(several), max_rows)]
    if not items:
        raise NotShared(f"no item of split {split!r} has its media for two of {modalities} in topic {topic!r}")
    used = [modality for modality in modalities if any(item in found[modality] for item in items)]
    return Shared(
        topic=topic,
        items=items,
        truths=[names[item] for item in items],
        members={modality: _task_of(tasks, modality, topic)[0] for modality in used},
        rows={modality: [found[modality].get(item) for item in items] for modality in used},
    )


def _naming_topic(dataset: Dataset, split: str, modalities: Sequence[Modality]) -> tuple[str, dict[str, str]]:
    """The topic in which most items are named in two modalities or more, with one name, and that name by item."""
    table = dataset.table("conversations", split, columns=["modality", "topic", "item", "truth", "split_item"])
    names: dict[tuple[str, str], set[str]] = defaultdict(set)
    kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in table.to_pylist():
        name = json.loads(row["truth"] or "{}").get("name")
        if name and row["item"] and row["modality"] in modalities:
            names[row["topic"] or "", row["item"]].add(str(name))
            kinds[row["topic"] or "", row["item"]].add(row["modality"])
    whole = [key for key, seen in kinds.items() if len(seen) > 1 and len(names[key]) == 1]
    if not whole:
        raise NotShared(f"no item of split {split!r} is named in two of {list(modalities)}")
    topic = Counter(topic for topic, _ in whole).most_common(1)[0][0]
    return topic, {item: next(iter(names[topic, item])) for found, item in whole if found == topic}


def _task_of(tasks: Mapping[str, Task], modality: Modality, topic: str) -> tuple[str, Task]:
    own = [(name, task) for name, task in tasks.items() if task.single == modality]
    return next((pair for pair in own if pair[1].where.get("topic") == topic), own[0])


def _by_item(
    dataset: Dataset, task: Task, topic: str, split: str, backbone: Backbone, names: Mapping[str, str]
) -> dict[str, Example]:
    """The first example of every item, its answer the bare name; rows whose medium is absent are no examples."""
    asked = task.model_copy(update={"where": {"topic": topic}})
    if not dataset.rows(task.table, split, where={"modality": task.single, "topic": topic}):
        return {}
    found: dict[str, Example] = {}
    for row in instruct.examples(dataset, asked, split, backbone):
        whole = task.single == "text" or any(ref.path and ref.modality == task.single for ref in row.media)
        if row.item in names and row.item not in found and whole:
            found[row.item] = _naming(row, names[row.item], backbone)
    return found


def _naming(row: Example, name: str, backbone: Backbone) -> Example:
    if row.answer == name.strip():
        return row
    turns = (*row.turns[:-1], {**row.turns[-1], "text": name})
    return instruct.rewrite(replace(row, turns=turns, answer=name.strip()), backbone)


def learn_fused(
    backbone: Backbone, rows: Shared, acting: Acting, features: Features, steps: int, batch_size: int = 32
) -> dict[str, Any]:
    """Weights per modality, learned on the tokens of the items' names."""
    per_row = _tokens_a_row(backbone, len(rows.members), len(rows.items))
    members = []
    for modality, task in rows.members.items():
        with acting(task):
            members.append(_answer_log_probs(backbone, rows.rows[modality], features, batch_size, per_row))
    log_probs, targets, present = _stack(members, rows.items)
    learned = learn_weights(log_probs, targets, present, steps)
    return {
        "topic": rows.topic,
        "members": dict(rows.members),
        "rows_of_modality": dict(zip(rows.members, rows.present.sum(dim=1).tolist(), strict=True)),
        **_report(learned, list(rows.members), len(rows.items), len(targets)),
    }


def learn_same_input(
    backbone: Backbone,
    rows: Sequence[Example],
    names: Sequence[str],
    acting: Acting,
    features: Features,
    steps: int,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Weights per adapter when all of the named ones answer the same rows."""
    per_row = _tokens_a_row(backbone, len(names), len(rows))
    members = []
    for name in names:
        with acting(name):
            members.append(_answer_log_probs(backbone, rows, features, batch_size, per_row))
    log_probs, targets, _ = _stack(members, [row.row for row in rows])
    return _report(learn_weights(log_probs, targets, None, steps), list(names), len(rows), len(targets))


def _tokens_a_row(backbone: Backbone, members: int, rows: int) -> int:
    """How many tokens of an answer count: bounded, so that long ones neither outweigh the rest nor fill memory."""
    vocabulary = int(backbone.model.get_output_embeddings().weight.shape[0])
    return max(1, min(TOKENS_A_ROW, MAX_BYTES // (4 * vocabulary * members * max(rows, 1))))


def _answer_log_probs(
    backbone: Backbone, rows: Sequence[Example | None], features: Features, batch_size: int, per_row: int
) -> dict[int, tuple[Tensor, Tensor]]:
    """Row number -> (log-probabilities (t, V), tokens (t,)) of at most `per_row` evenly spaced tokens of the answer."""
    present = [(number, row) for number, row in enumerate(rows) if row is not None]
    found = {}
    several = instruct.next_token_logprobs(
        backbone, [row for _, row in present], features=features, batch_size=batch_size
    )
    for place, log_probs, tokens in several:
        count = len(tokens)
        kept = torch.linspace(0, count - 1, min(per_row, count)).round().long()
        found[present[place][0]] = (log_probs[kept].clone(), tokens[kept].clone())
    return found


def _stack(members: Sequence[dict[int, tuple[Tensor, Tensor]]], names: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """(M, N, V) log-probabilities, (N,) targets, (M, N) present of all rows that a member has."""
    log_probs: list[Tensor] = []
    targets: list[Tensor] = []
    present: list[Tensor] = []
    for number in sorted({number for member in members for number in member}):
        have = [number in member for member in members]
        first = next(member[number] for member in members if number in member)
        if any(number in m and not torch.equal(m[number][1], first[1]) for m in members):
            raise ValueError(f"{names[number]}: its answer has other tokens in another modality, so it can't be mixed")
        empty = torch.zeros_like(first[0])
        log_probs.append(torch.stack([member[number][0] if number in member else empty for member in members]))
        targets.append(first[1])
        present.append(torch.tensor(have).unsqueeze(1).expand(-1, len(first[1])))
    return torch.cat(log_probs, dim=1), torch.cat(targets), torch.cat(present, dim=1)


def _report(learned: Learned, names: list[str], rows: int, tokens: int) -> dict[str, Any]:
    found = asdict(learned)
    return {
        "weights": dict(zip(names, learned.weights.tolist(), strict=True)),
        "nll_before": found["before"],
        "nll_after": found["after"],
        "nll_alone": dict(zip(names, found["alone"], strict=True)),
        "rows": rows,
        "tokens": tokens,
    }
