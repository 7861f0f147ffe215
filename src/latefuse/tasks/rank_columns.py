"""The rows that a ranker learns from as columns, and what was known of each row's user and item before it.

A like is counted for later rows only: never for its own row, nor for one of the same second. Columns lie in a file
without a name, so that memory does not grow with them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from latefuse.config import Task
from latefuse.config_rank import Rank
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.schema import SPLITS, TABLES
from latefuse.sections import nearest

Array = NDArray[Any]
BEFORE = ("user events", "user like rate", "item events", "item like rate", "since user event", "since item event")
"""What is known before a row: logarithms of counts, smoothed rates, logarithms of seconds, nan where there is none."""
PRIOR = 10.0
"""Rows that the rate of all training rows counts for in a user's or an item's own."""
CHUNK = 262_144
TRAIN = 0


@dataclass(frozen=True)
class Columns:
    """All rows of the table, in stored order. n rows, u users, i items.

    number: (n,) place in the stored table. user, item: (n,) codes into `users` and `items`. split: (n,) codes of
    `schema.SPLITS`, -1 for none. before: (n, 6) see BEFORE. past, likes: (n,) how many items the user had liked, and
    how often the item was. liked_from: (u + 1,) where each user begins in `liked_items`, what was liked in order of
    time.
    """

    table: str
    users: list[str]
    items: list[str]
    number: Array
    user: Array
    item: Array
    ts: Array
    liked: Array
    split: Array
    before: Array
    past: Array
    likes: Array
    liked_from: Array
    liked_items: Array

    def rows(self, split: str) -> Array:
        """(m,) the rows of a split, in stored order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def trained(self, column: str) -> Array:
        """(u,) or (i,) which users or items training has a row of. column: user or item."""
        found = np.zeros(len(self.users if column == "user" else self.items), bool)
        for start in range(0, len(self.split), CHUNK):
            part = slice(start, start + CHUNK)
            found[getattr(self, column)[part][self.split[part] == TRAIN]] = True
        return found


def columns(dataset: Dataset, task: Task) -> Columns:
    """Read the table of a task, twice over: once as it lies there, once in order of time.

    Under scheme `loo` what is held out counts for nobody, under `time` it counts for what comes after it. Raises
    DataError for a label that is not one of two, for a table without rows, and for training rows of one label only.
    """
    assert task.rank is not None
    made = _Reader(dataset, task, task.rank)
    made.read()
    counted = made.split == TRAIN if task.rank.scheme == "loo" else None
    order = np.argsort(made.ts, kind="stable")
    before, past, popular = _known_before(made, order, counted)
    likes = order[made.liked[order] if counted is None else made.liked[order] & counted[order]]
    likes = likes[np.argsort(made.user[likes], kind="stable")]
    starts = np.concatenate([[0], np.cumsum(np.bincount(made.user[likes], minlength=len(made.users)))])
    return Columns(
        task.table, list(made.users), list(made.items), made.number, made.user, made.item, made.ts, made.liked,
        made.split, before, past, popular, starts.astype(np.int64), np.asarray(made.item[likes], np.int32),
    )  # fmt: skip


