"""Which rows are taken where not all are; weights are chosen on the validation split, and on no other."""

from __future__ import annotations

import numpy as np

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.fusion.changes import FusionError
from latefuse.models.backbone import Backbone
from latefuse.tasks import get
from latefuse.tasks.conversation import Example

SPLIT = "valid"


def evenly(count: int, most: int | None) -> list[int]:
    """At most `most` places of `count`, evenly spread, first and last among them; all of them for None."""
    if most is None or count <= most:
        return list(range(count))
    return [int(place) for place in np.unique(np.linspace(0, count - 1, most).round())]


def training_rows(data: Dataset, task: Task, backbone: Backbone, count: int) -> list[Example]:
    """The first `count` training rows: enough to compare logits on, which chooses nothing."""
    rows: list[Example] = get(task.kind).examples(data, task, "train", backbone)
    return rows[:count]


def validation_rows(data: Dataset, task: Task, backbone: Backbone, count: int) -> list[Example]:
    """At most `count` rows spread over the validation split; none where it has none.

    Raises FusionError when the task hands out a row of another split.
    """
    if not data.rows(task.table, SPLIT, where={"modality": task.single, **task.where}):
        return []
    rows: list[Example] = get(task.kind).examples(data, task, SPLIT, backbone)
    chosen = [rows[place] for place in evenly(len(rows), count)]
    known = set(data.table(task.table, SPLIT, columns=["id"]).column("id").to_pylist())
    strangers = [row.row for row in chosen if row.row not in known]
    if strangers:
        raise FusionError(f"{data.path}: row {strangers[0]} is not of split {SPLIT!r}; weights are chosen there only")
    return chosen
