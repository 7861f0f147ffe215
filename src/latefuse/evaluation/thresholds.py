"""Which probability makes a row relevant, which rows go to people instead, and what that is worth.

Threshold and band are chosen on validation rows by a policy that is data, and only applied to test rows.
"""

from __future__ import annotations

from math import nan, nextafter

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic.dataclasses import dataclass

from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT, Abstain, Policy
from latefuse.errors import UserError
from latefuse.evaluation.calibration import STORED, Floats, Ints, Truth, as_probabilities, as_rows, as_truth

ABOVE_ALL = nextafter(1.0, 2.0)
PARTS = 1_000_000


class ThresholdError(UserError, ValueError):
    """A policy that validation rows can't meet; the message says the best that they reach."""


@dataclass(frozen=True, config=STORED)
class Threshold:
    """A row is relevant where p >= value; what that reached on the rows it was chosen on."""

    value: float
    precision: float
    recall: float
    f1: float
    false_positive_rate: float


@dataclass(frozen=True, config=STORED)
class Band:
    """Rows with low <= p < high go to people. On validation: the share of them, and the accuracy of the others."""

    low: float
    high: float
    share: float
    accuracy: float


def choose(policy: Policy, probabilities: ArrayLike, labels: ArrayLike, name: str = "validation") -> Threshold:
    """The threshold that serves the policy best on validation rows; of equals the highest, which calls fewest relevant.

    probabilities: (n,) in 0..1. labels: (n,) whether relevant. name: what an error calls these rows. Tried are all
    probabilities that occur, as long as one relevant row reaches them: what finds nothing is no threshold.
    Raises ThresholdError for rows of one label only, and for a policy that none of them meets: a threshold that breaks
    its promise is not given. Raises ValueError for probabilities outside of 0..1 and without rows.
    """
    values, truth = as_rows(as_probabilities(probabilities), labels)
    if _one_label(truth):
        only = RELEVANT if truth[0] else NOT_RELEVANT
        raise ThresholdError(f"{name}: all {len(truth)} rows are {only}; a threshold needs rows of both labels")
    tried = _reached(values, truth)
    if policy.value is None:
        best = int(np.argmax(tried["f1"]))
    else:
        kept = tried[policy.kind.replace("-", "_")]
        met = kept >= policy.value if policy.kind == "precision" else kept <= policy.value
        if not met.any():
            raise ThresholdError(_out_of_reach(policy, tried, name))
        best = int(np.argmax(np.where(met, tried["recall"], -1)))
    return Threshold(**{key: float(column[best]) for key, column in tried.items()})


def choose_band(
    policy: Abstain, probabilities: ArrayLike, labels: ArrayLike, threshold: float, name: str = "validation"
) -> Band:
    """The band around the threshold that leaves the fewest validation rows to people, with the others right enough.

    probabilities, labels: (n,), as for `choose`. The reject option of Chow 1970, low <= threshold <= high, with ends
    that move on their own, since mistakes are mostly on one side of a threshold that keeps a promise. All bands are
    compared, in n log n; of those that leave equally few the most accurate. A side that is left to people whole is so
    for any row: low is 0, or high above 1.
    Raises ThresholdError where no part of the rows is right enough. Raises ValueError as `choose` does.
    """
    probability, truth = as_rows(as_probabilities(probabilities), labels)
    values, relevant, rows = _steps(probability, truth)
    right = np.where(values >= threshold, relevant, rows - relevant)
    cut = int(np.searchsorted(values, threshold))
    below = _sums(rows[:cut], right[:cut])
    above = _sums(rows[cut:][::-1], right[cut:][::-1])
    left, top = _most_kept(below, above, policy.accuracy)
    kept, correct = (below[:, left] + above[:, top]).tolist()
    if not kept:
        rows, right = np.concatenate([below[:, 1:], above[:, 1:]], axis=1)
        best = int(np.argmax(right / rows))
        raise ThresholdError(
            f"{name}: accuracy {policy.accuracy} is out of reach, whatever is left to people; the best is "
            f"{right[best] / rows[best]:.4g}, on {rows[best]} of {len(truth)} rows: ask for less"
        )
    low = threshold if left == cut else float(values[left]) if left else 0.0
    high = threshold if top == len(values) - cut else float(values[len(values) - top]) if top else ABOVE_ALL
    return Band(low=low, high=high, share=1 - kept / len(truth), accuracy=correct / kept)


def verdicts(probabilities: ArrayLike, threshold: float, band: Band | None = None) -> NDArray[np.str_]:
    """(n,) RELEVANT, NOT_RELEVANT or, inside the band, ABSTAIN. Raises ValueError as `choose` does."""
    values = as_probabilities(probabilities)
    if band is not None and not band.low <= threshold <= band.high:
        raise ValueError(f"the band {band.low:.4g} to {band.high:.4g} is not around the threshold {threshold:.4g}")
    said = np.where(values >= threshold, RELEVANT, NOT_RELEVANT)
    return said if band is None else np.where((values >= band.low) & (values < band.high), ABSTAIN, said)


