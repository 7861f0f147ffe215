"""Histories and targets of a leave-one-out split, by columns.

A row never shows its own target nor anything later: of a test row the history holds what trains and what is valid, of a
valid row what trains, of a training row what came before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from latefuse.data import splits
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.schema import SPLITS

Array = NDArray[Any]
TRAIN, VALID, TEST = splits.TRAIN, splits.VALID, splits.TEST


@dataclass(frozen=True)
class Histories:
    """The events of a dataset, by user and in order of time. n events, u users, i items.

    users: ids in the order in which they first stand there; items: ids in table order. start: (u + 1,) where each user
    begins. user, item: (n,) codes. ts: (n,). split: (n,) codes of `schema.SPLITS` by leave-one-out, which rise within a
    user.
    """

    users: list[str]
    items: list[str]
    start: Array
    user: Array
    item: Array
    ts: Array
    split: Array

    @cached_property
    def held_from(self) -> Array:
        """(3, u) where the events of a user that are at least of each split begin."""
        lengths = [np.bincount(self.user[self.split < code], minlength=len(self.users)) for code in range(3)]
        return np.asarray(self.start[:-1] + np.stack(lengths))

    @cached_property
    def keys(self) -> tuple[Array, Array]:
        """Every distinct (user, item) as user * i + item, sorted; and the least held-out split that it stands in."""
        order = np.lexsort((self.split, self.item, self.user))
        keys = self.user[order].astype(np.int64) * len(self.items) + self.item[order]
        first = np.append(True, keys[1:] != keys[:-1]) if len(keys) else np.zeros(0, bool)
        return keys[first], self.split[order][first]

    def seen(self, user: Array, item: Array, below: int) -> Array:
        """Bool, of the shape of both: whether the user had the item in a split before the one of code `below`."""
        keys, split = self.keys
        asked = np.asarray(user, np.int64) * len(self.items) + item
        at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        return np.asarray((keys[at] == asked) & (split[at] < below))


def histories(dataset: Dataset) -> Histories:
    """Read the events; rows of one second keep the order in which the split was drawn.

    Raises DataError for events without a split and for a user with a row after one that is more held out.
    """
    items = {name: code for code, name in enumerate(dataset.table("items", columns=["id"])["id"].to_pylist())}
    users: dict[str, int] = {}
    parts: list[tuple[Array, ...]] = []
    for batch in dataset.arrow("events", ["user", "item", "ts", "split_loo"]):
        split = pc.fill_null(pc.index_in(batch["split_loo"], pa.array(SPLITS)), -1)
        parts.append((
            codes(batch["user"], users), codes(batch["item"], items, "items"), np.asarray(batch["ts"]),
            np.asarray(split, np.int8),
        ))  # fmt: skip
    if not parts or not len(parts[0][0]):
        raise DataError(f"{dataset.path}: the table events has no row; a history is made of events")
    user, item, ts, split = (np.concatenate(part) for part in zip(*parts, strict=True))
    if (split < 0).any():
        raise DataError(f"{dataset.path}: {int((split < 0).sum()):,} events have no split_loo; run prepare again")
    order = np.lexsort((split, ts, user))
    user, item, ts, split = user[order], item[order], ts[order], split[order]
    torn = np.flatnonzero((user[1:] == user[:-1]) & (split[1:] < split[:-1]))
    if len(torn):
        raise DataError(
            f"{dataset.path}: user {list(users)[user[torn[0]]]!r} has a row of split_loo={SPLITS[split[torn[0] + 1]]} "
            f"after one that is {SPLITS[split[torn[0]]]}; leave split_loo out of the source, and it is drawn"
        )
    start = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(users)))])
    return Histories(list(users), list(items), start, user, item.astype(np.int32), ts, split)


@dataclass(frozen=True)
class Targets:
    """Items that are asked for. m rows.

    place: (m,) of the target among the events. user, item: (m,). begin, end: (m,) its history is item[begin:end] of the
    events. again: (m,) whether that history has the item already, so that nobody who names new items only can hit it.
    """

    place: Array
    user: Array
    item: Array
    begin: Array
    end: Array
    again: Array

    def __len__(self) -> int:
        return len(self.place)


def targets(found: Histories, split: str, least: int = 1) -> Targets:
    """Every event of a split with its history, by user and in order of time; those with a shorter one are left out.

    split: train, valid or test. least: items that a history must have.
    """
    code = SPLITS.index(split)
    place = np.flatnonzero(found.split == code)
    return _targets(found, place, code, least)


def sampled(found: Histories, per_user: int, seed: int, epoch: int, least: int = 1) -> Targets:
    """`per_user` training events of each user that has one with a history of `least` items, drawn anew each epoch.

    With replacement, so that every user counts alike, however long the history is. least: 0 also draws first events.
    """
    trained = found.held_from[VALID] - found.start[:-1]
    users = np.flatnonzero(trained > least)
    rng = np.random.default_rng([seed, epoch, least])
    user = np.repeat(users, per_user)
    offset = least + (rng.random(len(user)) * (trained[user] - least)).astype(np.int64)
    return _targets(found, found.start[user] + offset, TRAIN, least)


def _targets(found: Histories, place: Array, code: int, least: int) -> Targets:
    begin = found.start[found.user[place]]
    end = np.minimum(place, found.held_from[code][found.user[place]]) if code else place
    place, begin, end = (part[end - begin >= least] for part in (place, begin, end))
    user, item = found.user[place], found.item[place]
    again = found.seen(user, item, code) if code else _had(found, place)
    return Targets(place, user, item, begin, end, again)


def _had(found: Histories, place: Array) -> Array:
    """(m,) whether the user had the item of a training event at an earlier place."""
    keys = found.user.astype(np.int64) * len(found.items) + found.item
    order = np.argsort(keys, kind="stable")
    repeats = np.zeros(len(keys), bool)
    repeats[order[1:]] = keys[order][1:] == keys[order][:-1]
    return repeats[place]


def codes(values: Any, known: dict[str, int], table: str = "") -> Array:
    """(n,) the code of each value; each distinct one is looked up once. values: an Arrow array of texts.

    table: where it must stand, else it is added to `known`. Raises DataError for one that does not stand there.
    """
    encoded = (values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    words = encoded.dictionary.to_pylist()
    if table and (strange := next((word for word in words if word not in known), None)) is not None:
        raise DataError(f"{strange!r} is not in the table {table}; run prepare again")
    codes = [known.setdefault(word, len(known)) for word in words]
    return np.asarray(codes, np.int64)[np.asarray(encoded.indices)] if words else np.zeros(0, np.int64)
