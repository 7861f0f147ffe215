"""What stands below every ranker, and beside it: one answer for all, popularity, and models without a network.

The logistic regression and the boosted trees read the same features as the main arm, as plain columns. They learn from
training rows; validation rows choose how strongly the one is held back and how many trees the other has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from latefuse.config_rank import Ranking
from latefuse.evaluation.calibration import Floats, Ints, Truth
from latefuse.evaluation.rank_metrics import log_losses

Table = NDArray[np.float32]
Fitted = Callable[[Table], Floats]
"""Log-odds (n,) of a table (n, d)."""

MAJORITY, POPULARITY, LOGISTIC, TREES = "majority", "popularity", "logistic", "trees"
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the ridge penalty that are tried, weakest last."""
MOST_TREES = 200
MEANINGS = {
    MAJORITY: "the same for all rows: the share of training rows that is liked",
    POPULARITY: "how often the item was liked before the row",
    LOGISTIC: "logistic regression on the main arm's features, scaled; its penalty chosen on validation rows",
    TREES: "gradient-boosted trees on the main arm's features; how many chosen on validation rows",
}


@dataclass(frozen=True)
class Lesson:
    """What a model without a network learns from: columns (n, d), nan where a number is missing, and labels (n,)."""

    train: Table
    liked: Truth
    valid: Table
    valid_liked: Truth


def names(how: Ranking) -> dict[str, str]:
    """The floors that are measured, with words for each."""
    return {name: MEANINGS[name] for name in (MAJORITY, POPULARITY, *how.controls)}


def majority(liked: Truth, rows: int) -> Floats:
    """(rows,) the log-odds of a like among training rows."""
    likes, total = int(liked.sum()), len(liked)
    return np.full(rows, logit((likes + 1) / (total + 2)))


def popularity(likes: NDArray[np.floating]) -> Floats:
    """(n,) scores, no log-odds: the logarithm lets a calibration follow counts over orders of size."""
    return np.log1p(np.asarray(likes, np.float64))


def logistic(lesson: Lesson) -> Fitted:
    """The regression of the least validation log-loss. Missing numbers are their column's mean, and told."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    scaled = make_pipeline(SimpleImputer(add_indicator=True, keep_empty_features=True), StandardScaler())
    train, valid = scaled.fit_transform(lesson.train), scaled.transform(lesson.valid)
    model = LogisticRegression(warm_start=True, max_iter=300, tol=1e-3)
    tried = []
    for penalty in PENALTIES:
        model.set_params(C=penalty).fit(train, lesson.liked)
        weights, shift = model.coef_[0].copy(), float(model.intercept_[0])
        loss = log_losses(lesson.valid_liked, expit(valid @ weights + shift)).mean()
        tried.append((float(loss), penalty, weights, shift))
    _, _, weights, shift = min(tried, key=lambda one: one[:2])
    return partial(_linear, scaled.transform, weights, shift)


def trees(lesson: Lesson) -> Fitted:
    """Boosted trees, as many as have the least validation log-loss; a missing number goes the way that serves best."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=MOST_TREES, early_stopping=True, n_iter_no_change=10, max_features=0.2, random_state=0
    )
    known = np.flatnonzero(np.isfinite(lesson.train).any(axis=0))  # scikit-learn can't cut a column that is empty
    valid = lesson.valid[:, known]
    model.fit(lesson.train[:, known], lesson.liked, X_val=valid, y_val=lesson.valid_liked)
    losses = [float(log_losses(lesson.valid_liked, one[:, 1]).mean()) for one in model.staged_predict_proba(valid)]
    return partial(_stage, model, int(np.argmin(losses)), known)


def _linear(scale: Callable[[Table], Table], weights: Floats, shift: float, table: Table) -> Floats:
    return np.asarray(scale(table) @ weights + shift, np.float64)


def _stage(model: Any, number: int, known: Ints, table: Table) -> Floats:
    """Log-odds by the first trees. known: (k,) the columns they read."""
    stages = model.staged_decision_function(table[:, known])
    return np.asarray(next(islice(stages, number, None)), np.float64).reshape(-1)
