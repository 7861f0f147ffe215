"""The candidates of a sampled ranking: the item that was chosen among others that its user has never seen."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from latefuse.evaluation.calibration import Ints

COUNT = 100


class Rows(Protocol):
    """Item codes by row, as `Sequences` and a SciPy CSR matrix hold them."""

    @property
    def indptr(self) -> Ints: ...

    @property
    def indices(self) -> Ints: ...


def draw_candidates(seen: Rows, target: ArrayLike, items: int, count: int = COUNT, seed: int = 0) -> Ints:
    """(n, count) int64: in each row its target, at a place drawn by lot, and count - 1 others, no two alike.

    seen: n rows with every item that the user has in any split, the target among them or not. target: (n,) codes below
    `items`. The others are drawn evenly from all items that are neither. Draw them once and store them: every arm is
    asked the same. Raises ValueError for a target out of range, or a row without items enough.
    """
    wanted = np.asarray(target, np.int64)
    n, rng = len(wanted), np.random.default_rng(seed)
    if len(seen.indptr) != n + 1:
        raise ValueError(f"{n} targets but {len(seen.indptr) - 1} rows of seen items")
    if len(bad := np.flatnonzero((wanted < 0) | (wanted >= items))):
        raise ValueError(f"row {bad[0]}: target {wanted[bad[0]]} is no item: there are {items}")
    row = np.concatenate([np.repeat(np.arange(n), np.diff(seen.indptr)), np.arange(n)])
    taken = np.unique(row * items + np.concatenate([seen.indices, wanted]))
    ends = np.searchsorted(taken, np.arange(n + 1) * items)
    free = items - np.diff(ends)
    if len(few := np.flatnonzero(free < count - 1)):
        raise ValueError(
            f"row {few[0]}: {free[few[0]]} of {items} items are left, {count - 1} are wanted; ask for fewer candidates"
        )
    # The x-th free item is x plus how many taken ones stand before it: those with `taken - place <= x`.
    gaps = taken - (np.arange(len(taken)) - np.repeat(ends[:-1], np.diff(ends)))
    drawn = _distinct(free, count - 1, rng)
    keys = (drawn + np.arange(n)[:, None] * items).ravel()
    others = drawn + (np.searchsorted(gaps, keys, "right").reshape(n, -1) - ends[:-1, None])
    return rng.permuted(np.concatenate([wanted[:, None], others], axis=1), axis=1)


def _distinct(below: Ints, count: int, rng: np.random.Generator) -> Ints:
    """(n, count) different whole numbers below a bound of each row, by R. Floyd (Bentley, CACM 30(9), 1987)."""
    found = np.full((len(below), count), -1)
    for k in range(count):
        last = below - count + k
        drawn = rng.integers(0, last, endpoint=True)
        again = (found[:, :k] == drawn[:, None]).any(axis=1)
        found[:, k] = np.where(again, last, drawn)
    return found
