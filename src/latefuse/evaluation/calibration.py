"""From the scores of a judge to probabilities, fitted on validation rows; how far off they are, and by chance alone.

A score s is the log-odds, in nats, that an image fits a text; what a model is trained on need not be what it is asked,
so s is stretched and shifted until sigmoid(scale * s + shift) is how often such rows are relevant (Platt 1999; Guo et
al. 2017, arXiv 1706.04599, whose temperature is 1 / scale).
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from latefuse.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Truth = NDArray[np.bool_]

STORED = ConfigDict(extra="forbid", allow_inf_nan=False)
MIN_ROWS = 20
FLAT = 1e-6
CONFIDENCE = 0.95


class ScoresError(UserError, ValueError):
    """Scores from which no calibration can be fitted; the message names them and says why."""


@dataclass(frozen=True, config=STORED)
class Calibration:
    """p = sigmoid(scale * s + shift). A Section that has it as a field checks it on the way from JSON."""

    scale: Annotated[float, Field(gt=0)]
    shift: float

    def probability(self, scores: ArrayLike) -> Floats:
        """The probability that each row is relevant, in the shape of `scores` (log-odds in nats)."""
        from scipy.special import expit

        return np.asarray(expit(self.scale * np.asarray(scores, dtype=np.float64) + self.shift), dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Rows of near probabilities: how many, their mean probability, the share that is relevant, its Wilson interval."""

    count: int
    probability: float
    share: float
    low: float
    high: float


def fit(scores: ArrayLike, labels: ArrayLike, name: str = "validation") -> Calibration:
    """The calibration of maximum likelihood under the smoothed targets of Platt 1999, section 2.2.

    scores: (n,) log-odds. labels: (n,) whether relevant. name: what an error calls these rows. Targets of (n1 + 1) /
    (n1 + 2) and 1 / (n0 + 2) in place of 1 and 0 keep the fit finite where scores separate the labels and, unlike a
    penalty, give the same probabilities in whichever unit the scores come.
    Raises ScoresError for fewer than MIN_ROWS rows (ten for each number fitted), rows of one label only, scores that
    are not finite or all equal, and scores that do not rise with the labels: those are never turned round in silence.
    """
    from sklearn.linear_model import LogisticRegression

    given, truth = as_rows(scores, labels)
    _check_rows(given, truth, name)
    middle, spread = given.mean(), given.std()
    relevant = int(truth.sum())
    target = np.where(truth, (relevant + 1) / (relevant + 2), 1 / (len(truth) - relevant + 2))
    # A target between 0 and 1 is a row that is there twice, once with each label, by weight.
    rows = np.tile((given - middle) / spread, 2)[:, None]
    twice, weight = np.repeat([True, False], len(truth)), np.concatenate([target, 1 - target])
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(rows, twice, weight)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope <= FLAT:
        raise ScoresError(
            f"{name}: scores do not rise with the labels (scale {slope / spread:.4g}): on these rows they are at "
            "chance or the wrong way round; look at a judge's label words and at the labels, or train it"
        )
    return Calibration(scale=float(slope / spread), shift=float(intercept - slope * middle / spread))


def calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error: |mean probability - share relevant| of each bin, weighted by its rows.

    probabilities: (n,) in 0..1. labels: (n,). The bins are those of `equal_mass`. In 0..1, and above 0 for a perfect
    model too: see `perfect_calibration_error`. Raises ValueError for probabilities outside of 0..1 and without rows.
    """
    values, truth = as_rows(as_probabilities(probabilities), labels)
    return _error(equal_mass(values, bins), values, truth)


def perfect_calibration_error(
    probabilities: ArrayLike, bins: int = 10, draws: int = 200, seed: int = 0
) -> tuple[float, float, float]:
    """The calibration error of a perfectly calibrated model that gives these probabilities: mean, 2.5% and 97.5%.

    The label of each row is drawn with its probability, `draws` times, rows independent of each other. An error within
    these bounds is what chance makes of as many rows. Raises ValueError as `calibration_error` does.
    """
    values = as_probabilities(probabilities)
    place = equal_mass(values, bins)
    rng = np.random.default_rng(seed)
    errors = [_error(place, values, rng.random(len(values)) < values) for _ in range(draws)]
    low, high = np.quantile(errors, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.mean(errors)), float(low), float(high)


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[Bin]:
    """The bins of `equal_mass` that have rows, from low to high probabilities. Raises as `calibration_error` does."""
    from scipy.stats import binomtest

    values, truth = as_rows(as_probabilities(probabilities), labels)
    place = equal_mass(values, bins)
    found = []
    for here in (place == number for number in np.unique(place)):
        count, relevant = int(here.sum()), int(truth[here].sum())
        interval = binomtest(relevant, count).proportion_ci(CONFIDENCE, method="wilson")
        mean = float(values[here].mean())
        found.append(Bin(count, mean, relevant / count, float(interval.low), float(interval.high)))
    return found


def equal_mass(probabilities: Floats, bins: int) -> Ints:
    """(n,) the bin of each row, 0..bins-1, rising with its probability; bins of as equal size as ties allow.

    Rows of one probability stay together, in the bin in which the middle of them falls, so the order of the rows does
    not matter; with many ties some bins are empty. Raises ValueError for less than one bin.
    """
    if bins < 1:
        raise ValueError(f"bins={bins}: one at least")
    _, group, size = np.unique(probabilities, return_inverse=True, return_counts=True)
    end = np.cumsum(size)
    return np.asarray(((2 * end - size) * bins // (2 * len(probabilities)))[group], dtype=np.int64)


def as_rows(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, Truth]:
    """Both as arrays, (n,) float64 and (n,) bool. Raises ValueError as `as_truth` does, and for shapes that differ."""
    numbers, truth = np.asarray(values, dtype=np.float64), as_truth(labels)
    if numbers.ndim != 1 or numbers.shape != truth.shape:
        raise ValueError(f"values of shape {numbers.shape} do not fit labels of shape {truth.shape}")
    return numbers, truth


def as_truth(labels: ArrayLike) -> Truth:
    """(n,) bool, whether relevant. Raises ValueError without rows, and for labels that are not 0 or 1."""
    found = np.asarray(labels)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"labels of shape {found.shape}: one row or more expected")
    if found.dtype != np.bool_ and not np.isin(found, (0, 1)).all():
        raise ValueError("a label is True (relevant) or False")
    return found.astype(np.bool_)


def as_probabilities(values: ArrayLike) -> Floats:
    """(n,) float64. Raises ValueError without rows, and for values that are no probabilities."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"probabilities of shape {found.shape}: one row or more expected")
    outside = ~((found >= 0) & (found <= 1))
    if outside.any():
        raise ValueError(f"{outside.sum()} of {len(found)} are no probabilities: scores need a calibration first")
    return found


def _error(place: Ints, values: Floats, truth: Truth) -> float:
    return float(np.abs(np.bincount(place, values - truth)).sum() / len(truth))


def _check_rows(scores: Floats, truth: Truth, name: str) -> None:
    if len(scores) < MIN_ROWS:
        raise ScoresError(f"{name}: {len(scores)} rows are too few to calibrate on, {MIN_ROWS} are needed")
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ScoresError(
            f"{name}: {bad.sum()} of {len(scores)} scores are not finite, the first at row {bad.argmax()}"
        )
    if truth.all() or not truth.any():
        only = "relevant" if truth[0] else "not relevant"
        raise ScoresError(f"{name}: all {len(truth)} rows are {only}; a calibration needs rows of both labels")
    if np.ptp(scores) == 0:
        raise ScoresError(f"{name}: all {len(scores)} scores are {scores[0]:.4g}; they say nothing about the rows")
