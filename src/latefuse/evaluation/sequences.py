"""Histories as ragged rows of item codes in the order of time, and what was asked behind them: who chose what next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from latefuse.data.histories import VALID, Histories, Targets
from latefuse.evaluation.calibration import Ints


@dataclass(frozen=True)
class Sequences:
    """Row r is `indices[indptr[r] : indptr[r + 1]]`, oldest first; named as the arrays of a SciPy CSR matrix are.

    indptr: (n + 1,) rising. indices: item codes, rows of the items table.
    """

    indptr: Ints
    indices: Ints

    def __post_init__(self) -> None:
        for name in ("indptr", "indices"):
            kept = np.asarray(getattr(self, name), np.int64).view()
            kept.setflags(write=False)  # a sparse matrix made of them would sort them in place
            object.__setattr__(self, name, kept)

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Out of lists."""
        lists = [np.asarray(row, np.int64) for row in rows]
        ends = np.cumsum([0, *map(len, lists)])
        return cls(ends.astype(np.int64), np.concatenate(lists) if lists else np.zeros(0, np.int64))

    @classmethod
    def cut(cls, values: ArrayLike, begin: ArrayLike, end: ArrayLike) -> Self:
        """Row r is values[begin[r] : end[r]]; parts may overlap."""
        begin = np.asarray(begin, np.int64)
        lengths = np.asarray(end, np.int64) - begin
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return cls(ends, np.asarray(values, np.int64)[np.arange(ends[-1]) + np.repeat(begin - ends[:-1], lengths)])

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> Ints:
        return self.indices[self.indptr[row] : self.indptr[row + 1]]

    @property
    def lengths(self) -> Ints:
        """(n,)"""
        return np.diff(self.indptr)

    @property
    def row_of(self) -> Ints:
        """The row of each of `indices`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: ArrayLike) -> Sequences:
        """Some rows, in the order asked for."""
        rows = np.asarray(rows, np.int64)
        return Sequences.cut(self.indices, self.indptr[rows], self.indptr[rows + 1])

    def last(self, k: int) -> Ints:
        """(n, k) the newest first, -1 where a row is shorter."""
        places = self.indptr[1:, None] - 1 - np.arange(k)
        inside = places >= self.indptr[:-1, None]
        if not len(self.indices):
            return np.full(places.shape, -1)
        return np.where(inside, self.indices[np.where(inside, places, 0)], -1)

    def counts(self, items: int) -> Ints:
        """(items,) how often each stands anywhere."""
        return np.bincount(self.indices, minlength=items)


@dataclass(frozen=True)
class NextItems:
    """Questions of what comes next. user: (n,) row of the training histories. history: n rows, all before the target.
    target: (n,) item codes."""

    user: Ints
    history: Sequences
    target: Ints

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: ArrayLike) -> NextItems:
        """Some of them."""
        rows = np.asarray(rows, np.int64)
        return NextItems(self.user[rows], self.history.take(rows), self.target[rows])

    def unasked(self) -> Tensor:
        """(2, E) int64, a question and an item of its history each, which may not be found again: `excluded` of
        `retrieval.ranks`. A target that stands in its own history stays."""
        pairs = np.stack([self.history.row_of, self.history.indices])
        return torch.from_numpy(pairs[:, pairs[1] != self.target[pairs[0]]])


def trained(found: Histories) -> Sequences:
    """What trains of each user, a row for each of `found.users`."""
    return Sequences.cut(found.item, found.start[:-1], found.held_from[VALID])


def asked(found: Histories, some: Targets) -> NextItems:
    """The questions that `data.histories.targets` finds."""
    history = Sequences.cut(found.item, some.begin, some.end)
    return NextItems(some.user.astype(np.int64), history, some.item.astype(np.int64))