def scores_of(labels: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """What hard verdicts are worth; nan where a number is not defined on these rows (recall without relevant ones).

    labels, predicted: (n,) whether relevant, and whether said to be. mcc: Matthews' correlation, 0 where all verdicts
    are one. Raises ValueError without rows.
    """
    from sklearn import metrics

    said, truth = as_truth(predicted), as_truth(labels)
    recall = float(metrics.recall_score(truth, said, zero_division=nan))
    false_positive_rate = float(metrics.recall_score(~truth, said, zero_division=nan))
    return {
        "accuracy": float(metrics.accuracy_score(truth, said)),
        "balanced_accuracy": (recall + 1 - false_positive_rate) / 2,
        "precision": float(metrics.precision_score(truth, said, zero_division=nan)),
        "recall": recall,
        "f1": float(metrics.f1_score(truth, said, zero_division=nan)),
        "mcc": nan if _one_label(truth) else float(metrics.matthews_corrcoef(truth, said)),
        "false_positive_rate": false_positive_rate,
    }


def ranking_scores(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """ROC-AUC and average precision, nan on rows of one label. labels, scores: (n,), scores in any unit, all finite.

    Raises ValueError without rows and for scores that are not finite.
    """
    from sklearn import metrics

    values, truth = as_rows(scores, labels)
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {len(values)} scores are not finite")
    if _one_label(truth):
        return {"roc_auc": nan, "average_precision": nan}
    return {
        "roc_auc": float(metrics.roc_auc_score(truth, values)),
        "average_precision": float(metrics.average_precision_score(truth, values)),
    }


def _one_label(truth: Truth) -> bool:
    return bool(truth.all() or not truth.any())


def _steps(values: Floats, truth: Truth) -> tuple[Floats, Ints, Ints]:
    """The distinct probabilities, rising, and for each how many rows of it are relevant and how many there are."""
    distinct, group, rows = np.unique(values, return_inverse=True, return_counts=True)
    return distinct, np.bincount(group[truth], minlength=len(distinct)), rows


def _reached(values: Floats, truth: Truth) -> dict[str, Floats]:
    """The fields of a Threshold as columns: one entry for each threshold that finds something, falling."""
    distinct, relevant, rows = (column[::-1] for column in _steps(values, truth))
    hits, called = np.cumsum(relevant), np.cumsum(rows)
    found = {
        "value": distinct,
        "precision": hits / called,
        "recall": hits / hits[-1],
        "f1": 2 * hits / (called + hits[-1]),
        "false_positive_rate": (called - hits) / (called[-1] - hits[-1]),
    }
    return {key: column[hits > 0] for key, column in found.items()}


def _out_of_reach(policy: Policy, tried: dict[str, Floats], name: str) -> str:
    kind = policy.kind
    best = int(np.argmax(tried["precision"]) if kind == "precision" else np.argmin(tried["false_positive_rate"]))
    asked = f"{kind} of at least" if kind == "precision" else f"{kind} of at most"
    reached = tried[kind.replace("-", "_")][best]
    return (
        f"{name}: no threshold that finds a relevant row has a {asked} {policy.value}; the best is {reached:.4g}, "
        f"where p >= {tried['value'][best]:.4g}, with recall {tried['recall'][best]:.4g}: ask for less, or for best-f1"
    )


def _sums(rows: Ints, right: Ints) -> Ints:
    """(2, k + 1) how many rows, and right ones, the first 0, 1, ... k steps have."""
    return np.pad(np.cumsum([rows, right], axis=1), ((0, 0), (1, 0)))


def _most_kept(below: Ints, above: Ints, accuracy: float) -> tuple[int, int]:
    """How many steps to keep from the lowest probability up, and from the highest down.

    below, above: as `_sums` gives. Right verdicts beyond those asked for are counted in whole millionths, exactly, so
    what is lacking below may be made up for above: for each end below, the furthest end above that does is a running
    maximum over the ends above in the order of what they have to spare.
    """
    asked = round(accuracy * PARTS)
    spare_below, spare_above = (PARTS * right - asked * rows for rows, right in (below, above))
    order = np.argsort(-spare_above, kind="stable")
    enough = np.searchsorted(-spare_above[order], spare_below, side="right")
    top = np.maximum.accumulate(order)[np.maximum(enough - 1, 0)]
    rows, right = below + above[:, top]
    left = int(np.lexsort((right, np.where(enough > 0, rows, -1)))[-1])
    return left, int(top[left])
