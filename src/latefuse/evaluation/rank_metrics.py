"""How well scores rank rows of two labels, on the rows as they are and on many redrawn ones at once.

A draw says how often each row is there. Rows are sorted once; the liked rows and the others at or above every score are
two running sums of a draw, and every metric is read off them without sorting again. Rows of one score are called at
once, never in part: thresholds are scores that occur, and nothing is interpolated between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latefuse.evaluation.calibration import Floats, Ints, Truth, as_rows

Counts = NDArray[np.integer]
TINY = 1e-15
"""Nearest to 0 and to 1 that a probability comes in a log-loss."""


@dataclass(frozen=True)
class Order:
    """Rows from the highest score down.

    rows: (n,) their places. liked: (n,) in this order. ends: (k,) the place in this order of the last row of each
    distinct score. finds: (f,) which of those scores liked rows have.
    """

    rows: Ints
    liked: Truth
    ends: Ints
    finds: Ints


@dataclass(frozen=True)
class Curve:
    """What is called liked from each distinct score on, the highest first; (draws, k) each.

    hits: liked rows. alarms: others. finds: as of the order.
    """

    hits: Counts
    alarms: Counts
    finds: Ints

    @property
    def liked(self) -> Counts:
        """(draws,) rows that are liked."""
        return self.hits[:, -1]

    @property
    def others(self) -> Counts:
        """(draws,) rows that are not."""
        return self.alarms[:, -1]

    @cached_property
    def found(self) -> Floats:
        """(draws, f) liked rows at each of `finds`."""
        return np.diff(self.hits[:, self.finds], axis=1, prepend=0).astype(np.float64)


def ordered(labels: ArrayLike, scores: ArrayLike) -> Order:
    """labels: (n,) whether liked. scores: (n,), in any unit. Raises ValueError without rows, and for a score that is
    not finite."""
    values, truth = as_rows(scores, labels)
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {len(values)} scores are not finite")
    rows = np.argsort(-values, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(values[rows]) != 0, True))
    finds = np.unique(np.searchsorted(ends, np.flatnonzero(truth[rows])))
    return Order(rows, truth[rows], ends, finds)


def curve(order: Order, times: Counts) -> Curve:
    """times: (draws, n) how often each row is there, in the order of `order.rows`."""
    liked = np.cumsum(times * order.liked.astype(times.dtype), axis=1, dtype=times.dtype)
    called = np.cumsum(times, axis=1, dtype=times.dtype)
    if len(order.ends) < len(order.rows):
        liked, called = liked[:, order.ends], called[:, order.ends]
    return Curve(liked, called - liked, order.finds)


def roc_auc(one: Curve) -> Floats:
    """(draws,) how often a liked row has a higher score than another, ties half; nan without rows of both labels."""
    above = one.alarms[:, one.finds] + np.where(one.finds > 0, one.alarms[:, one.finds - 1], 0)
    lost = np.einsum("df,df->d", one.found, above.astype(np.float64)) / 2
    pairs = one.liked.astype(np.float64) * one.others
    return _ratio(pairs - lost, pairs)


def average_precision(one: Curve) -> Floats:
    """(draws,) the mean over liked rows of the precision from their score on (scikit-learn's definition); nan without
    liked rows."""
    hits = one.hits[:, one.finds].astype(np.float64)
    precision = hits / np.maximum(hits + one.alarms[:, one.finds], 1)
    return _ratio(np.einsum("df,df->d", one.found, precision), one.liked)


def alarms_at_recall(one: Curve, recall: float) -> Floats:
    """(draws,) the false-positive rate at the highest threshold that finds this share of liked rows; nan without rows
    of both labels."""
    needed = np.ceil(recall * one.liked - 1e-9)  # 0.9 * 10 is 9, whatever floats make of it
    place = _places(one.hits, needed, "left")
    return _ratio(_at(one.alarms, place), np.where(one.liked > 0, one.others, 0))


def recall_at_alarms(one: Curve, rate: float) -> Floats:
    """(draws,) the share of liked rows found at the lowest threshold whose false-positive rate is at most this, 0 where
    even the highest has more; nan without rows of both labels."""
    allowed = np.floor(rate * one.others + 1e-9)
    place = _places(one.alarms, allowed, "right") - 1
    found = np.where(place >= 0, _at(one.hits, np.maximum(place, 0)), 0)
    return _ratio(found, np.where(one.others > 0, one.liked, 0))


def auc_by_group(labels: ArrayLike, scores: ArrayLike, groups: Ints, count: int) -> Floats:
    """(count,) the area under the ROC curve of each group's own rows, ties half; nan for a group of one label only.

    labels, scores: (n,). groups: (n,) in 0..count-1. It is what midranks within a group say (Mann and Whitney 1947).
    """
    values, truth = as_rows(scores, labels)
    order = np.lexsort((values, groups))
    group, value = groups[order], values[order]
    begins = np.append(True, group[1:] != group[:-1])
    new = begins | np.append(True, value[1:] != value[:-1])
    starts = np.flatnonzero(new)
    tie = np.cumsum(new) - 1
    lengths = np.diff(np.append(starts, len(value)))
    first = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    ranks = starts[tie] - first + (lengths[tie] + 1) / 2
    liked = truth[order]
    likes = np.bincount(group[liked], minlength=count).astype(np.float64)
    others = np.bincount(group[~liked], minlength=count)
    total = np.bincount(group[liked], ranks[liked], minlength=count)
    return _ratio(total - likes * (likes + 1) / 2, likes * others)


def log_losses(labels: ArrayLike, probabilities: ArrayLike) -> Floats:
    """(n,) minus the logarithm of the probability of what came, in nats; at most that of TINY."""
    values, truth = as_rows(probabilities, labels)
    values = np.clip(values, TINY, 1 - TINY)
    return -np.where(truth, np.log(values), np.log1p(-values))


def at_threshold(confusion: Floats) -> dict[str, Floats]:
    """Precision, recall, F1 and the false-positive rate, (draws,) each; nan where one is not defined.

    confusion: (draws, 4) weights of hits, false alarms, misses, correct rejections.
    """
    hits, alarms, misses, rejected = confusion.T
    return {
        "precision": _ratio(hits, hits + alarms),
        "recall": _ratio(hits, hits + misses),
        "f1": _ratio(2 * hits, 2 * hits + alarms + misses),
        "false_positive_rate": _ratio(alarms, alarms + rejected),
    }


def _places(rising: Counts, wanted: Floats, side: str) -> Ints:
    """(draws,) where each wanted number belongs in its row of rising ones (draws, k)."""
    pairs = zip(rising, wanted.astype(rising.dtype), strict=True)
    return np.array([np.searchsorted(row, value, side) for row, value in pairs], dtype=np.int64)  # type: ignore[call-overload]


def _at(values: Counts, place: Ints) -> Counts:
    return np.take_along_axis(values, place[:, None], axis=1)[:, 0]


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """nan where there is nothing to divide by."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)
