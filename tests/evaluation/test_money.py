"""Values by hand, and the best threshold against trying all of them."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.evaluation import money
from latefuse.evaluation.thresholds import ABOVE_ALL

RNG = np.random.default_rng(0)
SAID = RNG.random(200).round(2)
LABELS = RNG.random(200) < SAID


@pytest.mark.parametrize(("gain", "loss"), [(1.0, 0.2), (1.0, 3.0), (0.1, 5.0), (2.0, 0.0)])
def test_the_best_threshold_is_the_best_of_all(gain: float, loss: float) -> None:
    tried = {}
    for threshold in [ABOVE_ALL, *np.unique(SAID)]:
        called = np.greater_equal(SAID, threshold)
        tried[threshold] = 1_000 * (gain * (called & LABELS).sum() - loss * (called & ~LABELS).sum()) / 200
    found = money.best(SAID, LABELS, gain, loss)
    assert found.value == pytest.approx(max(tried.values()))
    assert found.value == pytest.approx(tried[found.threshold])
    assert found.threshold == max(t for t, value in tried.items() if value == pytest.approx(found.value))
    assert found.share == pytest.approx(np.greater_equal(SAID, found.threshold).mean())


def test_the_curve_begins_with_nothing_and_ends_with_everything() -> None:
    thresholds, share, value = money.value_curve([0.9, 0.1, 0.5, 0.5], [True, False, True, False], 2.0, 1.0)
    assert thresholds[1:].tolist() == [0.9, 0.5, 0.1]
    assert share.tolist() == [0, 0.25, 0.75, 1]
    assert value.tolist() == [0, 500, 750, 500]


def test_right_probabilities_are_best_used_from_the_break_even_on() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.random(200_000)
    labels = rng.random(200_000) < probabilities
    found = money.best(probabilities, labels, 1.0, 0.25)
    assert money.break_even(1.0, 0.25) == pytest.approx(0.2)
    assert found.threshold == pytest.approx(0.2, abs=0.03)
    at_even = money.values(labels, 1.0, 0.25) * (probabilities >= 0.2)
    assert 1_000 * at_even.mean() == pytest.approx(found.value, abs=2)


def test_without_a_gain_nothing_is_recommended() -> None:
    for gain, loss in ((0.0, 1.0), (0.0, 0.0)):
        found = money.best(SAID, LABELS, gain, loss)
        assert (found.value, found.share) == (0, 0)
        assert found.threshold > 1 < found.break_even


def test_no_rows_and_no_probabilities_are_refused() -> None:
    with pytest.raises(ValueError, match="one row or more"):
        money.best([], [], 1.0, 1.0)
    with pytest.raises(ValueError, match="no probabilities"):
        money.best([1.5], [True], 1.0, 1.0)
