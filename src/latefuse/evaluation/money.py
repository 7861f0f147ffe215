"""What recommending is worth: a liked recommendation gains, one that is not liked loses, one not made does neither.

Value is told of 1,000 rows *scored*, which a threshold can make the most of, and of 1,000 rows *recommended*, which
says what one recommendation is worth: the highest threshold is the best by that, however little it recommends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from latefuse.evaluation.calibration import Floats, as_probabilities, as_rows
from latefuse.evaluation.thresholds import ABOVE_ALL

PER = 1_000


@dataclass(frozen=True)
class Offer:
    """From which probability on a row is recommended, as validation rows say.

    threshold: the best one of those that occur there; above 1 where recommending nothing is. value, share: of 1,000
    validation rows scored, and the share of them that is recommended. break_even: the threshold that is the best where
    probabilities are right.
    """

    threshold: float
    value: float
    share: float
    break_even: float


def break_even(gain: float, loss: float) -> float:
    """loss / (gain + loss): from this probability on a row is expected to gain more than it loses; above 1 without a
    gain."""
    return loss / (gain + loss) if gain else ABOVE_ALL


def values(labels: ArrayLike, gain: float, loss: float) -> Floats:
    """(n,) what recommending each row is worth. labels: (n,) whether liked."""
    return np.where(np.asarray(labels, bool), gain, -loss)


def value_curve(probabilities: ArrayLike, labels: ArrayLike, gain: float, loss: float) -> tuple[Floats, Floats, Floats]:
    """Thresholds, falling, the share of rows each recommends, and its value of 1,000 rows scored; (k + 1,) each.

    probabilities: (n,) in 0..1. labels: (n,). First comes the threshold that recommends nothing, then all probabilities
    that occur. Raises ValueError without rows and for numbers that are no probabilities.
    """
    found, truth = as_rows(as_probabilities(probabilities), labels)
    distinct, group = np.unique(found, return_inverse=True)
    worth = np.bincount(group, values(truth, gain, loss), minlength=len(distinct))[::-1]
    rows = np.bincount(group, minlength=len(distinct))[::-1]
    total, called = (np.concatenate([[0.0], np.cumsum(column)]) / len(truth) for column in (worth, rows))
    return np.concatenate([[ABOVE_ALL], distinct[::-1]]), called, PER * total


def best(probabilities: ArrayLike, labels: ArrayLike, gain: float, loss: float) -> Offer:
    """The threshold of most value on these rows, the highest of equals. Raises ValueError as `value_curve` does."""
    thresholds, share, value = value_curve(probabilities, labels, gain, loss)
    at = int(np.argmax(value))
    return Offer(float(thresholds[at]), float(value[at]), float(share[at]), break_even(gain, loss))
