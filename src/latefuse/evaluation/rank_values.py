"""Every number of a ranker under one seed, on the test rows and on redrawn ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from latefuse.config_rank import Ranking
from latefuse.evaluation import rank_metrics
from latefuse.evaluation.calibration import Floats, Ints, Truth, equal_mass
from latefuse.evaluation.money import PER, values
from latefuse.evaluation.rank_metrics import Curve
from latefuse.evaluation.redraw import Redraw

BINS = 10
VALUES = ("value_per_1000", "value_per_1000_recommended", "value_per_1000_break_even")


@dataclass(frozen=True)
class Answers:
    """What an arm under one seed says of n rows.

    scores: (n,) in any unit. probability: (n,) calibrated on validation rows; raw: (n,) as the arm said it, None where
    its scores are no log-odds. said: (n,) whether at or above the threshold that validation rows chose; offered,
    expected: (n,) whether at or above the most valuable one there, and at or above the break-even.
    """

    scores: Floats
    probability: Floats
    raw: Floats | None
    said: Truth
    offered: Truth
    expected: Truth

    def at(self, rows: Ints) -> Answers:
        """Of some rows."""
        raw = None if self.raw is None else self.raw[rows]
        columns = (self.said, self.offered, self.expected)
        return Answers(self.scores[rows], self.probability[rows], raw, *(column[rows] for column in columns))


def of_order(how: Ranking) -> dict[str, Callable[[Curve], Floats]]:
    """The metrics of the order alone, the headline first; those within users stand between them."""
    at_recall = {_named("false_positive_rate_at_recall", r): r for r in how.recalls}
    at_rate = {_named("recall_at_false_positive_rate", r): r for r in how.rates}
    return {
        "roc_auc": rank_metrics.roc_auc,
        "pr_auc": rank_metrics.average_precision,
        **{name: partial(rank_metrics.alarms_at_recall, recall=r) for name, r in at_recall.items()},
        **{name: partial(rank_metrics.recall_at_alarms, rate=r) for name, r in at_rate.items()},
    }


def order_names(how: Ranking) -> list[str]:
    """Those of the order, with those within users; shares all of them."""
    first, *others = of_order(how)
    return [first, "within_user_auc", *others]


def metric_names(how: Ranking) -> list[str]:
    """All that `measured` gives, the headline first."""
    return [
        *order_names(how), "precision", "recall", "f1", "false_positive_rate", "recommended",
        "log_loss", "log_loss_uncalibrated", "calibration_error", "calibration_error_uncalibrated", *VALUES,
    ]  # fmt: skip


def measured(redraw: Redraw, rows: Ints, truth: Truth, answers: Answers, how: Ranking) -> dict[str, Floats]:
    """Metric -> (1 + draws,), its value and that on every draw; nan where it is not defined.

    rows: (m,) places among the rows of `redraw`. truth, answers: of those m rows. The bins of calibration errors are
    those of the rows as they are. The mean over users counts each user once who has rows of both labels.
    """
    order = rank_metrics.ordered(truth, answers.scores)
    of_users = rank_metrics.auc_by_group(truth, answers.scores, redraw.group[rows], redraw.users)
    return {
        **redraw.curves(order, rows, of_order(how)),
        "within_user_auc": redraw.means_of_users(of_users),
        **_of_rows(redraw, rows, truth, answers, how),
    }


def auc(redraw: Redraw, truth: Truth, scores: Floats) -> Floats:
    """(1 + draws,) the headline alone, on all rows."""
    order = rank_metrics.ordered(truth, scores)
    return redraw.curves(order, np.arange(len(truth)), {"roc_auc": rank_metrics.roc_auc})["roc_auc"]


def _of_rows(redraw: Redraw, rows: Ints, truth: Truth, answers: Answers, how: Ranking) -> dict[str, Floats]:
    """The metrics that are sums over rows, or made of a few of them."""
    said, worth = answers.said, values(truth, how.gain, how.loss)
    parts: dict[str, list[Floats | Truth]] = {
        "count": [np.ones(len(truth))],
        "confusion": [truth & said, ~truth & said, truth & ~said, ~truth & ~said],
        "money": [answers.offered * worth, answers.offered, answers.expected * worth],
    }
    for end, probability in (("", answers.probability), ("_uncalibrated", answers.raw)):
        if probability is not None:
            bins = equal_mass(probability, BINS)[:, None] == np.arange(BINS)
            parts[f"log_loss{end}"] = [rank_metrics.log_losses(truth, probability)]
            parts[f"calibration_error{end}"] = list((bins * (probability - truth)[:, None]).T)
    columns = [column for part in parts.values() for column in part]
    ends = np.cumsum([len(part) for part in parts.values()])[:-1]
    totals = dict(zip(parts, np.split(redraw.totals(np.stack(columns, axis=1), rows), ends, axis=1), strict=True))
    count, (money, offered, expected) = totals["count"][:, 0], totals["money"].T
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            **rank_metrics.at_threshold(totals["confusion"]),
            "recommended": totals["confusion"][:, :2].sum(axis=1) / count,
            "value_per_1000": PER * money / count,
            "value_per_1000_recommended": np.where(offered > 0, PER * money / offered, np.nan),
            "value_per_1000_break_even": PER * expected / count,
        }
        for end in ("", "_uncalibrated"):
            told = f"log_loss{end}" in totals
            missing = np.full(len(count), np.nan)
            error = np.abs(totals[f"calibration_error{end}"]).sum(axis=1) / count if told else missing
            found[f"log_loss{end}"] = totals[f"log_loss{end}"][:, 0] / count if told else missing
            found[f"calibration_error{end}"] = error
    return found


def _named(kind: str, at: float) -> str:
    return f"{kind}_{at:g}"
