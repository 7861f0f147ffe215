"""Which judgements are shown before the one that is asked: by its rule, of both labels, never itself or its likes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latefuse.config_judge import Judge

Row = Mapping[str, Any]
Rule = tuple[str, str]
"""Task and instruction: a label is right or wrong by them alone."""
SPARE, TOGETHER = 16, 1_024
"""Nearest rows that are kept beside those wanted, since some are too like to be shown; rows that are found together."""
Vectors = Callable[[Sequence[Row]], NDArray[np.float32]]
"""Vectors (n, d) of judgements, the more alike the larger their inner product."""


class Demonstrations:
    """The training rows of every rule, to choose from. rows: of the training split alone, with a label each.

    vectors: what makes judgements comparable, where the nearest are shown.
    """

    def __init__(self, rows: Sequence[Row], settings: Judge, vectors: Vectors | None = None) -> None:
        if settings.choose == "nearest" and vectors is None:
            raise ValueError("the nearest demonstrations can't be found without vectors")
        self.settings, self.vectors = settings, vectors
        self.by_label: dict[tuple[Rule, bool], list[Row]] = defaultdict(list)
        for row in rows:
            self.by_label[rule_of(row), row["label"]].append(row)
        self._fixed: dict[tuple[Rule, bool], list[Row]] = {}
        self._known: dict[tuple[Rule, bool], NDArray[np.float32]] = {}
        self._near: dict[tuple[str, bool], NDArray[np.intp]] = {}

    def expect(self, rows: Sequence[Row]) -> None:
        """Find the nearest of rows that `of` is about to be asked for, many at a time; those of earlier ones go."""
        self._near = {}
        if self.settings.choose == "nearest" and self.settings.demos and self.vectors:
            for start in range(0, len(rows), TOGETHER):
                self._find(rows[start : start + TOGETHER], self.vectors(rows[start : start + TOGETHER]))

    def _find(self, rows: Sequence[Row], vectors: NDArray[np.float32]) -> None:
        of_rule: dict[Rule, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            of_rule[rule_of(row)].append(number)
        for rule, numbers in of_rule.items():
            for label in (True, False):
                if known := self.by_label.get((rule, label)):
                    like = vectors[numbers] @ self._vectors_of((rule, label), known).T
                    few = min(self.settings.demos + SPARE, len(known))
                    nearest = np.argpartition(-like, few - 1, axis=1)[:, :few]
                    order = np.lexsort((nearest, -np.take_along_axis(like, nearest, axis=1)), axis=1)
                    for number, places in zip(numbers, np.take_along_axis(nearest, order, axis=1), strict=True):
                        self._near[rows[number]["id"], label] = places

    def _vectors_of(self, group: tuple[Rule, bool], known: Sequence[Row]) -> NDArray[np.float32]:
        if group not in self._known:
            assert self.vectors is not None
            self._known[group] = self.vectors(known)
        return self._known[group]

    def of(self, row: Row, fixed: bool) -> list[Row]:
        """Up to `demos` rows for one that is asked, as many of each label as can be, in a drawn order.

        fixed: the same for every row of a rule, but for one that they are too like. Fewer where a rule has no more.
        """
        rule, wanted = rule_of(row), self.settings.demos
        draw = random.Random(f"{self.settings.seed}/{rule if fixed else row['id']}")
        labels = [True, False]
        draw.shuffle(labels)
        sources = [self._candidates(row, label, draw, fixed) for label in labels]
        found: list[Row] = []
        ended = 0
        while len(found) < wanted and ended < len(sources):
            ended = 0
            for source in sources:
                taken = next((one for one in source if not alike(one, row) and not _among(one, found)), None)
                ended += taken is None
                if taken is not None and len(found) < wanted:
                    found.append(taken)
        draw.shuffle(found)
        return found

    def _candidates(self, row: Row, label: bool, draw: random.Random, fixed: bool) -> Iterator[Row]:
        """The rows of the rule and a label, the nearest first or in a drawn order, lazily: few are ever asked for."""
        rule = rule_of(row)
        rows = self.by_label.get((rule, label), [])
        if fixed:
            order = self._fixed.get((rule, label))
            if order is None:
                order = random.Random(f"{self.settings.seed}/{rule}/{label}").sample(rows, len(rows))
                self._fixed[rule, label] = order
            yield from order
            return
        if self.settings.choose == "nearest":
            yield from self._nearest(row, (rule, label))
            return
        swapped: dict[int, int] = {}
        for place in range(len(rows)):
            other = draw.randrange(place, len(rows))
            yield rows[swapped.get(other, other)]
            swapped[other] = swapped.get(place, place)

    def _nearest(self, row: Row, group: tuple[Rule, bool]) -> Iterator[Row]:
        rows = self.by_label.get(group, [])
        if not rows:
            return
        near = self._near.get((row["id"], group[1]), ())
        yield from (rows[number] for number in near)
        if len(near) < len(rows):
            assert self.vectors is not None
            like = self._vectors_of(group, rows) @ self.vectors([row])[0]
            yield from (rows[number] for number in np.argsort(-like, kind="stable") if number not in near)


def rule_of(row: Row) -> Rule:
    """What a row is judged by."""
    return row["task"] or "", " ".join(row["instruction"].split())


def alike(one: Row, other: Row) -> bool:
    """Whether two judgements are the same, or are about the same item, the same picture or the same words."""
    if one["id"] == other["id"]:
        return True
    return any(one[key] and _plain(one[key]) == _plain(other[key]) for key in ("item", "image", "text"))


def _among(one: Row, others: Sequence[Row]) -> bool:
    return any(one["id"] == other["id"] for other in others)


def _plain(value: Any) -> str:
    return " ".join(str(value or "").casefold().split())
