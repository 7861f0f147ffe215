"""Every arm of personalised prompts on the same questions: seen and unseen templates of each family, beside floors."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from latefuse.config import Task
from latefuse.config_personal import Family, Personalise
from latefuse.data import candidates
from latefuse.data.errors import DataError
from latefuse.evaluation import bpr, explanations, next_item, sasrec, sequence_floors, sequences, vbpr
from latefuse.evaluation.arm_sources import ArmSources, Unit
from latefuse.evaluation.arms_summary import MeasuredArm
from latefuse.evaluation.calibration import Ints
from latefuse.evaluation.retrieval import Scorer
from latefuse.evaluation.sequences import NextItems, Sequences
from latefuse.evaluation.sums import Sums, means
from latefuse.fusion.rows import evenly
from latefuse.prompts.personal import family, family_of
from latefuse.tasks import get

TOP = max(next_item.KS)
FREE = 200
"""Users who are asked a second time, by a search without constraint."""
COPIED, BOILERPLATE = "copied", "boilerplate"
WRITTEN = {
    COPIED: "an explanation of the same item by somebody else, out of training",
    BOILERPLATE: "for everybody the training explanation with the commonest words",
}
CONTROLS = {
    sasrec.NAME: sasrec.MEANING,
    bpr.NAME: bpr.MEANING,
    "VBPR": "factors of users and items with pictures, pairwise loss; epoch by validation",
}


@dataclass
class Found:
    """What one unit answered. asked: template -> metric -> sums over its rows. top: template -> (n, TOP) items, best
    first. written: template -> explanations. speed: users a second whose next items were named. free: what a search
    without any constraint writes, of the main arm: shares, and hit rates of both searches on the same users. told: how
    many questions were asked, and how many do not show all of their history or words."""

    asked: dict[str, dict[str, Sums]]
    top: dict[str, Ints] = field(default_factory=dict)
    written: dict[str, list[str]] = field(default_factory=dict)
    speed: float = 0.0
    free: dict[str, float] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Asked:
    """What a template asks of the test split. rows: of `tasks.personalise`. user, item: (n,) codes. lists: (n, count)
    stored candidates, the same for all arms, None for explanations. question: as floors are asked."""

    template: str
    rows: Any
    user: Ints
    item: Ints
    lists: Ints | None
    question: NextItems | None


@dataclass
class Sources(ArmSources):
    """Everything that is measured: floors once, trained arms under every seed."""

    _questions: dict[tuple[str, str], Asked] = field(default_factory=dict)

    @cached_property
    def templates(self) -> list[str]:
        """Of each family that trains those that are evaluated, seen ones first; of those beside its two none that shows
        words, of a headline say, which no test review has."""
        source, found = self.desk(self.name).source, []
        for one in map(family, source.families):
            found += [name for name in one.evaluated if name not in one.also or len(source.held_out(name, "test"))]
        return found

    @property
    def floors(self) -> dict[str, str]:
        """The floors that can be measured here, with words for each."""
        here = (name for name in self.evaluation.recommending.controls if name != bpr.NAME or not bpr.missing())
        wanted = {name: CONTROLS[name] for name in here}
        return sequence_floors.MEANINGS | wanted | (WRITTEN if "explanation" in self._families else {})

    @property
    def skipped(self) -> list[str]:
        """Why a control or a template is not measured."""
        asked_for = bpr.NAME in self.evaluation.recommending.controls
        wordless = [name for one in self._families for name in family(one).also if name not in self.templates]
        without = [f"{name}: no review of the test split has all words that it shows" for name in wordless]
        return [*([bpr.missing()] if asked_for and bpr.missing() else []), *without]

    @property
    def _families(self) -> list[Family]:
        return list(dict.fromkeys(map(family_of, self.templates)))

    def units(self) -> list[Unit]:
        """Trained arms first."""
        return self.units_beside(self.floors)

    def desk(self, arm: str) -> Any:
        """What the rows of an arm share, warm."""
        task = self.arms[arm]
        desk = get(task.kind).open_desk(self.dataset, task, self.backbone)
        desk.warm(self.features, progress=False)
        return desk

    def question(self, template: str, arm: str | None = None) -> Asked:
        """What a template asks of the test split, as an arm reads it. Rows whose user had the item before are left out,
        since nobody who names new items can hit them. Raises DataError without any."""
        arm = arm or self.name
        if (arm, template) not in self._questions:
            for key in [key for key in self._questions if key[0] not in (arm, self.name)]:
                del self._questions[key]
            self._questions[arm, template] = self._asked(template, self.desk(arm))
        return self._questions[arm, template]

    def _asked(self, template: str, desk: Any) -> Asked:
        part, how = family_of(template), self.evaluation.recommending
        rows = get(self.task.kind).asked(desk, template, "test")
        lists = question = None
        kept = np.arange(len(rows))
        if part != "explanation":
            at = desk.source.asked("test", part)
            kept = np.flatnonzero(~at.again)
            lists = candidates.candidates(desk.source.found, at, "test", desk.settings.candidates, desk.source.seed)
            question = sequences.asked(desk.source.found, at)
        most = how.explanations if part == "explanation" else how.max_rows
        if most is not None and len(kept) > most:
            kept = kept[np.array(evenly(len(kept), most))]
        if not len(kept):
            raise DataError(f"{self.dataset.path}: nothing in split 'test' of scheme 'loo' for template {template}")
        rows = rows.take(kept)
        return Asked(
            template,
            rows,
            np.asarray(rows.columns.user, np.int64),
            np.asarray(rows.columns.item, np.int64),
            None if lists is None else lists[kept].astype(np.int64),
            None if question is None else question.take(kept),
        )

    def measure(self, unit: Unit) -> Found:
        """One unit. Raises DataError where arms do not share their questions."""
        return self._trained(unit) if unit.source in self.arms else self._floor(unit.source)

    def _trained(self, unit: Unit) -> Found:
        kind, size = get(self.task.kind), self.evaluation.batch_size
        found = Found({})
        for template in self.templates:
            asked, main = self.question(template, unit.source), self.question(template)
            if not (np.array_equal(asked.user, main.user) and np.array_equal(asked.item, main.item)):
                raise DataError(f"{unit.source}: its rows of {template} differ from those of {self.name}")
            if asked.lists is not None and (main.lists is None or not np.array_equal(asked.lists, main.lists)):
                raise DataError(
                    f"{unit.source}: its candidates of {template} differ from those of {self.name}: `candidates` and "
                    "`rows_seed` must be those of the task"
                )
        kind.load(self.backbone, self.adapters[unit.seed, unit.source])
        for template in self.templates:
            asked = self.question(template, unit.source)
            asked.rows.desk.told.clear()
            if asked.lists is None:
                said = kind.explanations(self.backbone, asked.rows, features=self.features, batch_size=size)
                found.told.update(asked.rows.desk.told)
                found.written[template] = said
                found.asked[template] = self._explained(asked, said)
                continue
            began = time.perf_counter()
            items, scores = kind.next_items(self.backbone, asked.rows, TOP, features=self.features, batch_size=size)
            found.told.update(asked.rows.desk.told)
            found.top[template] = items
            places = next_item.listed(items, asked.item, scores)
            sample = next_item.sampled(asked.lists.shape[1])
            if family_of(template) == "direct":
                found.asked[template] = means(next_item.row_values(places, protocol=sample))
                continue
            found.speed = found.speed or len(asked.item) / (time.perf_counter() - began)
            if unit.source == self.name and not found.free and self.backbone.seq2seq is not None:
                found.free = self._free(asked, items)
            found.asked[template] = means(next_item.row_values(places))
            few, told = kind.next_items(
                self.backbone, asked.rows, TOP, features=self.features, batch_size=size, only=asked.lists
            )
            among = next_item.listed(few, asked.item, told)
            found.asked[template] |= means(next_item.row_values(among, protocol=sample))
        return found

    def _free(self, asked: Asked, named: Ints) -> dict[str, float]:
        """The control of the search: some users' next items by beams that may write anything. named: (n, TOP) with the
        constraint."""
        some = np.array(evenly(len(asked.item), min(FREE, len(asked.item))))
        items, shares = get(self.task.kind).free_items(
            self.backbone, asked.rows.take(some), TOP, features=self.features, batch_size=self.evaluation.batch_size
        )
        true = asked.item[some][:, None]
        hits = {"hit": (items == true).any(axis=1).mean(), "hit_constrained": (named[some] == true).any(axis=1).mean()}
        return {**shares, **{name: float(value) for name, value in hits.items()}}

    def _floor(self, name: str) -> Found:
        found = Found({})
        if name in WRITTEN:
            for template in (one for one in self.templates if family_of(one) == "explanation"):
                asked = self.question(template)
                said = self._unlearned(name, asked)
                found.written[template], found.asked[template] = said, self._explained(asked, said)
            return found
        scorer = self._scorer(name)
        for template in (one for one in self.templates if family_of(one) != "explanation"):
            asked = self.question(template)
            assert asked.lists is not None
            assert asked.question is not None
            score = scorer(asked.question)
            sample = next_item.sampled(asked.lists.shape[1])
            values = next_item.row_values(next_item.among(score, asked.lists, asked.item), protocol=sample)
            if family_of(template) == "sequential":
                values = next_item.row_values(next_item.full(score, asked.question)) | values
            found.asked[template] = means(values)
        return found

    def _scorer(self, name: str) -> Callable[[NextItems], Scorer]:
        """What scores questions by a floor, fitted once on training histories, chosen on validation rows."""
        desk = self.desk(self.name)
        train, valid, count = self._histories
        seen: Mapping[str, Callable[[NextItems], Scorer]] = {
            sequence_floors.POPULARITY: lambda asked: sequence_floors.popularity(train, asked, count),
            sequence_floors.KNN: lambda asked: sequence_floors.item_knn(train, asked, count),
            sequence_floors.MARKOV: lambda asked: sequence_floors.markov(train, asked, count),
            sequence_floors.HIGHEST: lambda asked: sequence_floors.next_number(self._numbers, asked),
            sequence_floors.PREVIOUS: lambda asked: sequence_floors.next_number(self._numbers, asked, highest=False),
        }
        if name in seen:
            return seen[name]
        if name == sasrec.NAME:
            return sasrec.train(train, valid, count)[0].scorer
        if name == bpr.NAME:
            return lambda asked: bpr.train(train, valid, count, asked)
        return vbpr.train(train, valid, torch.as_tensor(desk.pictures), torch.as_tensor(desk.pictured))[0].scorer

    @cached_property
    def _histories(self) -> tuple[Sequences, NextItems, int]:
        """Training histories, validation questions, and how many items there are."""
        source = self.desk(self.name).source
        valid = sequences.asked(source.found, source.asked("valid", "sequential"))
        return sequences.trained(source.found), valid, len(source.found.items)

    @cached_property
    def _numbers(self) -> Ints:
        """(items,) each item's number as prompts of the main arm show it; the stored one where they show no numbers."""
        desk = self.desk(self.name)
        if desk.settings.ids == "permuted":
            return np.array(desk.splicer.directory.ids, np.int64)
        return np.array([row["number"] for row in desk.items], np.int64)

    def _explained(self, asked: Asked, said: list[str]) -> dict[str, Sums]:
        told = [asked.rows.desk.source.fields(asked.rows.columns, at) for at in range(len(said))]
        return explanations.measures(said, [one.text for one in told], [one.feature for one in told])

    def _unlearned(self, name: str, asked: Asked) -> list[str]:
        reviews = asked.rows.desk.source.reviews
        known = np.flatnonzero(reviews.split == 0)
        texts = reviews.words["text"].take(known).to_pylist()
        if name == BOILERPLATE:
            return explanations.boilerplate(texts, len(asked.item))
        return explanations.copied(texts, [str(one) for one in reviews.item[known]], [str(one) for one in asked.item])


def arms_of(sources: Sources) -> list[MeasuredArm]:
    """Floors, controls, and the main arm, with words for what each of them is."""
    return sources.told(sources.floors, meaning)


def meaning(task: Task) -> str:
    """An arm in a few words, from its settings alone."""
    how = settings_of(task)
    reads = {
        ("text",): "numbers and titles", ("image",): "pictures alone", ("text", "image"): "numbers, titles and pictures"
    }[tuple(m for m in ("text", "image") if m in task.modality)]  # fmt: skip
    told = [f"reads {reads}", f"{how.k} visual tokens an item" if how.k else ""]
    told.append("another item's pictures" if how.shuffled else "")
    told.append("semantic ids" if how.ids == "semantic" else "")
    told.append("" if how.ids_seed is None else f"ids drawn again by seed {how.ids_seed}")
    told.append("LoRA" if how.adapter == "lora" else f"bottlenecks a {how.reduction}th as wide")
    told.append("one for each family of prompts" if how.per_family else "")
    told.append("behind random weights" if how.random_base else "")
    return "; ".join(filter(None, told))


def settings_of(task: Task) -> Personalise:
    """The section of a task of kind personalise."""
    assert task.personalise is not None
    return task.personalise
