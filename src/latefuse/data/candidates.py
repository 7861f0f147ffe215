"""Candidates: the right item among others that the user never had, drawn once by a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from latefuse.data.errors import DataError
from latefuse.data.histories import TEST, VALID, Array, Histories, Targets
from latefuse.data.schema import SPLITS

CHUNK = 16_384


def negatives(found: Histories, user: Array, item: Array, split: str, count: int, seed: Any) -> Array:
    """(m, count) int32 items that the users never had, each once in its row; uniform, and the same for the same seed.

    user, item: (m,) the rows and their positives. For a training row "never" means not in training: were the test item
    left out as well, what never comes as a negative would tell it. For valid and test it means not anywhere. Raises
    DataError where a user leaves too few items.
    """
    below = VALID if split == "train" else TEST + 1
    total = len(found.items)
    keys, of = found.keys
    had = np.bincount(keys[of < below] // total, minlength=len(found.users))
    short = np.flatnonzero(total - had[user] - ~found.seen(user, item, below) < count)
    if len(short):
        one = found.users[user[short[0]]]
        raise DataError(
            f"{count} negatives for user {one!r}, who had {had[user[short[0]]]} of {total} items: ask for fewer"
        )
    rng = np.random.default_rng(seed)
    parts = [slice(start, start + CHUNK) for start in range(0, len(user), CHUNK)]
    drawn = [_drawn(found, user[part], item[part], below, count, rng) for part in parts]
    return np.concatenate([np.zeros((0, count), np.int32), *drawn])


def _drawn(found: Histories, user: Array, item: Array, below: int, count: int, rng: np.random.Generator) -> Array:
    """(m, count) for some rows: more than enough are drawn at once, again for rows in which too few of them fit."""
    total, width = len(found.items), count + count // 4 + 8
    out = np.full((len(user), count), -1, np.int32)
    todo = np.arange(len(user))
    for _ in range(8):
        if not len(todo):
            break
        drawn = rng.integers(0, total, (len(todo), width), dtype=np.int32)
        good = ~found.seen(user[todo, None], drawn, below) & (drawn != item[todo, None]) & _first_of_its_row(drawn)
        enough = good.sum(1) >= count
        chosen = np.argsort(~good, axis=1, kind="stable")[:, :count]
        out[todo[enough]] = np.take_along_axis(drawn, chosen, 1)[enough]
        todo = todo[~enough]
    for row in todo:  # users who had most of the catalogue: few, and each looks through all of it
        free = np.flatnonzero(~found.seen(np.full(total, user[row]), np.arange(total), below))
        out[row] = rng.choice(free[free != item[row]], count, replace=False)
    return out


def candidates(found: Histories, asked: Targets, split: str, count: int = 100, seed: int = 0) -> Array:
    """(m, count) int32 of each row: the item and count - 1 that its user never had, shuffled; fixed by the seed."""
    drawn = negatives(found, asked.user, asked.item, split, count - 1, [seed, SPLITS.index(split)])
    return shuffled(asked.item, drawn, [seed, SPLITS.index(split), 1])


def shuffled(item: Array, others: Array, seed: Any) -> Array:
    """(m, count + 1): each item among the others of its row, at a uniform place."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([item[:, None].astype(np.int32), others], axis=1)
    return np.asarray(rng.permuted(rows, axis=1))


def _first_of_its_row(drawn: Array) -> Array:
    """Bool of the same shape: whether a value stands at its first place in the row."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    first = np.ones(drawn.shape, bool)
    np.put_along_axis(first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], 1)
    return first
