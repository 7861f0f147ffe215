"""What a judge is worth, row by row: values whose plain mean is the metric, so that intervals can redraw rows.

A metric balanced over labels is the mean of two means, so that each row's value is the metric plus its weighted
distance from its own label's mean: redrawn rows then vary as the metric does, whatever labels are drawn. The area under
the ROC curve is balanced over *placements*: for a relevant row the share of the others below it, for any other row the
share of relevant ones above (DeLong et al. 1988).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latefuse.config_judge import ABSTAIN, RELEVANT

Floats = NDArray[np.float64]
METRICS = ("balanced_accuracy", "roc_auc", "accuracy", "abstained")


def row_values(
    labels: Sequence[bool], scores: Sequence[float], said: Sequence[str], negatives: Sequence[str]
) -> dict[str, Floats]:
    """Metric -> (n,) values, nan where a row has no say in it; their mean is the metric.

    labels: whether a row is relevant. scores: higher is likelier relevant, comparable over all rows. said: verdicts,
    of which an abstention is neither right nor wrong. negatives: the kind of each negative, "" for none. METRICS, and
    `balanced_accuracy/<kind>` for each kind: its negatives beside all relevant rows. Where there are rows of one label
    only, the balanced metrics are nan. Raises ValueError for columns of different lengths.
    """
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    words, kinds = np.asarray(said, str), np.asarray(negatives, str)
    if not len(truth) == len(values) == len(words) == len(kinds):
        raise ValueError(f"{len(truth)} labels, {len(values)} scores, {len(words)} verdicts, {len(kinds)} kinds")
    decided = words != ABSTAIN
    right = np.where(decided, (words == RELEVANT) == truth, np.nan)
    found = {
        "balanced_accuracy": balanced(right, truth),
        "roc_auc": balanced(placements(truth, values), truth),
        "accuracy": right,
        "abstained": (~decided).astype(np.float64),
    }
    for kind in dict.fromkeys(kinds[~truth].tolist()):
        if kind:
            asked = np.where(truth | (kinds == kind), right, np.nan)
            found[f"balanced_accuracy/{kind}"] = balanced(asked, truth)
    return found


def balanced(values: Floats, truth: NDArray[np.bool_]) -> Floats:
    """(n,) whose mean is the mean of both labels' means; nan where not measured, and without rows of both labels."""
    measured = ~np.isnan(values)
    mine = {label: values[measured & (truth == label)] for label in (True, False)}
    if not all(map(len, mine.values())):
        return np.full(len(values), np.nan)
    means = {label: float(some.mean()) for label, some in mine.items()}
    weights = {label: int(measured.sum()) / (2 * len(some)) for label, some in mine.items()}
    away = np.where(truth, weights[True] * (values - means[True]), weights[False] * (values - means[False]))
    return (means[True] + means[False]) / 2 + away


def placements(truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """(n,) the share of rows of the other label on the right side of each one, ties half; nan where there are none."""
    found = np.full(len(scores), np.nan)
    for label in (True, False):
        mine, others = scores[truth == label], np.sort(scores[truth != label])
        if len(others):
            below = (np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")) / 2 / len(others)
            found[truth == label] = below if label else 1 - below
    return found
