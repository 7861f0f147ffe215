"""What a judge is worth, row by row: values whose plain mean is the metric, so that intervals can redraw rows.

A metric balanced over labels is the mean of two means, so that each row's value is the metric plus its weighted
distance from its own label's mean: redrawn rows then vary as the metric does, whatever labels are drawn. The area under
the ROC curve is balanced over *placements*: for a relevant row the share of the others below it, for any other row the
share of relevant ones above (DeLong et al. 1988).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latefuse.config_judge import ABSTAIN, RELEVANT

Floats = NDArray[np.float64]
METRICS = ("balanced_accuracy", "roc_auc", "accuracy", "abstained")
MACRO = "balanced_accuracy/mean of tasks"
PAIRS = ("same_pair", "same_pair_both")


def row_values(
    labels: Sequence[bool],
    scores: Sequence[float],
    said: Sequence[str],
    negatives: Sequence[str],
    tasks: Sequence[str],
    pairs: Sequence[str],
) -> dict[str, Floats]:
    """Metric -> (n,) values, nan where a row has no say in it; their mean is the metric.

    labels: whether a row is relevant. scores: higher is likelier relevant, comparable over all rows. said: verdicts,
    of which an abstention is neither right nor wrong. negatives: the kind of each negative, "" for none; what stands
    before a ":" is a kind as well. tasks: of each row. pairs: see `same_pairs`.
    METRICS; `balanced_accuracy/<kind>` for each kind, its negatives beside all relevant rows; with several tasks
    `balanced_accuracy/<task>` and MACRO; with pairs PAIRS. Where there are rows of one label only, the balanced metrics
    are nan. Raises ValueError for columns of different lengths.
    """
    truth, values = np.asarray(labels, bool), np.asarray(scores, np.float64)
    words, kinds, places = np.asarray(said, str), np.asarray(negatives, str), np.asarray(tasks, str)
    if not len(truth) == len(values) == len(words) == len(kinds) == len(places) == len(pairs):
        raise ValueError(f"{len(truth)} labels, {len(values)} scores, {len(words)} verdicts, {len(kinds)} kinds")
    decided = words != ABSTAIN
    right = np.where(decided, (words == RELEVANT) == truth, np.nan)
    found = {
        "balanced_accuracy": balanced(right, truth),
        "roc_auc": balanced(placements(truth, values), truth),
        "accuracy": right,
        "abstained": (~decided).astype(np.float64),
    }
    groups = {kind: truth | (kinds == kind) for kind in dict.fromkeys(kinds[~truth].tolist()) if kind}
    for kind in dict.fromkeys(kind.partition(":")[0] for kind in groups if ":" in kind):
        groups[kind] = truth | np.char.startswith(kinds, f"{kind}:")
    several = {task: places == task for task in dict.fromkeys(places.tolist())}
    for name, mine in {**groups, **(several if len(several) > 1 else {})}.items():
        found[f"balanced_accuracy/{name}"] = balanced(np.where(mine, right, np.nan), truth)
    if len(several) > 1:
        found[MACRO] = macro([found[f"balanced_accuracy/{task}"] for task in several])
    return found | _of_pairs(right == 1, pairs)


def same_pairs(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each row the name of its picture with its text, "" where they are not asked about with both answers.

    Rows of one picture and one text differ in what they are judged by alone, and no similarity tells them apart.
    """
    keys = [(row["image"] or "", " ".join((row["text"] or "").split())) for row in rows]
    labels: dict[tuple[str, str], set[bool]] = {}
    for key, row in zip(keys, rows, strict=True):
        labels.setdefault(key, set()).add(row["label"])
    return ["\n".join(key) if len(labels[key]) == 2 else "" for key in keys]


def _of_pairs(right: NDArray[np.bool_], pairs: Sequence[str]) -> dict[str, Floats]:
    """Whether each row of a pair is right, and at the first one of each whether all are."""
    members: dict[str, list[int]] = {}
    for place, name in enumerate(pairs):
        if name:
            members.setdefault(name, []).append(place)
    if not members:
        return {}
    one, both = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)
    for places in members.values():
        one[places] = right[places]
        both[places[0]] = right[places].all()
    return dict(zip(PAIRS, (one, both), strict=True))


def macro(columns: Sequence[Floats]) -> Floats:
    """(n,) whose mean is the mean of the means of columns that each measure rows of their own; nan elsewhere."""
    measured = [column for column in columns if not np.isnan(column).all()]
    out = np.full(len(columns[0]), np.nan)
    total = sum(int((~np.isnan(column)).sum()) for column in measured)
    mean = float(np.mean([np.nanmean(column) for column in measured])) if measured else np.nan
    for column in measured:
        mine = ~np.isnan(column)
        out[mine] = mean + total / (len(measured) * mine.sum()) * (column[mine] - column[mine].mean())
    return out


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
