"""Arms of made-up scores: means over seeds, differences with intervals, slices, knock-outs, names for the tracker."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_ranks import HOW, SCORES, TRUTH, N, summary
from sklearn.metrics import roc_auc_score

from latefuse.evaluation.arms_summary import label, table_text
from latefuse.evaluation.rank_summary import RankSummary, flat
from latefuse.evaluation.rank_values import order_names


@pytest.fixture(scope="module")
def found() -> RankSummary:
    return summary()


def test_a_difference_is_that_of_the_means(found: RankSummary) -> None:
    for metric in ("roc_auc", "false_positive_rate_at_recall_0.9", "log_loss", "value_per_1000"):
        line = found.lines[metric]["text-only"]
        assert line.behind is not None
        assert line.behind.value == pytest.approx(found.lines[metric]["both"].mean.value - line.mean.value)
        assert line.behind.low < line.behind.value < line.behind.high
    assert found.lines["roc_auc"]["both"].behind is None
    assert found.lines["roc_auc"]["both"].mean.seeds == 2
    assert found.rows == N
    assert found.about.startswith(f"{N:,} rows of 80 users")
    assert found.about.endswith(f"{TRUTH.mean():.1%} liked")


def test_better_arms_are_shown_to_be_ahead_the_right_way_round(found: RankSummary) -> None:
    lines = {metric: found.lines[metric]["text-only"].behind for metric in ("roc_auc", "log_loss")}
    assert lines["roc_auc"].low > 0 > lines["log_loss"].high
    assert not found.lines["roc_auc"]["twin"].behind.excludes_zero


def test_calibration_errors_have_no_interval(found: RankSummary) -> None:
    assert not found.lines["calibration_error"]["both"].mean.has_interval
    assert not found.lines["calibration_error"]["text-only"].behind.has_interval


def test_slices_have_all_metrics(found: RankSummary) -> None:
    assert list(found.parts) == ["cold item"]
    assert found.sizes == {"cold item": N // 4}
    assert found.slices["cold item"] == found.parts["cold item"]["roc_auc"]
    assert found.parts["cold item"]["log_loss"]["both"].mean.rows == N // 4


def test_a_knock_out_costs_what_is_lost(found: RankSummary) -> None:
    (one,) = found.knock_outs
    assert (one.arm, one.condition) == ("both", "shuffled:image")
    assert one.worth.value == pytest.approx(one.full.value - one.left.value)
    assert one.worth.low > 0


def test_names_for_the_tracker(found: RankSummary) -> None:
    metrics = flat(found, HOW)
    assert metrics["eval/contribution/image"] == pytest.approx(found.knock_outs[0].worth.value)
    assert metrics["eval/roc_auc"] == found.lines["roc_auc"]["both"].mean.value
    assert metrics["eval/log_loss/cold item"] == found.parts["cold item"]["log_loss"]["both"].mean.value
    strict = "eval/false_positive_rate_at_recall_0.9/cold item/text-only"
    assert metrics[f"{strict}/low"] < metrics[strict] < metrics[f"{strict}/high"]
    assert f"{strict}/main-minus/low" in metrics
    assert not any(np.isnan(value) for value in metrics.values())


def test_the_table_is_told_in_per_cent(found: RankSummary) -> None:
    text = table_text(found, 0.95, [*order_names(HOW), "log_loss"])
    assert "false-positive rate at recall 90%" in text.splitlines()[0]
    value = found.lines["log_loss"]["both"].mean.value
    assert f"{value:.3f}" in text
    assert "shares in per cent" in text
    assert "80 users" in table_text(found, 0.95, order_names(HOW))


def test_labels() -> None:
    told = {
        "recall_at_10": "R@10", "ndcg_at_1000": "NDCG@1,000", "recall": "recall", "recall_at_false_positive_rate_0.05":
        "recall at false-positive rate 5%", "false_positive_rate_at_recall_0.8": "false-positive rate at recall 80%",
        "roc_auc": "ROC-AUC", "balanced_accuracy/a": "balanced accuracy, a", "mrr": "MRR",
    }  # fmt: skip
    assert {metric: label(metric) for metric in told} == told


def test_the_headline_is_that_of_scikit_learn(found: RankSummary) -> None:
    mean = np.mean([roc_auc_score(TRUTH, SCORES["both"][seed]) for seed in (0, 1)])
    assert found.lines["roc_auc"]["both"].mean.value == pytest.approx(mean)
