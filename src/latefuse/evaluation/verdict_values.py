"""What a judge is worth, row by row: values whose plain mean is the metric, so that intervals can redraw rows.

Accuracy balanced over labels is the mean of weighted hits. The area under the ROC curve is the mean of *placements*:
for a relevant row the share of the others below it, for any other row the share of relevant ones above (DeLong et al.
1988).
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
    """(n,) weighted so that their mean is the mean of both labels' means; nan without measured rows of both."""
    measured = ~np.isnan(values)
    counts = {label: int((measured & (truth == label)).sum()) for label in (True, False)}
    if not all(counts.values()):
        return np.full(len(values), np.nan)
    weight = np.where(truth, sum(counts.values()) / (2 * counts[True]), sum(counts.values()) / (2 * counts[False]))
    return values * weight


def placements(truth: NDArray[np.bool_], scores: Floats) -> Floats:
    """(n,) the share of rows of the other label on the right side of each one, ties half; nan where there are none."""
    found = np.full(len(scores), np.nan)
    for label in (True, False):
        mine, others = scores[truth == label], np.sort(scores[truth != label])
        if len(others):
            below = (np.searchsorted(others, mine, "left") + np.searchsorted(others, mine, "right")) / 2 / len(others)
            found[truth == label] = below if label else 1 - below
    return found
