"""Models without a network find what is there to find, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from latefuse.config import FLOORS
from latefuse.config_rank import Ranking
from latefuse.evaluation import rank_floors
from latefuse.evaluation.rank_floors import Lesson


def _table(rng: np.random.Generator, rows: int, crossed: bool) -> tuple[np.ndarray, np.ndarray]:
    table = rng.normal(size=(rows, 6)).astype(np.float32)
    sense = table[:, 0] * table[:, 1] if crossed else table[:, 0] - table[:, 1]
    labels = rng.random(rows) < 1 / (1 + np.exp(-3 * sense))
    table[rng.random((rows, 6)) < 0.05] = np.nan
    table[:, 5] = np.nan
    return table, labels


@pytest.mark.parametrize(("name", "crossed", "least", "most"), [
    ("logistic", False, 0.85, 0.97), ("logistic", True, 0.4, 0.6),
    ("trees", False, 0.8, 0.97), ("trees", True, 0.75, 0.95),
])  # fmt: skip
def test_what_is_found(name: str, crossed: bool, least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    train, valid, test = (_table(rng, rows, crossed) for rows in (3_000, 800, 2_000))
    fitted = getattr(rank_floors, name)(Lesson(*train, *valid))
    scores = fitted(test[0])
    assert scores.shape == (2_000,)
    assert np.isfinite(scores).all()
    assert least < roc_auc_score(test[1], scores) < most
    assert np.mean(1 / (1 + np.exp(-scores))) == pytest.approx(test[1].mean(), abs=0.05)  # they are log-odds


def test_what_validation_chooses_is_what_is_measured() -> None:
    """With features that mean nothing, the strongest penalty and few trees serve best: nearly one score for all."""
    rng = np.random.default_rng(1)
    train, valid = (rng.normal(size=(400, 40)).astype(np.float32) for _ in range(2))
    labels = rng.random(800) < 0.3
    for fit in (rank_floors.logistic, rank_floors.trees):
        scores = fit(Lesson(train, labels[:400], valid, labels[400:]))(valid)
        assert scores.std() < 0.6


def test_popularity_and_majority() -> None:
    liked = np.array([True] * 30 + [False] * 70)
    assert rank_floors.majority(liked, 3).tolist() == pytest.approx([np.log(31 / 71)] * 3)
    assert np.isfinite(rank_floors.majority(np.zeros(5, bool), 1)).all()
    assert (np.diff(rank_floors.popularity(np.array([0, 1, 10, 1000]))) > 0).all()


def test_their_names_are_taken_from_arms() -> None:
    assert set(rank_floors.names(Ranking())) == {"majority", "popularity", "logistic", "trees"} <= set(FLOORS)
    assert set(rank_floors.names(Ranking(controls=()))) == {"majority", "popularity"}
