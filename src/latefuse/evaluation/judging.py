"""Every arm of a judge on the same test rows: as trained, with one side knocked out, beside floors without training."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.evaluation.embeddings import Unit
from latefuse.evaluation.retrieval_summary import FULL, RetrievalArm
from latefuse.evaluation.rulings import Ruling, rule
from latefuse.evaluation.scores import NO_SEED, Scores
from latefuse.evaluation.verdict_values import row_values
from latefuse.fusion.rows import evenly
from latefuse.models import adapters
from latefuse.models.backbone import Backbone
from latefuse.tasks import judge
from latefuse.tasks.demonstrations import Demonstrations
from latefuse.training.features import Features

Row = dict[str, Any]
FLOORS = {
    "majority": "the commoner label of each task's validation rows; nothing is read",
    "zero-shot": "the backbone as it is, with the main arm's prompt",
}
SIDES = {"image": "image", "text": "text"}
"""Modality -> the column of a judgement that it is."""


@dataclass
class Found:
    """What one unit gave: score lines, a prediction a row, the ruling of each task, and of each split how many rows
    were too long to be asked.
    """

    scores: Scores = field(default_factory=Scores)
    predictions: list[Row] = field(default_factory=list)
    rulings: dict[str, Ruling] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass
class Sources:
    """Everything that is measured: floors once, trained arms under every seed. adapters: (seed, arm) -> folder."""

    backbone: Backbone
    features: Features
    dataset: Dataset
    name: str
    arms: Mapping[str, Task]
    adapters: Mapping[tuple[int, str], Path]
    evaluation: Evaluation

    @property
    def task(self) -> Task:
        """The main arm's task."""
        return self.arms[self.name]

    def units(self) -> list[Unit]:
        """Trained arms first, they take longest."""
        return [Unit(*key) for key in self.adapters] + [Unit(NO_SEED, name) for name in FLOORS]

    def rows(self, split: str) -> list[Row]:
        """The judgements of a split that any arm may be asked; of the test at most `max_rows`, evenly spread."""
        rows = self.dataset.rows("judgements", split, where=self.task.where)
        if not rows:
            raise DataError(f"{self.dataset.path}: no judgement in split {split!r}: nothing to measure a judge on")
        return [rows[number] for number in evenly(len(rows), self.evaluation.max_rows)] if split == "test" else rows

    def measure(self, unit: Unit) -> Found:
        """One unit."""
        found, valid, test = Found(), self.rows("valid"), self.rows("test")
        ask = self._asker(unit)
        known, answered = ask(valid), ask(test)
        found.left_out = {"valid": int(np.isnan(known).sum()), "test": int(np.isnan(answered).sum())}
        for task in dict.fromkeys(row["task"] or "" for row in [*valid, *test]):
            numbers = [n for n, row in enumerate(valid) if (row["task"] or "") == task and not np.isnan(known[n])]
            labels = [valid[number]["label"] for number in numbers]
            name = f"{unit}, task {task!r}, validation"
            found.rulings[task] = rule(known[numbers], labels, self.evaluation.verdicts, name)
        there = np.flatnonzero(~np.isnan(answered)).tolist()
        rows = [test[number] for number in there]
        self._record(found, unit, FULL, rows, answered[there])
        for condition, changed in self._conditions(unit, rows).items():
            self._record(found, unit, condition, changed, ask(changed))
        return found

    def _asker(self, unit: Unit) -> Callable[[Sequence[Row]], np.ndarray]:
        """What gives log-odds (n,) of rows; a row that can't be written gives nan."""
        if unit.source == "majority":
            return lambda rows: np.zeros(len(rows))
        task, backbone = self.arms.get(unit.source, self.task), self.backbone
        assert task.judge is not None
        adapters.detach(backbone)
        if unit.seed != NO_SEED:
            adapters.load(backbone, self.adapters[unit.seed, unit.source])
        settings = task.judge
        known = self.dataset.rows("judgements", "train", where=task.where)
        writer = judge.Writer(backbone, task, Demonstrations(known, settings))

        def ask(rows: Sequence[Row]) -> np.ndarray:
            written = [writer.write(row, fixed=settings.fixed) for row in rows]
            asked = [one for one in written if one is not None]
            size = self.evaluation.batch_size
            scores = judge.score(backbone, asked, settings, features=self.features, batch_size=size)
            out = np.full(len(rows), np.nan)
            out[[number for number, one in enumerate(written) if one is not None]] = scores.double().numpy()
            return out

        return ask

    def _conditions(self, unit: Unit, rows: list[Row]) -> dict[str, list[Row]]:
        """For the main arm the test rows with each side taken from another row of its task, or taken away."""
        found: dict[str, list[Row]] = {}
        if unit.source != self.name:
            return found
        for modality in self.task.modality:
            column = SIDES[modality]
            found[f"shuffled:{modality}"] = shuffled(rows, column, max(unit.seed, 0))
            found[f"absent:{modality}"] = [{**row, column: ""} for row in rows]
        return found

    def _record(self, found: Found, unit: Unit, condition: str, rows: Sequence[Row], scores: np.ndarray) -> None:
        """Verdicts of rows, as lines of every metric and, of rows as they are, as predictions."""
        probability, said = np.full(len(rows), np.nan), np.full(len(rows), "", dtype=object)
        for task, ruling in found.rulings.items():
            mine = [number for number, row in enumerate(rows) if (row["task"] or "") == task]
            mine = [number for number in mine if not np.isnan(scores[number])]
            if mine:
                probability[mine] = ruling.probability(scores[mine])
                said[mine] = ruling.verdicts(scores[mine])
        asked = np.flatnonzero(~np.isnan(probability)).tolist()
        some = [rows[number] for number in asked]
        labels, kinds = [row["label"] for row in some], [row["negative"] or "" for row in some]
        values = row_values(labels, probability[asked].tolist(), said[asked].tolist(), kinds)
        for place, row in enumerate(some):
            told = {metric: (float(column[place]), 1) for metric, column in values.items()}
            modality = "+".join(self.task.modality)
            key = (unit.source, unit.seed, condition, self.name, row["task"] or "", row["id"], row["item"] or row["id"])
            found.scores.add((*key, modality, ""), told)
        if condition == FULL:
            for place, row in zip(asked, some, strict=True):
                found.predictions.append(
                    {
                        "id": row["id"], "arm": unit.source, "seed": unit.seed, "task": row["task"] or "",
                        "label": row["label"], "negative": row["negative"] or "", "score": float(scores[place]),
                        "probability": float(probability[place]), "verdict": str(said[place]),
                    }
                )  # fmt: skip


