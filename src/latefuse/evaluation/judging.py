"""Every arm of a judge on the same test rows: as trained, with one side knocked out, beside floors without training."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latefuse.config import Task
from latefuse.config_judge import RELEVANT
from latefuse.data.errors import DataError
from latefuse.evaluation import judge_floors, stress
from latefuse.evaluation.arm_sources import ArmSources, Unit
from latefuse.evaluation.arms_summary import FULL, MeasuredArm
from latefuse.evaluation.rationale import explain
from latefuse.evaluation.rulings import Ruling, rule
from latefuse.evaluation.scores import NO_SEED, Scores
from latefuse.evaluation.verdict_values import row_values, same_pairs
from latefuse.fusion.rows import evenly
from latefuse.models import adapters
from latefuse.tasks import instruct, judge
from latefuse.training.features import Features

Row = dict[str, Any]
Floats = NDArray[np.float64]


@dataclass
class Found:
    """What one unit gave: score lines, a prediction a row, the ruling of each task; of each split how many rows were
    too long to be asked; verdicts a second on the test rows; of the main arm some reasons by row, and what `stress`
    tells.
    """

    scores: Scores = field(default_factory=Scores)
    predictions: list[Row] = field(default_factory=list)
    rulings: dict[str, Ruling] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    speed: float = 0.0
    rationales: dict[str, str] = field(default_factory=dict)
    stressed: list[stress.Stressed] = field(default_factory=list)
    freely: stress.Freely | None = None


@dataclass(frozen=True)
class Asker:
    """A judge as it is asked: by the backbone with whatever adapter it carries."""

    writer: judge.Writer
    features: Features
    batch_size: int

    def written(self, rows: Sequence[Row]) -> list[judge.Judgement | None]:
        """The rows as prompts, None for one that can't be written."""
        return self.writer.write_all(rows, fixed=self.writer.settings.fixed)

    def __call__(self, rows: Sequence[Row]) -> Floats:
        """Log-odds (n,); nan of a row that can't be written."""
        written, out = self.written(rows), np.full(len(rows), np.nan)
        asked = [one for one in written if one is not None]
        writer, size = self.writer, self.batch_size
        scores = judge.score(writer.backbone, asked, writer.settings, features=self.features, batch_size=size)
        out[[number for number, one in enumerate(written) if one is not None]] = scores.double().numpy()
        return out

    def freely(self, rows: Sequence[Row]) -> stress.Freely:
        """Greedy answers of the rows beside their scores."""
        asked = [one for one in self.written(rows) if one is not None]
        settings, backbone = self.writer.settings, self.writer.backbone
        labels = (settings.relevant, settings.not_relevant)
        longest = max(len(self.writer.splicer.answer_ids(label)) for label in labels)
        answers = instruct.predict(backbone, asked, longest, features=self.features, batch_size=self.batch_size)
        scores = judge.score(backbone, asked, settings, features=self.features, batch_size=self.batch_size)
        return stress.freely(answers, scores.double().numpy(), settings)