class _Reader:
    """The first pass: strings to codes, labels, splits."""

    def __init__(self, dataset: Dataset, task: Task, settings: Rank) -> None:
        self.dataset, self.task, self.settings = dataset, task, settings
        self.items = {name: code for code, name in enumerate(_names(dataset))}
        self.users: dict[str, int] = {}
        total = dataset.count(task.table)
        if not total:
            raise DataError(f"{dataset.path}: the table {task.table} has no row")
        self.number, self.ts = column(total, np.int64), column(total, np.int64)
        self.user, self.item = column(total, np.int32), column(total, np.int32)
        self.liked, self.split = column(total, np.bool_), column(total, np.int8)
        self.least = 0.0

    def read(self) -> None:
        """Fill the columns, which end where the rows that `where` keeps do."""
        at, known = 0, TABLES[self.task.table].names
        for name in self.task.where:
            if name not in known:
                raise DataError(f"{self.task.table} has no column {name!r}{nearest(name, known)}")
        self.least = self._least()
        for table in self._batches():
            part = slice(at, at + len(table))
            at += len(table)
            self.number[part] = table["_number"].to_numpy()
            self.ts[part] = table["ts"].to_numpy()
            self.user[part] = _codes(table["user"], self.users, grow=True)
            self.item[part] = _codes(table["item"], self.items, grow=False)
            self.split[part] = _split_codes(table[f"split_{self.settings.scheme}"])
            self.liked[part] = self._likes(table)
        if not at:
            raise DataError(f"{self.dataset.path}: no row of {self.task.table} is {self.task.where}")
        for name in ("number", "ts", "user", "item", "liked", "split"):
            setattr(self, name, getattr(self, name)[:at])
        self._two_labels()

    def _likes(self, table: pa.Table) -> Array:
        label = self.settings.label
        if label.kinds:
            return np.asarray(pc.is_in(table["kind"], pa.array(label.kinds)))
        return np.asarray(table[label.column].to_numpy() >= self.least)

    def _least(self) -> float:
        """From which value on a row is liked: the larger one of two, unless the recipe says. Raises DataError."""
        label, name = self.settings.label, self.task.table
        known = TABLES[name].names
        wanted = "kind" if label.kinds else label.column
        if wanted not in known:
            raise DataError(f"rank.label: the table {name} has no column {wanted!r}{nearest(wanted, known)}")
        if label.kinds or label.at_least is not None:
            return label.at_least or 0.0
        found: set[float] = set()
        for table in self._batches([wanted]):
            found |= set(pc.unique(table[wanted]).to_pylist())
            if len(found) > 2:
                told = ", ".join(f"{value:g}" for value in sorted(found)[:4])
                raise DataError(
                    f"{self.dataset.path}: {name}.{wanted} holds more than two values ({told}): say from which on a "
                    "row is liked, with rank.label.at_least, or which kinds of events are, with rank.label.kinds"
                )
        return max(found, default=0.0)

    def _batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The rows that `where` keeps, each with its place in the table as `_number`."""
        seen = 0
        for batch in self.dataset.arrow(self.task.table, [*columns, *self.task.where] if columns else None):
            table = pa.table(batch).append_column("_number", pa.array(np.arange(seen, seen + len(batch))))
            seen += len(batch)
            for name, value in self.task.where.items():
                table = table.filter(pc.equal(table[name], pa.scalar(value, table.schema.field(name).type)))
            yield table

    def _two_labels(self) -> None:
        train = self.split == TRAIN
        likes = int(self.liked[train].sum())
        if not 0 < likes < int(train.sum()):
            raise DataError(
                f"{self.dataset.path}: {likes:,} of {int(train.sum()):,} training rows of {self.task.table} are liked; "
                "a ranker needs rows of both kinds: look at rank.label and at task.where"
            )

    def positive(self) -> float:
        """The share of training rows that is liked."""
        return float(self.liked[self.split == TRAIN].mean())


def column(rows: int, dtype: Any, width: int | None = None) -> Array:
    """(rows,) or (rows, width) zeros in a file without a name, which goes with the array."""
    shape = (rows,) if width is None else (rows, width)
    with tempfile.TemporaryFile(prefix="latefuse-") as file:
        return np.memmap(file, dtype, "w+", shape=shape)


def _names(dataset: Dataset) -> Iterator[str]:
    for batch in dataset.arrow("items", ["id"]):
        yield from batch["id"].to_pylist()


def _codes(values: pa.ChunkedArray, known: dict[str, int], grow: bool) -> Array:
    """The code of each value; each distinct one is looked up once."""
    encoded = values.combine_chunks().dictionary_encode()
    words = encoded.dictionary.to_pylist()
    codes = [known.setdefault(word, len(known)) if grow else known[word] for word in words]
    return np.asarray(codes, np.int32)[encoded.indices.to_numpy()] if words else np.zeros(0, np.int32)


def _split_codes(values: pa.ChunkedArray) -> Array:
    places = pc.index_in(values, pa.array(SPLITS))
    return np.asarray(pc.fill_null(places, -1).to_numpy(), np.int8)


def _known_before(made: _Reader, order: Array, counted: Array | None) -> tuple[Array, Array, Array]:
    """`Columns.before`, `past` and `likes`, in chunks of the order of time that never tear a second apart."""
    positive, before = made.positive(), column(len(order), np.float32, len(BEFORE))
    past, popular = column(len(order), np.int32), column(len(order), np.int32)
    users, items = _Known(len(made.users)), _Known(len(made.items))
    start = 0
    while start < len(order):
        stop = min(start + CHUNK, len(order))
        while stop < len(order) and made.ts[order[stop]] == made.ts[order[stop - 1]]:
            stop += 1
        rows = order[start:stop]
        counts = np.ones(len(rows), bool) if counted is None else counted[rows]
        ts, liked = made.ts[rows], made.liked[rows]
        told = []
        for known, keys in ((users, made.user[rows]), (items, made.item[rows])):
            events, likes, since = known.take_in(keys, ts, liked, counts)
            rate = (likes + PRIOR * positive) / (events + PRIOR)
            told.append((np.log1p(events), rate, np.log1p(since), likes))
        user, item = told
        before[rows] = np.stack([user[0], user[1], item[0], item[1], user[2], item[2]], axis=1)
        past[rows], popular[rows] = user[3], item[3]
        start = stop
    return before, past, popular


class _Known:
    """Running counts of users or of items."""

    def __init__(self, size: int) -> None:
        self.events, self.likes = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.last = np.full(size, -1, np.int64)

    def take_in(self, keys: Array, ts: Array, liked: Array, counted: Array) -> tuple[Array, Array, Array]:
        """Events, likes and seconds since the last event (nan for none) strictly before each row; then count them.

        keys, ts, liked, counted: (m,), in order of time; rows that are not counted see what came before all the same.
        """
        events, likes, last = earlier(keys, ts, liked, counted)
        events, likes = events + self.events[keys], likes + self.likes[keys]
        last = np.where(last >= 0, last, self.last[keys])
        since = np.where(last >= 0, ts - last, np.nan)
        size = len(self.events)
        self.events += np.bincount(keys[counted], minlength=size)
        self.likes += np.bincount(keys[counted & liked], minlength=size)
        np.maximum.at(self.last, keys[counted], ts[counted])
        return events, likes, since


def earlier(keys: Array, ts: Array, liked: Array, counted: Array) -> tuple[Array, Array, Array]:
    """Of each row the counted rows of its key that are strictly earlier: how many, how many liked, the last one's ts.

    keys, ts (not negative), liked, counted: (m,), in any order. The last ts is -1 where there is none.
    """
    order = np.lexsort((ts, keys))
    key, moment, at = keys[order], ts[order], np.arange(len(order))
    new_key = np.append(True, key[1:] != key[:-1])
    new_moment = new_key | np.append(True, moment[1:] != moment[:-1])
    first, now = (np.maximum.accumulate(np.where(new, at, 0)) for new in (new_key, new_moment))
    some = counted[order]
    events, likes = (np.concatenate([[0], np.cumsum(part)]) for part in (some, some & liked[order]))
    newest = np.concatenate([[-1], np.maximum.accumulate(np.where(some, at, -1))])[now]
    last = np.where(newest >= first, moment[newest], -1)
    out = []
    for values in (events[now] - events[first], likes[now] - likes[first], last):
        back = np.empty_like(values)
        back[order] = values
        out.append(back)
    return out[0], out[1], out[2]
