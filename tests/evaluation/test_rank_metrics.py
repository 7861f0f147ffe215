"""Metrics of the order against scikit-learn, by weights and by rows that really stand there several times."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, log_loss, precision_recall_fscore_support, roc_auc_score, roc_curve

from latefuse.evaluation import rank_metrics

ROWS, DRAWS = 300, 12


def _drawn(ties: bool, share: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.random(ROWS) < share
    scores = rng.normal(size=ROWS) + labels
    times = rng.integers(0, 4, (DRAWS, ROWS)).astype(np.int32)
    return labels, scores.round(1) if ties else scores, times


def _curve(labels: np.ndarray, scores: np.ndarray, times: np.ndarray) -> rank_metrics.Curve:
    order = rank_metrics.ordered(labels, scores)
    return rank_metrics.curve(order, times[:, order.rows])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.03])
def test_areas_are_those_of_scikit_learn(ties: bool, share: float) -> None:
    labels, scores, times = _drawn(ties, share)
    one = _curve(labels, scores, times)
    auc, precision = rank_metrics.roc_auc(one), rank_metrics.average_precision(one)
    for draw, weights in enumerate(times):
        assert auc[draw] == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
        assert precision[draw] == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))
        again = np.repeat(np.arange(ROWS), weights)
        assert auc[draw] == pytest.approx(roc_auc_score(labels[again], scores[again]))


@pytest.mark.parametrize("ties", [False, True])
def test_rates_are_those_of_the_thresholds_that_there_are(ties: bool) -> None:
    labels, scores, times = _drawn(ties)
    one = _curve(labels, scores, times)
    for draw, weights in enumerate(times):
        again = np.repeat(np.arange(ROWS), weights)
        alarms, hits, _ = roc_curve(labels[again], scores[again], drop_intermediate=False)
        for asked in (0.5, 0.8, 0.9, 1.0):
            found = rank_metrics.alarms_at_recall(one, asked)[draw]
            assert found == pytest.approx(alarms[hits >= asked - 1e-9].min())
        for asked in (0.0, 0.01, 0.05, 0.5):
            found = rank_metrics.recall_at_alarms(one, asked)[draw]
            assert found == pytest.approx(hits[alarms <= asked + 1e-9].max())


def test_known_values() -> None:
    labels, scores = np.array([1, 1, 0, 1, 0, 0], bool), np.array([6.0, 5, 4, 3, 2, 1])
    one = _curve(labels, scores, np.ones((1, 6), np.int64))
    assert rank_metrics.roc_auc(one)[0] == pytest.approx(8 / 9)
    assert rank_metrics.average_precision(one)[0] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert rank_metrics.alarms_at_recall(one, 2 / 3)[0] == 0
    assert rank_metrics.alarms_at_recall(one, 0.9)[0] == pytest.approx(1 / 3)
    assert rank_metrics.recall_at_alarms(one, 0.2)[0] == pytest.approx(2 / 3)


def test_recall_of_nine_in_ten_likes_needs_nine_of_them() -> None:
    labels, scores = np.array([True] * 9 + [False] * 10 + [True]), -np.arange(20.0)
    one = _curve(labels, scores, np.ones((1, 20), np.int64))
    assert rank_metrics.alarms_at_recall(one, 0.9)[0] == 0


def test_equal_scores_are_one_threshold() -> None:
    labels = np.array([True, False, True, False])
    one = _curve(labels, np.zeros(4), np.ones((1, 4), np.int64))
    assert rank_metrics.roc_auc(one)[0] == 0.5
    assert rank_metrics.alarms_at_recall(one, 0.8)[0] == 1
    assert rank_metrics.recall_at_alarms(one, 0.05)[0] == 0


@pytest.mark.parametrize("label", [True, False])
def test_rows_of_one_label_have_no_order(label: bool) -> None:
    one = _curve(np.full(5, label), np.arange(5.0), np.ones((2, 5), np.int64))
    for found in (
        rank_metrics.roc_auc(one),
        rank_metrics.alarms_at_recall(one, 0.8),
        rank_metrics.recall_at_alarms(one, 0.05),
    ):
        assert np.isnan(found).all()


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are not finite"):
        rank_metrics.ordered([True, False], [0.1, np.nan])


def test_areas_within_groups_are_those_of_each_alone() -> None:
    labels, scores, _ = _drawn(ties=True)
    groups = np.random.default_rng(1).integers(0, 60, ROWS)
    found = rank_metrics.auc_by_group(labels, scores, groups, 61)
    for group in range(61):
        mine = groups == group
        if len(set(labels[mine])) == 2:
            assert found[group] == pytest.approx(roc_auc_score(labels[mine], scores[mine]))
        else:
            assert np.isnan(found[group])


def test_log_losses_are_those_of_scikit_learn() -> None:
    labels, scores, _ = _drawn(ties=False)
    probabilities = 1 / (1 + np.exp(-scores))
    assert rank_metrics.log_losses(labels, probabilities).mean() == pytest.approx(log_loss(labels, probabilities))
    assert np.isfinite(rank_metrics.log_losses([True, False], [0.0, 1.0])).all()


def test_a_threshold_is_told_as_scikit_learn_tells_it() -> None:
    labels, scores, _ = _drawn(ties=False)
    said = scores > 0.5
    counts = [(labels & said).sum(), (~labels & said).sum(), (labels & ~said).sum(), (~labels & ~said).sum()]
    found = rank_metrics.at_threshold(np.array([counts, [0, 0, 3, 4]], float))
    precision, recall, f1, _ = precision_recall_fscore_support(labels, said, average="binary")
    assert [found[name][0] for name in ("precision", "recall", "f1")] == pytest.approx([precision, recall, f1])
    assert found["false_positive_rate"][0] == pytest.approx(said[~labels].mean())
    assert np.isnan(found["precision"][1])
    assert found["recall"][1] == 0