@dataclass
class Sources(ArmSources):
    """Everything that is measured: floors once, trained arms under every seed."""

    @property
    def floors(self) -> dict[str, str]:
        """The floors that are measured, with words for each."""
        return judge_floors.names(self.evaluation.verdicts, len(self.task.modality) > 1)

    def units(self) -> list[Unit]:
        """Trained arms first."""
        return self.units_beside(self.floors)

    def rows(self, split: str) -> list[Row]:
        """The judgements of a split that any arm may be asked; of the test at most `max_rows`, evenly spread."""
        rows = self.dataset.rows("judgements", split, where=self.task.where)
        if not rows:
            raise DataError(f"{self.dataset.path}: no judgement in split {split!r}: nothing to measure a judge on")
        most = self.evaluation.verdicts.max_rows if split == "test" else None
        return [rows[number] for number in evenly(len(rows), most)]

    def measure(self, unit: Unit) -> Found:
        """One unit."""
        found, valid, test = Found(), self.rows("valid"), self.rows("test")
        ask = self._asker(unit)
        known, began = ask(valid), time.perf_counter()
        answered = ask(test)
        found.speed = len(test) / (time.perf_counter() - began) if isinstance(ask, Asker) else 0.0
        found.left_out = {"valid": int(np.isnan(known).sum()), "test": int(np.isnan(answered).sum())}
        found.rulings = self._rulings(unit, valid, known, dict.fromkeys(row["task"] or "" for row in [*valid, *test]))
        there = np.flatnonzero(~np.isnan(answered)).tolist()
        rows = [test[number] for number in there]
        self._record(found, unit, FULL, rows, answered[there])
        for condition, changed in self._conditions(unit, rows).items():
            self._record(found, unit, condition, changed, ask(changed))
        if unit.source == self.name and isinstance(ask, Asker):
            some = [rows[number] for number in evenly(len(rows), self.evaluation.verdicts.beside)]
            if "text" in self.task.modality:
                settings = ask.writer.settings
                found.stressed = stress.stressed(some, lambda part: _said(found.rulings, part, ask(part))[1], settings)
            found.freely = ask.freely(some) if some else None
            found.rationales = self._reasons(found, ask.writer, rows) if unit == self.lead else {}
        return found

    def _reasons(self, found: Found, writer: judge.Writer, rows: Sequence[Row]) -> dict[str, str]:
        """Why, of as many rows as the page shows."""
        some = [rows[number] for number in evenly(len(rows), self.evaluation.examples)]
        said = {one["id"]: one["verdict"] == RELEVANT for one in found.predictions}
        told = explain(writer, some, [said[row["id"]] for row in some], features=self.features)
        return {row["id"]: text for row, text in zip(some, told, strict=True)}

    def _rulings(self, unit: Unit, valid: Sequence[Row], known: Floats, tasks: Iterable[str]) -> dict[str, Ruling]:
        """Of each task what its validation rows allow; of similarity, into which no rule goes, one for all tasks."""
        how, asked = self.evaluation.verdicts, [number for number in range(len(valid)) if not np.isnan(known[number])]
        if unit.source in judge_floors.SIMILARITY:
            labels = [valid[number]["label"] for number in asked]
            return dict.fromkeys(tasks, rule(known[asked], labels, how, f"{unit}, validation"))
        found = {}
        for task in tasks:
            numbers = [number for number in asked if (valid[number]["task"] or "") == task]
            labels = [valid[number]["label"] for number in numbers]
            found[task] = rule(known[numbers], labels, how, f"{unit}, task {task!r}, validation")
        return found

    def _asker(self, unit: Unit) -> judge_floors.Ask:
        """What gives log-odds (n,) of rows; a row that can't be written gives nan."""
        how, backbone = self.evaluation.verdicts, self.backbone
        task = self.arms.get(unit.source, self.task)
        known = self.dataset.rows("judgements", "train", where=task.where)
        adapters.detach(backbone)
        if unit.source == judge_floors.MAJORITY:
            return judge_floors.majority
        if unit.source == judge_floors.MAP:
            return judge_floors.linear_map(known, backbone, self.features, how.sentence_encoder)
        if unit.source == judge_floors.DUAL:
            assert how.dual_encoder is not None
            return judge_floors.dual_encoder(how.dual_encoder, self.features)
        if unit.seed != NO_SEED:
            adapters.load(backbone, self.adapters[unit.seed, unit.source])
        writer = judge.Writer.behind(backbone, task, known, self.features)
        return Asker(writer, self.features, self.evaluation.batch_size)

    def _conditions(self, unit: Unit, rows: list[Row]) -> dict[str, list[Row]]:
        """For the main arm the test rows with each side taken from another row of its task, or taken away."""
        found: dict[str, list[Row]] = {}
        if unit.source != self.name:
            return found
        for modality in self.task.modality:
            found[f"shuffled:{modality}"] = shuffled(rows, modality, max(unit.seed, 0))
            found[f"absent:{modality}"] = [{**row, modality: ""} for row in rows]
        return found

    def _record(self, found: Found, unit: Unit, condition: str, rows: Sequence[Row], scores: Floats) -> None:
        """Verdicts of rows, as lines of every metric and, of rows as they are, as predictions."""
        probability, said = _said(found.rulings, rows, scores)
        asked = np.flatnonzero(~np.isnan(probability)).tolist()
        some = [rows[number] for number in asked]
        values = row_values(
            [row["label"] for row in some],
            probability[asked].tolist(),
            said[asked].tolist(),
            [row["negative"] or "" for row in some],
            [row["task"] or "" for row in some],
            same_pairs(some),
        )
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


def _said(rulings: Mapping[str, Ruling], rows: Sequence[Row], scores: Floats) -> tuple[Floats, NDArray[np.str_]]:
    """Probabilities (n,) and verdicts (n,) by the ruling of each row's task; nan and "" where there is no score."""
    probability, said = np.full(len(rows), np.nan), np.full(len(rows), "", dtype="<U16")
    for task, ruling in rulings.items():
        mine = [number for number, row in enumerate(rows) if (row["task"] or "") == task]
        mine = [number for number in mine if not np.isnan(scores[number])]
        if mine:
            probability[mine] = ruling.probability(scores[mine])
            said[mine] = ruling.verdicts(scores[mine])
    return probability, said


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


def arms_of(sources: Sources) -> list[MeasuredArm]:
    """Floors, controls, and the main arm, with words for what each of them is."""
    return sources.told(sources.floors, meaning)


def meaning(task: Task) -> str:
    """An arm in a few words, from its settings alone."""
    assert task.judge is not None
    count = task.judge.demos
    shown = {0: "no demonstration", 1: "one demonstration"}.get(count, f"{count} demonstrations")
    shown += ", the nearest" if count and task.judge.choose == "nearest" else ""
    rule_shown = "with the rule" if task.judge.instruction else "without the rule"
    return f"reads {' and '.join(task.modality)}; {shown}, {rule_shown}"
