"""Exact matches and top-k."""

from __future__ import annotations

import pytest

from latefuse.evaluation.classification import exact_match, naming_scores


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
