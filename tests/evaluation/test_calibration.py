"""The fit against scipy and scikit-learn, calibration errors against plain loops, closed forms and a simulation."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as drawn
from pydantic import ValidationError
from scipy.optimize import minimize
from scipy.special import expit, xlogy
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression

from latefuse.errors import UserError
from latefuse.evaluation.calibration import (
    MIN_ROWS,
    Calibration,
    ScoresError,
    calibration_error,
    equal_mass,
    fit,
    perfect_calibration_error,
    reliability,
)
from latefuse.sections import ConfigError, Section, checked

Array = np.ndarray[Any, Any]


def judged(n: int, scale: float = 0.4, shift: float = -1.0, seed: int = 0) -> tuple[Array, Array]:
    """Scores of a judge that is too sure of itself, and labels drawn by what they are truly worth."""
    rng = np.random.default_rng(seed)
    scores = 6 * rng.normal(size=n) + 2
    return scores, rng.random(n) < expit(scale * scores + shift)


def smoothed_loss(given: Array, scores: Array, labels: Array) -> float:
    """The cross-entropy under the targets of Platt 1999, in nats, written out."""
    ones, zeros = labels.sum(), (~labels).sum()
    target = np.where(labels, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    z = given[0] * scores + given[1]
    return float((np.logaddexp(0, z) - target * z).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [MIN_ROWS, 300])
def test_the_fit_is_where_scipy_finds_the_least_loss(n: int, seed: int) -> None:
    scores, labels = judged(n, seed=seed)
    found = fit(scores, labels)
    best = minimize(
        smoothed_loss, [0.1, 0.0], (scores, labels), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}
    )
    assert [found.scale, found.shift] == pytest.approx(best.x, rel=1e-5, abs=1e-6)


def test_the_probabilities_are_those_of_scikit_learn() -> None:
    scores, labels = judged(500)
    judge = LogisticRegression().fit(scores[:, None], labels)
    judge.coef_, judge.intercept_ = np.array([[1.0]]), np.array([0.0])
    reference = CalibratedClassifierCV(FrozenEstimator(judge), method="sigmoid").fit(scores[:, None], labels)
    wanted = reference.predict_proba(scores[:, None])[:, 1]
    np.testing.assert_allclose(fit(scores, labels).probability(scores), wanted, atol=1e-4)


def test_many_rows_give_the_scale_and_the_shift_that_labels_were_drawn_by() -> None:
    found = fit(*judged(40_000, scale=0.4, shift=-1.0))
    assert found.scale == pytest.approx(0.4, abs=0.02)
    assert found.shift == pytest.approx(-1.0, abs=0.06)


def test_scores_that_separate_the_labels_give_the_smoothed_targets_and_not_infinity() -> None:
    scores, labels = np.repeat([-7.0, 3.0], [40, 20]), np.repeat([False, True], [40, 20])
    found = fit(scores, labels)
    low, high = log((1 / 42) / (41 / 42)), log((21 / 22) / (1 / 22))
    assert found.scale == pytest.approx((high - low) / 10)
    assert found.probability([-7.0, 3.0]) == pytest.approx([1 / 42, 21 / 22])


@settings(max_examples=60, deadline=None)
@given(
    drawn.arrays(np.float64, st.integers(MIN_ROWS, 60), elements=st.floats(-1e4, 1e4, width=32)),
    st.integers(0, 2**32),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
)
def test_any_fit_is_at_a_minimum_and_the_same_in_another_unit(
    scores: Array, seed: int, factor: float, offset: float
) -> None:
    sure = expit((scores - np.median(scores)) / (1 + np.abs(scores).mean() * (seed % 3)))
    labels = np.random.default_rng(seed).random(len(scores)) < sure
    labels[:2] = False, True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = fit(scores, labels)
            moved = fit(factor * scores + offset, labels)
        except ScoresError:
            return
    best = smoothed_loss(np.array([found.scale, found.shift]), scores, labels)
    for step in (0.99, 1.01):
        assert smoothed_loss(np.array([step * found.scale, found.shift]), scores, labels) >= best - 1e-7
        assert smoothed_loss(np.array([found.scale, found.shift + step - 1]), scores, labels) >= best - 1e-7
    np.testing.assert_allclose(moved.probability(factor * scores + offset), found.probability(scores), atol=1e-4)


def test_the_order_of_the_rows_does_not_matter() -> None:
    scores, labels = judged(200)
    turned = fit(scores[::-1], labels[::-1])
    assert asdict(turned) == pytest.approx(asdict(fit(scores, labels)), rel=1e-9)


def test_scores_that_can_not_be_calibrated_are_refused_with_the_reason() -> None:
    scores, labels = judged(50)
    with pytest.raises(ScoresError, match=r"caption: 19 rows are too few to calibrate on, 20 are needed"):
        fit(scores[:19], labels[:19], "caption")
    with pytest.raises(ScoresError, match="all 50 rows are not relevant"):
        fit(scores, np.zeros(50))
    with pytest.raises(ScoresError, match="all 50 rows are relevant"):
        fit(scores, np.ones(50))
    with pytest.raises(ScoresError, match="validation: 2 of 50 scores are not finite, the first at row 7"):
        fit(np.where(np.isin(np.arange(50), [7, 9]), [np.nan, -np.inf] * 25, scores), labels)
    with pytest.raises(ScoresError, match=r"all 50 scores are 0\.1; they say nothing"):
        fit(np.full(50, 0.1), labels)
    assert issubclass(ScoresError, UserError)


def test_scores_that_point_the_wrong_way_or_nowhere_are_told_and_not_turned_round() -> None:
    scores, labels = judged(500)
    with pytest.raises(ScoresError, match=r"scores do not rise with the labels \(scale -0\.[34]"):
        fit(-scores, labels)
    with pytest.raises(ScoresError, match="at chance or the wrong way round"):
        fit(np.tile(scores, 2), np.repeat([True, False], 500))


def test_labels_and_scores_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"shape \(30,\) do not fit labels of shape \(29,\)"):
        fit(np.arange(30), np.ones(29))
    with pytest.raises(ValueError, match="a label is True"):
        fit(np.arange(30), np.arange(30))
    with pytest.raises(ValueError, match="one row or more"):
        calibration_error([], [])


def test_a_probability_is_a_half_where_the_score_makes_up_for_the_shift_and_never_overflows() -> None:
    found = Calibration(0.5, -1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.probability([2.0, 4.0, 1e9, -1e9]) == pytest.approx([0.5, 1 / (1 + np.exp(-1)), 1.0, 0.0])
    assert found.probability(np.float32([2.0])).dtype == np.float64


class Stored(Section):
    """A file of an adapter folder."""

    calibrations: dict[str, Calibration]


def test_a_calibration_comes_back_from_json_and_a_damaged_one_is_refused_by_its_key() -> None:
    stored = Stored(calibrations={"caption": fit(*judged(100))})
    assert Stored.model_validate_json(stored.model_dump_json()) == stored
    assert Calibration(**asdict(stored.calibrations["caption"])) == stored.calibrations["caption"]
    for damaged in ({"scale": -1.0, "shift": 0.0}, {"scale": 1.0, "shift": float("nan")}, {"scale": 1.0, "b": 0.0}):
        with pytest.raises(ConfigError, match=r"judge.json.*\n.*calibrations.caption"):
            checked(Stored, {"calibrations": {"caption": damaged}}, "judge.json")
    with pytest.raises(ValidationError):
        Calibration(0.0, 1.0)


def test_the_error_of_two_bins_by_hand() -> None:
    probabilities, labels = [0.1, 0.3, 0.6, 0.8], [False, True, True, True]
    assert calibration_error(probabilities, labels, bins=2) == pytest.approx((abs(0.2 - 0.5) + abs(0.7 - 1.0)) / 2)
    assert calibration_error(probabilities, labels, bins=1) == pytest.approx(abs(0.45 - 0.75))


def test_without_ties_bins_have_as_many_rows_as_numpy_gives_parts_of_a_list() -> None:
    values = np.random.default_rng(0).random(1_000)
    place = equal_mass(values, 10)
    assert np.bincount(place).tolist() == [100] * 10
    for number, part in enumerate(np.array_split(np.argsort(values), 10)):
        assert set(place[part]) == {number}


grid = st.integers(0, 8).map(lambda k: k / 8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(grid, st.booleans()), min_size=1, max_size=40), st.integers(1, 12), st.randoms())
def test_ties_stay_together_in_the_bin_of_their_middle_in_whichever_order(
    rows: list[tuple[float, bool]], bins: int, random: Any
) -> None:
    values, labels = (np.array(column) for column in zip(*rows, strict=True))
    place, ranked = equal_mass(values, bins), sorted(values)
    for value, bin_ in zip(values, place, strict=True):
        spots = [k + 0.5 for k, other in enumerate(ranked) if other == value]
        assert bin_ == int(bins * np.mean(spots) / len(rows) + 1e-12)
    gaps = [
        here.sum() / len(rows) * abs(values[here].mean() - labels[here].mean())
        for here in (place == number for number in set(place))
    ]
    found = calibration_error(values, labels, bins)
    assert found == pytest.approx(sum(gaps))
    random.shuffle(rows)
    assert calibration_error(*zip(*rows, strict=True), bins) == pytest.approx(found)


def test_a_perfect_model_shows_the_error_that_a_simulation_gives_it() -> None:
    rng = np.random.default_rng(5)
    values = rng.beta(0.5, 0.5, 600)
    mean, low, high = perfect_calibration_error(values, draws=400, seed=1)
    seen = [calibration_error(values, rng.random(600) < values) for _ in range(400)]
    assert mean == pytest.approx(np.mean(seen), rel=0.04)
    assert [low, high] == pytest.approx(np.quantile(seen, [0.025, 0.975]), rel=0.12)
    assert perfect_calibration_error(values, draws=400, seed=1) == (mean, low, high)


def test_the_error_of_a_perfect_model_in_one_bin_is_that_of_a_mean_of_coins() -> None:
    mean, low, high = perfect_calibration_error(np.full(2_500, 0.5), bins=1, draws=4_000)
    deviation = 0.5 / 50
    assert mean == pytest.approx(deviation * sqrt(2 / np.pi), rel=0.05)
    assert (low, high) == (pytest.approx(0, abs=0.05 * deviation), pytest.approx(2.2414 * deviation, rel=0.06))
    assert perfect_calibration_error([0.0, 1.0, 1.0]) == (0, 0, 0)


def test_a_calibrated_judge_errs_as_chance_does_and_one_that_is_too_sure_more() -> None:
    scores, labels = judged(4_000)
    test_scores, test_labels = judged(4_000, seed=1)
    tamed = fit(scores, labels).probability(test_scores)
    assert calibration_error(tamed, test_labels) <= perfect_calibration_error(tamed)[2]
    raw = Calibration(1.0, 0.0).probability(test_scores)
    assert calibration_error(raw, test_labels) > 3 * perfect_calibration_error(raw)[2]
    loss = [-(xlogy(test_labels, p) + xlogy(~test_labels, 1 - p)).mean() for p in (tamed, np.clip(raw, 1e-9, 1 - 1e-9))]
    assert loss[0] < loss[1]


def test_the_rows_of_a_reliability_picture_have_wilson_intervals_and_leave_nobody_out() -> None:
    values, labels = judged(300)
    probabilities = Calibration(0.4, -1.0).probability(values)
    bins = reliability(probabilities, labels, 7)
    assert sum(one.count for one in bins) == 300
    assert sum(one.count * one.share for one in bins) == pytest.approx(labels.sum())
    assert sum(one.count * one.probability for one in bins) == pytest.approx(probabilities.sum())
    assert [one.probability for one in bins] == sorted(one.probability for one in bins)
    z = 1.959963984540054
    for one in bins:
        n, p = one.count, one.share
        middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        wilson = [(middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)]
        assert [one.low, one.high] == pytest.approx(wilson, abs=1e-9)
    gaps = sum(one.count / 300 * abs(one.share - one.probability) for one in bins)
    assert gaps == pytest.approx(calibration_error(probabilities, labels, 7))


def test_one_probability_is_one_bin() -> None:
    assert [one.count for one in reliability([0.25] * 8, [True, False] * 4)] == [8]
    assert calibration_error([0.25] * 8, [True, False] * 4) == pytest.approx(0.25)


def test_what_is_no_probability_and_no_number_of_bins_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 of 3 are no probabilities: scores need a calibration first"):
        calibration_error([0.1, 1.5, float("nan")], [True, False, True])
    with pytest.raises(ValueError, match="bins=0"):
        perfect_calibration_error([0.1, 0.5], bins=0)
