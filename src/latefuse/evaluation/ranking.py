"""Every arm of a ranker on the same test rows: as trained, with media knocked out, beside floors and plain models."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from latefuse.config import Task
from latefuse.config_judge import RELEVANT, Policy, Verdicts
from latefuse.config_rank import Imbalance, Rank
from latefuse.data.errors import DataError
from latefuse.evaluation import money, rank_floors
from latefuse.evaluation.arm_sources import ArmSources, Unit
from latefuse.evaluation.arms_summary import MeasuredArm
from latefuse.evaluation.calibration import Floats, Ints, ScoresError, Truth
from latefuse.evaluation.rank_floors import LOGISTIC, MAJORITY, POPULARITY, TREES, Lesson
from latefuse.evaluation.rank_values import Answers
from latefuse.evaluation.rulings import Ruling, rule
from latefuse.fusion.rows import evenly
from latefuse.tasks import get
from latefuse.training.features import Features

SPLITS = ("train", "valid", "test")
COLD_ITEM, COLD_USER, WARM = "cold item", "cold user", "warm"


class Store(Protocol):
    """Where rows find the vectors of their items."""

    def warm(self, features: Features, progress: bool) -> int:
        """Make those that are not there."""
        ...


class Rows(Protocol):
    """The rows of one split as columns, in stored order: what a ranker is asked, and what came. See `tasks.rank`.

    names: the id of each row. absent: of each source of vectors the rows that have none, once the store is warm. likes:
    of the item before the row.
    """

    names: list[str]
    labels: Truth
    users: Ints
    items: Ints
    cold_user: Truth
    cold_item: Truth
    absent: Mapping[str, Truth]
    likes: NDArray[Any]
    store: Store

    def __len__(self) -> int: ...

    def take(self, numbers: Any) -> Self:
        """Some of the rows."""
        ...


Ask = Callable[[Rows], Floats]


@dataclass
class Found:
    """What one unit gave: answers to the test rows, what validation rows chose, the scores under each condition, how
    many rows of each split were left out, and rows a second of the test."""

    answers: Answers
    ruling: Ruling
    offer: money.Offer
    knocked: dict[str, Floats] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    speed: float = 0.0


@dataclass
class Sources(ArmSources):
    """Everything that is measured: floors once, trained arms under every seed."""

    _kept: dict[tuple[str, str], tuple[Rows, int]] = field(default_factory=dict)

    @property
    def floors(self) -> dict[str, str]:
        """The floors that are measured, with words for each."""
        return rank_floors.names(self.evaluation.ranking)

    def units(self) -> list[Unit]:
        """Trained arms first."""
        return self.units_beside(self.floors)

    def rows(self, split: str, arm: str | None = None) -> Rows:
        """The rows of a split as an arm, by default the main one, reads them; of training all that there are, of the
        test at most `max_rows`, evenly spread. Raises DataError where there are none."""
        return self._selected(split, arm or self.name)[0]

    def measure(self, unit: Unit) -> Found:
        """One unit. Raises ScoresError for scores that are not finite, DataError where arms do not share their rows."""
        how, arm = self.evaluation.ranking, unit.source if unit.source in self.arms else self.name
        valid, test = self.rows("valid", arm), self.rows("test", arm)
        self._must_be_the_same(test, arm)
        ask = self._asker(unit)
        known = _finite(ask(valid), f"{unit}, validation")
        began = time.perf_counter()
        scores = _finite(ask(test), f"{unit}, test")
        speed = len(test) / (time.perf_counter() - began)
        verdicts = Verdicts(policy=Policy(kind="false-positive-rate", value=how.target))
        ruling = rule(known, valid.labels, verdicts, f"{unit}, validation")
        offer = money.best(ruling.probability(known), valid.labels, how.gain, how.loss)
        knocked = {}
        if unit.source == self.name:
            for condition, changed in get(self.task.kind).conditions(self.task, test, max(unit.seed, 0)).items():
                knocked[condition] = _finite(ask(changed), f"{unit}, {condition}")
        left_out = {split: count for split in SPLITS[1:] if (count := self._selected(split, arm)[1])}
        trained = unit.source in self.arms
        return Found(_answers(scores, ruling, offer, unit), ruling, offer, knocked, left_out, speed if trained else 0.0)

    def _selected(self, split: str, arm: str) -> tuple[Rows, int]:
        """The rows, and how many were left out."""
        if (arm, split) not in self._kept:
            for key in [key for key in self._kept if key[0] not in (arm, self.name)]:
                del self._kept[key]  # the columns of one arm are as long as the table
            task = whole(self.arms[arm]) if split == "train" else self.arms[arm]
            found = get(task.kind).select(self.dataset, task, split, self.backbone)
            rows = found.examples
            most = self.evaluation.ranking.max_rows if split == "test" else None
            if most is not None and len(rows) > most:
                rows = rows.take(np.array(evenly(len(rows), most)))
            self._kept[arm, split] = rows, sum(found.left_out.values())
        return self._kept[arm, split]

    def _must_be_the_same(self, test: Rows, arm: str) -> None:
        main = self.rows("test")
        for column in ("users", "items", "labels"):
            if not np.array_equal(getattr(test, column), getattr(main, column)):
                raise DataError(
                    f"{arm}: its test rows differ from those of {self.name} in their {column}; arms of one recipe are "
                    "measured on the same rows: give both the same table, where, rank.label and rank.scheme"
                )

    def _asker(self, unit: Unit) -> Ask:
        """What gives scores (n,) of rows."""
        if unit.source == MAJORITY:
            liked = self.rows("train").labels
            return lambda rows: rank_floors.majority(liked, len(rows))
        if unit.source == POPULARITY:
            return lambda rows: rank_floors.popularity(rows.likes)
        if unit.source in (LOGISTIC, TREES):
            fitted = {LOGISTIC: rank_floors.logistic, TREES: rank_floors.trees}[unit.source](self._lesson)
            return lambda rows: fitted(self._table(rows))
        kind = get(self.arms[unit.source].kind)
        kind.load(self.backbone, self.adapters[unit.seed, unit.source])
        size = self.evaluation.batch_size

        def ask(rows: Rows) -> Floats:
            found = kind.predict(self.backbone, rows, features=self.features, batch_size=size)
            return np.asarray(found.double().numpy(), np.float64)

        return ask

    @cached_property
    def _lesson(self) -> Lesson:
        train, valid = self.rows("train"), self.rows("valid")
        return Lesson(self._table(train), train.labels, self._table(valid), valid.labels)

    def _table(self, rows: Rows) -> rank_floors.Table:
        found: rank_floors.Table = self._columns(rows)
        return found

    @cached_property
    def _columns(self) -> Callable[[Rows], rank_floors.Table]:
        """Rows as plain columns; what is fitted for them is fitted on training rows."""
        made: Callable[[Rows], rank_floors.Table] = get(self.task.kind).matrix(self.rows("train"), self.features)
        return made


def slices(rows: Rows) -> dict[str, Ints]:
    """Name -> places: of an item or user that training has not seen, of neither, and of each source of vectors that is
    not there. None that is empty, none that is all."""
    masks = {COLD_ITEM: rows.cold_item, COLD_USER: rows.cold_user, WARM: ~(rows.cold_item | rows.cold_user)}
    masks |= {f"no {source}": gone for source, gone in rows.absent.items()}
    return {name: np.flatnonzero(mask) for name, mask in masks.items() if mask.any() and not mask.all()}


def arms_of(sources: Sources) -> list[MeasuredArm]:
    """Floors, controls, and the main arm, with words for what each of them is."""
    return sources.told(sources.floors, meaning)


def meaning(task: Task) -> str:
    """An arm in a few words, from its settings alone."""
    how = rank_of(task)
    reads = [*(["ids"] if how.ids else []), *(["counts"] if how.numbers else []), *how.attributes]
    if "text" in task.modality:
        reads.append("text as summaries" if how.text == "summary" else "text as the mean of reviews")
    if "image" in task.modality:
        reads.append("pictures" if how.picture == "raw" else "pictures in words")
    told = [f"reads {', '.join(reads) or 'nothing'}"]
    if how.shuffled:
        told.append(f"another item's {' and '.join(how.shuffled)}")
    cure = {"bce": "plain cross-entropy", "weighted": "likes and others weighing the same", "focal": "focal loss"}
    told.append(cure[how.imbalance.loss])
    if how.imbalance.keep_negatives < 1:
        told.append(f"{how.imbalance.keep_negatives:.0%} of negatives")
    return "; ".join(told)


def whole(task: Task) -> Task:
    """The task with all training rows, of which imbalance may leave some out: what is counted is counted on all."""
    return task.model_copy(update={"rank": rank_of(task).model_copy(update={"imbalance": Imbalance()})})


def rank_of(task: Task) -> Rank:
    """The section of a task of kind rank."""
    assert task.rank is not None
    return task.rank


def _answers(scores: Floats, ruling: Ruling, offer: money.Offer, unit: Unit) -> Answers:
    from scipy.special import expit

    probability = ruling.probability(scores)
    said = ruling.verdicts(scores) == RELEVANT
    raw = None if unit.source == POPULARITY else np.asarray(expit(scores), np.float64)
    return Answers(scores, probability, raw, said, probability >= offer.threshold, probability >= offer.break_even)


def _finite(scores: Floats, name: str) -> Floats:
    bad = int((~np.isfinite(scores)).sum())
    if bad:
        raise ScoresError(f"{name}: {bad:,} of {len(scores):,} scores are not finite; train with a lower train.lr")
    return scores
