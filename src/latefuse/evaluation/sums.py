"""Metrics as functions of sums over rows, so that redrawn users cost a product of matrices and not the metric anew.

A mean is the quotient of two sums, and so is every share of things counted over rows. BLEU is a function of ten sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latefuse.evaluation.calibration import Floats, Ints
from latefuse.evaluation.redraw import Redraw


@dataclass(frozen=True)
class Sums:
    """A metric of n rows. columns: (n, c). of: (k, c) sums of k draws -> (k,) values, nan where there is none.

    known: (n,) bool, rows that have a say in it.
    """

    columns: Floats
    of: Callable[[Floats], Floats]
    known: NDArray[np.bool_]

    @property
    def value(self) -> float:
        """On all rows."""
        return float(self.of(self.columns.sum(axis=0, keepdims=True))[0])


def redrawn(metrics: Mapping[str, Sums], redraw: Redraw, rows: Ints) -> dict[str, Floats]:
    """Metric -> (1 + draws,) on the rows at `rows` as they are, and on every draw of their users, in one product."""
    if not metrics:
        return {}
    columns = np.concatenate([one.columns[rows] for one in metrics.values()], axis=1)
    ends = np.cumsum([one.columns.shape[1] for one in metrics.values()])
    parts = np.split(redraw.totals(columns, rows), ends[:-1], axis=1)
    return {name: one.of(part) for (name, one), part in zip(metrics.items(), parts, strict=True)}


def mean(values: Floats) -> Sums:
    """values: (n,), nan for a row that has no say."""
    known = ~np.isnan(values)
    return share(np.where(known, values, 0.0), known.astype(np.float64))


def share(part: Floats, whole: Floats) -> Sums:
    """The sum of one column by that of another, both (n,)."""
    return Sums(np.stack([part, whole], axis=1).astype(np.float64), _quotient, whole > 0)


def means(values: Mapping[str, Floats]) -> dict[str, Sums]:
    """Metric -> its rows' mean."""
    return {name: mean(column) for name, column in values.items()}


def stacked(seeds: Sequence[Sums], redraw: Redraw, rows: Ints) -> Floats:
    """(seeds, 1 + draws): what `Redraw.estimate` and `Redraw.difference` read."""
    return np.stack([redrawn({"": one}, redraw, rows)[""] for one in seeds])


def _quotient(sums: Floats) -> Floats:
    return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)
