"""All numbers of one arm, on rows as they are, on a draw and on a slice, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, confusion_matrix, log_loss, roc_auc_score

from latefuse.config_rank import Ranking
from latefuse.evaluation.calibration import calibration_error
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.rank_values import Answers, measured, metric_names, order_names
from latefuse.evaluation.redraw import Redraw

HOW = Ranking(gain=2.0, loss=0.5)
N = 400


@pytest.fixture(scope="module")
def rows() -> tuple[Redraw, np.ndarray, Answers]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=N)
    probability = 1 / (1 + np.exp(-scores))
    truth = rng.random(N) < probability
    answers = Answers(scores, probability, probability**2, probability > 0.7, probability > 0.3, probability > 0.2)
    return Redraw(rng.integers(0, 50, N), Bootstrap(draws=20)), truth, answers


def test_names_are_those_that_are_measured(rows: tuple[Redraw, np.ndarray, Answers]) -> None:
    redraw, truth, answers = rows
    found = measured(redraw, np.arange(N), truth, answers, HOW)
    assert set(found) == set(metric_names(HOW))
    assert all(column.shape == (21,) for column in found.values())
    assert order_names(HOW) == [
        "roc_auc", "within_user_auc", "pr_auc", "false_positive_rate_at_recall_0.8",
        "false_positive_rate_at_recall_0.9", "recall_at_false_positive_rate_0.01",
        "recall_at_false_positive_rate_0.05",
    ]  # fmt: skip


@pytest.mark.parametrize("draw", [0, 7])
@pytest.mark.parametrize("step", [1, 3])
def test_values(rows: tuple[Redraw, np.ndarray, Answers], draw: int, step: int) -> None:
    redraw, truth, answers = rows
    some = np.arange(0, N, step)
    found = {name: one[draw] for name, one in measured(redraw, some, truth[some], answers.at(some), HOW).items()}
    again = np.repeat(some, redraw.times[draw][redraw.group[some]])
    y, one = truth[again], answers.at(again)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(y, one.scores))
    assert found["pr_auc"] == pytest.approx(average_precision_score(y, one.scores))
    assert found["log_loss"] == pytest.approx(log_loss(y, one.probability))
    assert found["log_loss_uncalibrated"] == pytest.approx(log_loss(y, one.raw))
    rejected, alarms, misses, hits = confusion_matrix(y, one.said).ravel()
    assert found["precision"] == pytest.approx(hits / (hits + alarms))
    assert found["recall"] == pytest.approx(hits / (hits + misses))
    assert found["f1"] == pytest.approx(2 * hits / (2 * hits + alarms + misses))
    assert found["false_positive_rate"] == pytest.approx(alarms / (alarms + rejected))
    assert found["recommended"] == pytest.approx(one.said.mean())
    worth = np.where(y, 2.0, -0.5)
    assert found["value_per_1000"] == pytest.approx(1_000 * (worth * one.offered).mean())
    assert found["value_per_1000_recommended"] == pytest.approx(1_000 * worth[one.offered].mean())
    assert found["value_per_1000_break_even"] == pytest.approx(1_000 * (worth * one.expected).mean())
    if draw == 0:
        assert found["calibration_error"] == pytest.approx(calibration_error(one.probability, y))
        assert found["calibration_error_uncalibrated"] == pytest.approx(calibration_error(one.raw, y))


def test_scores_that_are_no_log_odds_have_no_uncalibrated_loss(rows: tuple[Redraw, np.ndarray, Answers]) -> None:
    redraw, truth, answers = rows
    nothing = np.zeros(N, bool)
    bare = Answers(answers.scores, answers.probability, None, nothing, nothing, nothing)
    found = measured(redraw, np.arange(N), truth, bare, HOW)
    for name in ("log_loss_uncalibrated", "calibration_error_uncalibrated", "precision", "value_per_1000_recommended"):
        assert np.isnan(found[name]).all()
    assert (found["value_per_1000"] == 0).all()