def shuffled(rows: Sequence[Row], column: str, seed: int) -> list[Row]:
    """Every row with another's picture or words there: a cycle through the distinct ones of its task, by seed.

    A task in which there is one only keeps it, and so does a row that has none.
    """
    out, tasks = list(rows), dict.fromkeys(row["task"] or "" for row in rows)
    for task in tasks:
        mine = [number for number, row in enumerate(rows) if (row["task"] or "") == task and row[column]]
        values = list(dict.fromkeys(rows[number][column] for number in mine))
        random.Random(f"{seed}/{task}/{column}").shuffle(values)
        following = dict(zip(values, [*values[1:], *values[:1]], strict=True))
        for number in mine:
            out[number] = {**rows[number], column: following[rows[number][column]]}
    return out


def arms_of(sources: Sources) -> list[RetrievalArm]:
    """Floors, controls, and the main arm, with words for what each of them is."""
    found = [RetrievalArm(name, name, told, "floor") for name, told in FLOORS.items()]
    for name, task in sources.arms.items():
        if any(arm == name for _, arm in sources.adapters):
            found.append(RetrievalArm(name, name, meaning(task), "main" if name == sources.name else "control"))
    return sorted(found, key=lambda arm: ("floor", "control", "main").index(arm.group))


def meaning(task: Task) -> str:
    """An arm in a few words, from its settings alone."""
    assert task.judge is not None
    count = task.judge.demos
    shown = {0: "no demonstration", 1: "one demonstration"}.get(count, f"{count} demonstrations")
    rule_shown = "with the rule" if task.judge.instruction else "without the rule"
    return f"reads {' and '.join(task.modality)}; {shown}, {rule_shown}"
