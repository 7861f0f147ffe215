"""Histories as ragged rows of item codes in the order of time, and what was asked behind them: who chose what next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

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
    def from_events(cls, user: ArrayLike, item: ArrayLike, ts: ArrayLike, users: int) -> Self:
        """A row for each of the users. user, item: (m,) codes. Events of one time keep their order."""
        of, what = np.asarray(user, np.int64), np.asarray(item, np.int64)
        order = np.lexsort((np.asarray(ts), of))
        return cls(np.concatenate([[0], np.cumsum(np.bincount(of, minlength=users))]), what[order])

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
        lengths = self.lengths[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(self.indptr[rows] - ends[:-1], lengths)
        return Sequences(ends, self.indices[places])

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


def held_out(user: ArrayLike, item: ArrayLike, ts: ArrayLike, codes: ArrayLike, split: int) -> NextItems:
    """One question for each event of a split, in the order of user and time.

    user, item, ts: (m,) of all events. codes: (m,) their splits, 0 train, 1 valid, 2 test, as stored. The history is
    what the same user has in less held-out splits. Raises ValueError where a part of it is later than the event.
    """
    users, items, times, held = (np.asarray(one) for one in (user, item, ts, codes))
    n = int(users.max(initial=-1)) + 1
    before = held < split
    seen = Sequences.from_events(users[before], items[before], times[before], n)
    asked = np.flatnonzero(held == split)
    asked = asked[np.lexsort((times[asked], users[asked]))]
    newest = np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(newest, users[before], times[before])
    if len(late := asked[newest[users[asked]] > times[asked]]):
        raise ValueError(f"event {late[0]}: its user has less held-out events that are later; run prepare again")
    return NextItems(users[asked].astype(np.int64), seen.take(users[asked]), items[asked].astype(np.int64))
