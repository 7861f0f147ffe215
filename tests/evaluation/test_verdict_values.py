"""Values of rows whose means are scikit-learn's metrics."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT
from latefuse.evaluation.verdict_values import MACRO, METRICS, row_values, same_pairs


@pytest.mark.parametrize("seed", range(4))
def test_means_are_those_of_the_library(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.random(60) < (0.2, 0.5, 0.7, 0.9)[seed]
    scores = (draw.normal(size=60) + labels).round(1)  # with ties
    said = np.where(scores > 0.5, RELEVANT, NOT_RELEVANT)
    kinds = np.where(labels, "", draw.choice(["colour", "random"], 60))
    found = row_values(labels, scores, said, kinds, [""] * 60, [""] * 60)
    assert set(found) == {*METRICS, "balanced_accuracy/colour", "balanced_accuracy/random"}
    predicted = said == RELEVANT
    assert np.mean(found["balanced_accuracy"]) == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert np.mean(found["roc_auc"]) == pytest.approx(roc_auc_score(labels, scores))
    assert np.mean(found["accuracy"]) == pytest.approx(accuracy_score(labels, predicted))
    assert not found["abstained"].any()
    for kind in ("colour", "random"):
        part = labels | (kinds == kind)
        value = np.nanmean(found[f"balanced_accuracy/{kind}"])
        assert value == pytest.approx(balanced_accuracy_score(labels[part], predicted[part]))
        assert np.isnan(found[f"balanced_accuracy/{kind}"]).tolist() == (~part).tolist()


def test_an_abstention_is_neither_right_nor_wrong() -> None:
    said = [RELEVANT, ABSTAIN, NOT_RELEVANT, RELEVANT, ABSTAIN]
    found = row_values(
        [True, True, False, False, False], [3, 0, -1, 2, 0], said, ["", "", "a", "b", "b"], [""] * 5, [""] * 5
    )
    assert np.nanmean(found["accuracy"]) == pytest.approx(2 / 3)
    assert np.nanmean(found["balanced_accuracy"]) == pytest.approx((1 + 0.5) / 2)
    assert np.nanmean(found["balanced_accuracy/a"]) == 1
    assert np.nanmean(found["balanced_accuracy/b"]) == pytest.approx(0.5)
    assert found["abstained"].mean() == pytest.approx(0.4)


def test_rows_of_one_label_have_nothing_balanced() -> None:
    found = row_values([True, True], [1.0, 2.0], [RELEVANT, NOT_RELEVANT], *[["", ""]] * 3)
    assert np.isnan(found["balanced_accuracy"]).all()
    assert np.isnan(found["roc_auc"]).all()
    assert found["accuracy"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="2 labels, 1 scores"):
        row_values([True, False], [1.0], [RELEVANT, RELEVANT], *[["", ""]] * 3)


def test_a_value_varies_as_its_metric_does_however_uneven_the_labels() -> None:
    labels = [True] * 20 + [False] * 180
    perfect = row_values(
        labels, [float(label) for label in labels], np.where(labels, RELEVANT, NOT_RELEVANT), *[[""] * 200] * 3
    )
    assert set(perfect["balanced_accuracy"]) == set(perfect["roc_auc"]) == {1.0}
    constant = row_values(labels, [0.0] * 200, [RELEVANT] * 200, *[[""] * 200] * 3)
    assert set(constant["balanced_accuracy"]) == set(constant["roc_auc"]) == {0.5}


def test_tasks_and_groups_of_kinds_are_balanced_on_their_own() -> None:
    draw = np.random.default_rng(0)
    labels, tasks = draw.random(90) < 0.5, draw.choice(["a", "b", "c"], 90)
    said = np.where(draw.random(90) < 0.7, labels, ~labels)
    kinds = np.where(labels, "", draw.choice(["swap:colour", "swap:count", "random"], 90))
    words = np.where(said, RELEVANT, NOT_RELEVANT)
    found = row_values(labels, said.astype(float), words, kinds, tasks, [""] * 90)
    each = [balanced_accuracy_score(labels[tasks == task], said[tasks == task]) for task in "abc"]
    for task, value in zip("abc", each, strict=True):
        assert np.nanmean(found[f"balanced_accuracy/{task}"]) == pytest.approx(value)
    assert np.nanmean(found[MACRO]) == pytest.approx(np.mean(each))
    swapped = labels | np.char.startswith(kinds, "swap:")
    value = balanced_accuracy_score(labels[swapped], said[swapped])
    assert np.nanmean(found["balanced_accuracy/swap"]) == pytest.approx(value)


def test_one_picture_and_text_under_two_rules_count_as_a_pair() -> None:
    rows = [
        {"image": image, "text": text, "label": label}
        for image, text, label in (
            ("a", "x", True), ("a", "x ", False), ("b", "x", True),
            ("a", "y", True), ("c", "z", False), ("c", "z", True),
        )
    ]  # fmt: skip
    pairs = same_pairs(rows)
    assert [bool(name) for name in pairs] == [True, True, False, False, True, True]
    assert pairs[0] == pairs[1] != pairs[4] == pairs[5]
    said = [RELEVANT, NOT_RELEVANT, RELEVANT, RELEVANT, RELEVANT, RELEVANT]
    found = row_values([row["label"] for row in rows], [0.0] * 6, said, [""] * 6, [""] * 6, pairs)
    assert np.nanmean(found["same_pair"]) == pytest.approx(3 / 4)
    assert np.nanmean(found["same_pair_both"]) == pytest.approx(1 / 2)
    assert np.isnan(found["same_pair_both"]).sum() == 4
