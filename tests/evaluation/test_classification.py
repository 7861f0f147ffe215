"""Ranks with ties, and exact matches."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.evaluation.classification import exact_match, naming_scores, ranks


def test_ranks_against_sorting() -> None:
    rng = np.random.default_rng(0)
    scores = rng.permutation(50 * 640).reshape(50, 640).astype(float)
    truth = rng.integers(0, 640, 50)
    order = np.argsort(-scores, axis=1)
    expected = [int(np.flatnonzero(order[row] == truth[row])[0]) for row in range(50)]
    assert ranks(scores, truth).tolist() == expected


def test_ties_count_against_us() -> None:
    assert ranks(np.zeros((1, 10)), np.array([3])).tolist() == [9]
    assert naming_scores(9) == {"dish_top1": (0.0, 1), "dish_top5": (0.0, 1)}


def test_names_that_are_impossible_stay_below() -> None:
    scores = np.array([[-np.inf, -1.0, -2.0]])
    assert ranks(scores, np.array([1])).tolist() == [0]
    assert ranks(scores, np.array([0])).tolist() == [2]


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1"):
        ranks(np.array([[0.0, 1.0], [np.nan, 0.0]]), np.array([0, 0]))


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("Peanuts and  milk.", "peanuts and milk", 1.0),
        ("peanuts , milk", "peanuts, milk", 1.0),
        ("milk", "peanuts and milk", 0.0),
        ("", "none", 0.0),
    ],
)
def test_exact_match(answer: str, reference: str, same: float) -> None:
    assert exact_match(answer, reference) == (same, 1)


@pytest.mark.parametrize(("rank", "top1", "top5"), [(0, 1, 1), (1, 0, 1), (4, 0, 1), (5, 0, 0)])
def test_top_k(rank: int, top1: float, top5: float) -> None:
    assert naming_scores(rank) == {"dish_top1": (top1, 1), "dish_top5": (top5, 1)}
