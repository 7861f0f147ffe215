"""Thresholds and bands against all that could have been chosen, scores against counts by hand and scikit-learn."""

from __future__ import annotations

import math
import time
import warnings
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from latefuse.config_judge import Abstain, Policy
from latefuse.errors import UserError
from latefuse.evaluation.thresholds import (
    Band,
    Threshold,
    ThresholdError,
    choose,
    choose_band,
    ranking_scores,
    scores_of,
    verdicts,
)
from latefuse.sections import ConfigError, Section, checked

Array = np.ndarray[Any, Any]
Rows = list[tuple[float, bool]]

both_labels = st.lists(
    st.tuples(st.integers(0, 9).map(lambda k: k / 9), st.booleans()), min_size=2, max_size=30
).filter(lambda rows: len({label for _, label in rows}) == 2)
shares = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0])


def columns(rows: Rows) -> tuple[Array, Array]:
    return np.array([p for p, _ in rows]), np.array([label for _, label in rows])


def judged(n: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(0.7, 0.7, n)
    return probabilities, rng.random(n) < probabilities


def everything(rows: Rows) -> list[tuple[float, Fraction, Fraction, Fraction, Fraction]]:
    """(threshold, precision, recall, F1, false-positive rate) of each one that finds something, counted row by row."""
    found = []
    for value in sorted({p for p, _ in rows}, reverse=True):
        hits = sum(p >= value and label for p, label in rows)
        wrong = sum(p >= value and not label for p, label in rows)
        missed = sum(p < value and label for p, label in rows)
        refused = sum(p < value and not label for p, label in rows)
        if hits:
            precision, recall = Fraction(hits, hits + wrong), Fraction(hits, hits + missed)
            f1 = 2 * precision * recall / (precision + recall)
            found.append((value, precision, recall, f1, Fraction(wrong, wrong + refused)))
    return found


def as_numbers(found: tuple[Any, ...]) -> Threshold:
    return Threshold(*(float(part) for part in found))


@settings(max_examples=150, deadline=None)
@given(both_labels)
def test_the_best_f1_is_that_of_all_thresholds_and_of_equals_the_highest(rows: Rows) -> None:
    best = max(everything(rows), key=lambda one: (one[3], one[0]))
    assert choose(Policy(), *columns(rows)) == as_numbers(best)


@settings(max_examples=150, deadline=None)
@given(both_labels, shares)
def test_a_precision_is_kept_with_the_largest_recall_or_the_best_is_told(rows: Rows, least: float) -> None:
    tried, policy = everything(rows), Policy(kind="precision", value=least)
    met = [one for one in tried if one[1] >= Fraction(str(least))]
    if met:
        assert choose(policy, *columns(rows)) == as_numbers(max(met, key=lambda one: (one[2], one[0])))
    else:
        with pytest.raises(ThresholdError, match=f"the best is {float(max(one[1] for one in tried)):.4g}, where"):
            choose(policy, *columns(rows))


@settings(max_examples=150, deadline=None)
@given(both_labels, shares)
def test_a_false_positive_rate_is_kept_with_the_largest_recall_or_the_best_is_told(rows: Rows, most: float) -> None:
    tried, policy = everything(rows), Policy(kind="false-positive-rate", value=most)
    met = [one for one in tried if one[4] <= Fraction(str(most))]
    if met:
        assert choose(policy, *columns(rows)) == as_numbers(max(met, key=lambda one: (one[2], one[0])))
    else:
        with pytest.raises(ThresholdError, match=f"the best is {float(min(one[4] for one in tried)):.4g}, where"):
            choose(policy, *columns(rows))


def test_a_policy_out_of_reach_says_what_was_asked_and_how_far_the_rows_go() -> None:
    probabilities, labels = [0.9, 0.8, 0.7, 0.2], [False, True, True, False]
    wanted = (
        r"caption: no threshold that finds a relevant row has a precision of at least 0\.9; the best is 0\.6667, "
        r"where p >= 0\.7, with recall 1: ask for less"
    )
    with pytest.raises(ThresholdError, match=wanted):
        choose(Policy(kind="precision", value=0.9), probabilities, labels, "caption")
    with pytest.raises(
        ThresholdError, match=r"a false-positive-rate of at most 0\.1; the best is 0\.5, where p >= 0\.8"
    ):
        choose(Policy(kind="false-positive-rate", value=0.1), probabilities, labels)
    assert issubclass(ThresholdError, UserError)


def test_rows_of_one_label_give_no_threshold() -> None:
    for label, only in ((True, "relevant"), (False, "not relevant")):
        with pytest.raises(ThresholdError, match=f"validation: all 2 rows are {only}"):
            choose(Policy(), [0.2, 0.7], [label, label])


def test_raw_scores_instead_of_probabilities_are_an_error() -> None:
    for asked in (
        lambda: choose(Policy(), [-3.0, 2.0], [False, True]),
        lambda: choose_band(Abstain(accuracy=0.9), [-3.0, 2.0], [False, True], 0.5),
        lambda: verdicts([-3.0, 2.0], 0.5),
    ):
        with pytest.raises(ValueError, match="2 of 2 are no probabilities: scores need a calibration first"):
            asked()


def test_a_policy_has_a_value_where_it_needs_one() -> None:
    for wrong, why in (
        ({"kind": "best-f1", "value": 0.5}, "best-f1 takes no value"),
        ({"kind": "precision"}, "precision needs a value, the least precision that is allowed"),
        ({"kind": "false-positive-rate"}, "needs a value, the largest rate that is allowed"),
        ({"kind": "precision", "value": 1.5}, "value: Input should be less than or equal to 1"),
        ({"kind": "recall", "value": 0.5}, "kind: Input should be 'best-f1'"),
    ):
        with pytest.raises(ConfigError, match=why):
            checked(Policy, wrong, "recipe.yaml")


@settings(max_examples=200, deadline=None)
@given(both_labels, shares, st.integers(0, 10).map(lambda k: k / 10))
def test_the_band_leaves_fewer_rows_to_people_than_any_other(rows: Rows, asked: float, threshold: float) -> None:
    values = sorted({p for p, _ in rows})
    best: tuple[int, int] | None = None
    for low, high in product([*values, threshold], [*values, threshold, 2.0]):
        kept = [((p >= threshold) == label) for p, label in rows if not low <= p < high]
        if low <= threshold <= high and kept and Fraction(sum(kept), len(kept)) >= Fraction(str(asked)):
            best = max(best or (0, 0), (len(kept), sum(kept)))
    if best is None:
        with pytest.raises(ThresholdError, match="out of reach, whatever is left to people"):
            choose_band(Abstain(accuracy=asked), *columns(rows), threshold)
        return
    band = choose_band(Abstain(accuracy=asked), *columns(rows), threshold)
    assert band.low <= threshold <= band.high
    kept = [((p >= threshold) == label) for p, label in rows if not band.low <= p < band.high]
    assert (len(kept), sum(kept)) == best
    assert band.share == pytest.approx(1 - len(kept) / len(rows))
    assert band.accuracy == pytest.approx(sum(kept) / len(kept))
    assert band.accuracy >= asked


def test_ends_of_the_band_move_on_their_own() -> None:
    probabilities = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    labels = [False, False, True, False, True, True, True, True]
    assert choose_band(Abstain(accuracy=1.0), probabilities, labels, 0.5) == Band(0.3, 0.5, 0.25, 1.0)
    assert choose_band(Abstain(accuracy=0.8), probabilities, labels, 0.5) == Band(0.5, 0.5, 0.0, 0.875)


def test_of_bands_that_leave_equally_few_to_people_the_most_accurate_is_taken() -> None:
    probabilities = np.array([0.1, 0.4, 0.4, 0.6, 0.6, 0.9, 0.9, 0.9])
    labels = np.array([False, True, True, True, False, True, True, True])
    found = choose_band(Abstain(accuracy=0.65), probabilities, labels, 0.5)
    assert found == Band(0.4, 0.5, 0.25, 5 / 6)
    mirrored = choose_band(Abstain(accuracy=0.65), 1 - probabilities, ~labels, 0.5)
    assert mirrored == Band(0.5, 0.9, 0.25, 5 / 6)


def test_a_side_of_which_nothing_is_right_goes_to_people_for_any_row() -> None:
    probabilities, labels = [0.1, 0.2, 0.7, 0.8, 0.9], [False, False, False, True, False]
    upper = choose_band(Abstain(accuracy=1.0), probabilities, labels, 0.6)
    assert (upper.low, upper.share) == (0.6, 0.6)
    assert verdicts([0.0, 0.59, 0.6, 1.0], 0.6, upper).tolist() == ["not relevant"] * 2 + ["abstain"] * 2
    lower = choose_band(Abstain(accuracy=1.0), [0.1, 0.2, 0.8, 0.9], [True, True, True, True], 0.5)
    assert verdicts([0.0, 0.3, 0.5, 1.0], 0.5, lower).tolist() == ["abstain"] * 2 + ["relevant"] * 2


def test_an_accuracy_out_of_reach_says_the_best() -> None:
    rows = [0.1] * 4 + [0.9] * 4, [True, False, False, False, True, True, False, False]
    with pytest.raises(ThresholdError, match=r"caption: accuracy 0\.9 is out .* the best is 0\.75, on 4 of 8 rows"):
        choose_band(Abstain(accuracy=0.9), *rows, 0.5, "caption")


def test_a_band_over_very_many_rows_is_found_at_once_and_holds_on_rows_not_seen() -> None:
    probabilities, labels = judged(200_000)
    start = time.perf_counter()
    threshold = choose(Policy(kind="precision", value=0.85), probabilities, labels)
    band = choose_band(Abstain(accuracy=0.9), probabilities, labels, threshold.value)
    assert time.perf_counter() - start < 5
    fresh, truth = judged(200_000, seed=1)
    said = verdicts(fresh, threshold.value, band)
    decided = said != "abstain"
    assert 1 - decided.mean() == pytest.approx(band.share, abs=0.01)
    assert ((said == "relevant") == truth)[decided].mean() == pytest.approx(0.9, abs=0.01)
    assert scores_of(truth, fresh >= threshold.value)["precision"] == pytest.approx(0.85, abs=0.01)


def test_a_verdict_is_relevant_from_the_threshold_on_and_abstains_from_low_up_to_high() -> None:
    probabilities = [0.0, 0.3, 0.5, 0.6, 0.7, 1.0]
    assert verdicts(probabilities, 0.6).tolist() == ["not relevant"] * 3 + ["relevant"] * 3
    band = Band(low=0.3, high=0.7, share=0.5, accuracy=1.0)
    wanted = ["not relevant", "abstain", "abstain", "abstain", "relevant", "relevant"]
    assert verdicts(probabilities, 0.6, band).tolist() == wanted
    with pytest.raises(ValueError, match=r"the band 0\.3 to 0\.7 is not around the threshold 0\.8"):
        verdicts(probabilities, 0.8, band)


class Stored(Section):
    """A file of an adapter folder."""

    threshold: Threshold
    band: Band | None = None


def test_a_threshold_and_a_band_come_back_from_json_to_the_last_bit() -> None:
    probabilities, labels = judged(500)
    threshold = choose(Policy(), probabilities, labels)
    stored = Stored(
        threshold=threshold, band=choose_band(Abstain(accuracy=0.95), probabilities, labels, threshold.value)
    )
    assert Stored.model_validate_json(stored.model_dump_json()) == stored
    nobody = choose_band(Abstain(accuracy=1.0), [0.1, 0.9], [False, False], 0.5)
    assert Stored.model_validate_json(Stored(threshold=threshold, band=nobody).model_dump_json()).band == nobody


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_scores_are_those_counted_by_hand_and_nan_where_there_is_nothing_to_count(
    rows: list[tuple[bool, bool]],
) -> None:
    hits, missed = rows.count((True, True)), rows.count((True, False))
    wrong, refused = rows.count((False, True)), rows.count((False, False))

    def ratio(part: float, whole: float) -> float:
        return part / whole if whole else math.nan

    recall, rate = ratio(hits, hits + missed), ratio(wrong, wrong + refused)
    spread = math.sqrt((hits + wrong) * (hits + missed) * (refused + wrong) * (refused + missed))
    one_label = not (hits + missed and wrong + refused)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores_of(*(np.array(column) for column in zip(*rows, strict=True)))
    assert found == pytest.approx(
        {
            "accuracy": (hits + refused) / len(rows),
            "balanced_accuracy": (recall + 1 - rate) / 2,
            "precision": ratio(hits, hits + wrong),
            "recall": recall,
            "f1": ratio(2 * hits, 2 * hits + wrong + missed),
            "mcc": math.nan if one_label else (hits * refused - wrong * missed) / spread if spread else 0.0,
            "false_positive_rate": rate,
        },
        nan_ok=True,
    )


def test_a_balanced_accuracy_is_that_of_scikit_learn_and_verdicts_are_yes_or_no() -> None:
    probabilities, labels = judged(400)
    wanted = metrics.balanced_accuracy_score(labels, probabilities >= 0.7)
    assert scores_of(labels, probabilities >= 0.7)["balanced_accuracy"] == pytest.approx(wanted)
    with pytest.raises(ValueError, match="a label is True"):
        scores_of(labels, probabilities)


@settings(max_examples=100, deadline=None)
@given(both_labels)
def test_ranking_scores_are_shares_of_pairs_and_the_mean_precision_at_each_hit(rows: Rows) -> None:
    probabilities, labels = columns(rows)
    pairs = [(p > q) + (p == q) / 2 for p in probabilities[labels] for q in probabilities[~labels]]
    precision = [labels[probabilities >= p].mean() for p in probabilities[labels]]
    found = ranking_scores(labels, 20 * probabilities - 10)
    assert found == pytest.approx({"roc_auc": np.mean(pairs), "average_precision": np.mean(precision)})


@pytest.mark.parametrize("label", [True, False])
def test_a_slice_of_one_label_has_no_ranking_and_warns_of_nothing(label: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ranking_scores([label] * 3, [0.1, 0.2, 0.3])
    assert found == pytest.approx({"roc_auc": math.nan, "average_precision": math.nan}, nan_ok=True)
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        ranking_scores([label, True, False], [0.1, math.nan, 0.3])
