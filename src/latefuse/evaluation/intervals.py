"""How sure a mean and a difference are: percentile bootstrap, paired, over items and seeds.

Rows of one item are not independent (three questions about one dish), so items are drawn, not rows; with several
seeds the seeds are drawn too. Both arms of a difference see the same draws (Efron and Tibshirani 1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means with its interval; `low` and `high` are nan where too few rows allow none."""

    value: float
    low: float
    high: float
    rows: int
    seeds: int = 1

    @property
    def has_interval(self) -> bool:
        """Whether there were rows enough for an interval."""
        return not isnan(self.low)

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.has_interval and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    draws: int = 2_000
    confidence: float = 0.95
    min_rows: int = 50
    seed: int = 0


def mean_interval(values: Floats, groups: Sequence[str], how: Bootstrap) -> Estimate:
    """The mean of `values` and its interval.

    values: (seeds, rows), nan where a row can't be measured. groups: (rows,) the item of each row.
    """
    totals, counts, rows = _by_group(values, groups)
    value = _ratio(totals.sum(), counts.sum())
    if rows < how.min_rows or isnan(value):
        return Estimate(value, nan, nan, rows, len(values))
    low, high = percentiles(_draw(totals, counts, how), how.confidence)
    return Estimate(value, low, high, rows, len(values))


def paired_bootstrap(a: Floats, b: Floats, groups: Sequence[str], how: Bootstrap) -> Estimate:
    """The difference of the means, a - b, with its interval; rows and seeds are paired.

    a, b: (seeds, rows) of the same rows in the same order; an arm without seeds (zero-shot) is given once and repeated.
    A row that one arm can't be measured on leaves only that arm's mean.
    """
    a, b = _same_seeds(a, b)
    totals_a, counts_a, rows_a = _by_group(a, groups)
    totals_b, counts_b, rows_b = _by_group(b, groups)
    rows = min(rows_a, rows_b)
    value = _ratio(totals_a.sum(), counts_a.sum()) - _ratio(totals_b.sum(), counts_b.sum())
    if rows < how.min_rows or isnan(value):
        return Estimate(value, nan, nan, rows, len(a))
    low, high = percentiles(_draw(totals_a, counts_a, how) - _draw(totals_b, counts_b, how), how.confidence)
    return Estimate(value, low, high, rows, len(a))


def _same_seeds(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"paired arms need the same rows: {a.shape[1]} against {b.shape[1]}")
    if len(a) == len(b):
        return a, b
    if 1 not in (len(a), len(b)):
        raise ValueError(f"paired arms need the same seeds: {len(a)} against {len(b)}")
    seeds = max(len(a), len(b))
    return np.broadcast_to(a, (seeds, a.shape[1])), np.broadcast_to(b, (seeds, b.shape[1]))


def _by_group(values: Floats, groups: Sequence[str]) -> tuple[Floats, Floats, int]:
    """Sums and counts of the measured values, (seeds, items), and the number of rows with any value."""
    if values.ndim != 2 or values.shape[1] != len(groups):
        raise ValueError(f"values of shape {values.shape} do not fit {len(groups)} rows; expected (seeds, rows)")
    index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    measured = ~np.isnan(values)
    member = np.zeros((values.shape[1], int(index.max()) + 1 if len(index) else 0))
    member[np.arange(len(index)), index] = 1.0
    return np.where(measured, values, 0.0) @ member, measured @ member, int(measured.any(axis=0).sum())


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else nan


def _draw(totals: Floats, counts: Floats, how: Bootstrap) -> Floats:
    """(draws,) means over redrawn items and seeds."""
    seeds, items = totals.shape
    item_times, seed_times = times(items, how.draws, how.seed), times(seeds, how.draws, how.seed + 1)
    total = np.einsum("ds,ds->d", seed_times, item_times @ totals.T)
    count = np.einsum("ds,ds->d", seed_times, item_times @ counts.T)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, total / count, nan))


@lru_cache(maxsize=32)
def times(n: int, draws: int, seed: int) -> Floats:
    """(draws, n) how often each of n things is drawn, n times with replacement; one table for all arms pairs them."""
    return np.random.default_rng((seed, n)).multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


def percentiles(means: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(means, [tail, 1 - tail])
    return float(low), float(high)
