"""Intervals of metrics that are no means of rows: they are computed again on redrawn users, the same for all arms.

Rows of one user are not independent, so users are drawn, not rows, and with several seeds the seeds too, as `intervals`
does. The first draw of everything here is the rows as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latefuse.evaluation.calibration import Floats, Ints
from latefuse.evaluation.intervals import Bootstrap, Estimate, percentiles, times
from latefuse.evaluation.rank_metrics import Curve, Order, curve

BLOCK = 2**19
"""Rows times draws that are counted at a time: as many as the caches of a core hold."""
FEWEST = 10
"""Users below which redrawing them says too little for an interval."""
UNDEFINED = 0.05
"""Share of draws on which a metric may be undefined; with more there is no interval."""


class Redraw:
    """Users drawn with replacement, as many as there are. group: (n,) the number of each row's user."""

    def __init__(self, users: ArrayLike, how: Bootstrap) -> None:
        distinct, group = np.unique(np.asarray(users), return_inverse=True)
        self.how, self.group, self.users = how, group.astype(np.int64), len(distinct)
        self.times = _drawn(self.users, how)

    def curves(self, order: Order, rows: Ints, metrics: Mapping[str, Callable[[Curve], Floats]]) -> dict[str, Floats]:
        """Metric -> (1 + draws,). order: of the rows at `rows`, (m,) places among all of them."""
        group = self.group[rows][order.rows]
        found: dict[str, list[Floats]] = {name: [] for name in metrics}
        for times_here in self._blocks(len(group)):
            one = curve(order, np.take(times_here.astype(np.int32), group, axis=1))
            for name, metric in metrics.items():
                found[name].append(metric(one))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def totals(self, columns: ArrayLike, rows: Ints) -> Floats:
        """(1 + draws, c) sums over redrawn rows. columns: (m, c) of the rows at `rows`."""
        values = np.asarray(columns, np.float64)
        by_user = np.stack([np.bincount(self.group[rows], column, minlength=self.users) for column in values.T], axis=1)
        return np.concatenate([times_here @ by_user for times_here in self._blocks(self.users)])

    def means_of_users(self, values: Floats) -> Floats:
        """(1 + draws,) the mean over redrawn users. values: (users,), nan of one that does not count."""
        known = ~np.isnan(values)
        both = np.stack([np.where(known, values, 0.0), known.astype(np.float64)], axis=1)
        total, count = np.concatenate([times_here @ both for times_here in self._blocks(self.users)]).T
        return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)

    def estimate(self, values: Floats, rows: Ints) -> Estimate:
        """The mean over seeds with its interval. values: (seeds, 1 + draws), of the rows at `rows`."""
        return self._estimate(float(values[:, 0].mean()), self._over_seeds(values), rows, len(values))

    def difference(self, a: Floats, b: Floats, rows: Ints) -> Estimate:
        """a - b on the same users and, where there are as many, the same seeds; shapes as for `estimate`."""
        value = float(a[:, 0].mean() - b[:, 0].mean())
        return self._estimate(value, self._over_seeds(a) - self._over_seeds(b), rows, max(len(a), len(b)))

    def _estimate(self, value: float, drawn: Floats, rows: Ints, seeds: int) -> Estimate:
        few = len(rows) < self.how.min_rows or len(np.unique(self.group[rows])) < FEWEST
        if few or np.isnan(value) or np.isnan(drawn).mean() > UNDEFINED:
            return Estimate(value, np.nan, np.nan, len(rows), seeds)
        return Estimate(value, *percentiles(drawn, self.how.confidence), len(rows), seeds)

    def _over_seeds(self, values: Floats) -> Floats:
        """(draws,) the mean over redrawn seeds."""
        seeds = len(values)
        return np.asarray((times(seeds, self.how.draws, self.how.seed + 1) * values[:, 1:].T).sum(axis=1) / seeds)

    def _blocks(self, width: int) -> list[NDArray[np.uint8]]:
        size = max(1, BLOCK // max(width, 1))
        return [self.times[start : start + size] for start in range(0, len(self.times), size)]


def _drawn(users: int, how: Bootstrap) -> NDArray[np.uint8]:
    """(1 + draws, users) how often each user is drawn, the first row once each; no user is drawn 256 times."""
    rng, size = np.random.default_rng((how.seed, users)), max(1, BLOCK // users)
    found = np.ones((1 + how.draws, users), np.uint8)
    for start in range(1, len(found), size):
        part = found[start : start + size]
        part[:] = rng.multinomial(users, np.full(users, 1 / users), size=len(part))
    return found
