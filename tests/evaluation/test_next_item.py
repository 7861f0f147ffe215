"""Places, hit rates and NDCG against brute force and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score, top_k_accuracy_score

from latefuse.evaluation import next_item
from latefuse.evaluation.arms_summary import label
from latefuse.evaluation.floors import by_rows
from latefuse.evaluation.next_item import UNLISTED, among, full, listed, row_values, sampled
from latefuse.evaluation.retrieval import Scorer
from latefuse.evaluation.sequences import NextItems, Sequences

RNG = np.random.default_rng(0)
N, ITEMS = 700, 60
SCORES = RNG.normal(size=(N, ITEMS))


def _scorer(scores: np.ndarray) -> Scorer:
    table = torch.from_numpy(scores)
    return by_rows(lambda rows: table[rows], *scores.shape)


def _asked(history: list[list[int]] | None = None) -> NextItems:
    rows = history or [RNG.choice(ITEMS - 1, 5, replace=False).tolist() for _ in range(N)]
    return NextItems(np.arange(len(rows)), Sequences.of(rows), np.full(len(rows), ITEMS - 1))


def _candidates(asked: NextItems, count: int) -> np.ndarray:
    """The target, at any place, and others that are not in the history."""
    rows = []
    for history, target in zip(map(asked.history.__getitem__, range(len(asked))), asked.target, strict=True):
        free = np.setdiff1d(np.arange(ITEMS), [*history, target])
        rows.append(RNG.permutation([target, *RNG.choice(free, count - 1, replace=False)]))
    return np.stack(rows)


def test_the_full_catalogue_is_that_of_a_sort() -> None:
    asked = _asked()
    places = full(_scorer(SCORES), asked)
    for row in range(N):
        kept = [item for item in range(ITEMS) if item not in asked.history[row]]
        order = sorted(kept, key=lambda item: -SCORES[row, item])
        assert places[row] == order.index(ITEMS - 1)


def test_values_are_those_of_scikit_learn() -> None:
    """With histories empty nothing is left out, which scikit-learn can't."""
    target = RNG.integers(0, ITEMS, N)
    asked = NextItems(np.arange(N), Sequences.of([[]] * N), target)
    values = row_values(full(_scorer(SCORES), asked))
    truth = np.eye(ITEMS)[target]
    for k in (1, 5, 10):
        assert values[f"hr_at_{k}"].mean() == pytest.approx(top_k_accuracy_score(target, SCORES, k=k))
        assert values[f"ndcg_at_{k}"].mean() == pytest.approx(ndcg_score(truth, SCORES, k=k))
    assert (values["hr_at_1"] == values["ndcg_at_1"]).all()


def test_lists_give_what_scores_give() -> None:
    target = RNG.integers(0, ITEMS, N)
    ranked = np.argsort(-SCORES, axis=1)
    asked = NextItems(np.arange(N), Sequences.of([[]] * N), target)
    whole = full(_scorer(SCORES), asked)
    assert (listed(ranked, target) == whole).all()
    assert (listed(ranked[:, :20], target) == np.where(whole < 20, whole, UNLISTED)).all()
    assert (listed(ranked[:, :20], target, -np.sort(-SCORES, axis=1)[:, :20])[whole < 20] == whole[whole < 20]).all()


def test_ties_count_against_us() -> None:
    same = _scorer(np.zeros((N, ITEMS)))
    assert (full(same, _asked()) == ITEMS - 1 - 5).all()
    assert (among(same, _candidates(_asked(), 10), np.full(N, ITEMS - 1)) == 9).all()
    lists, scores = np.array([[3, 1, 2, 5]]), np.array([[0.5, 0.2, 0.2, 0.1]])
    assert listed(lists, [1], scores).tolist() == [2]
    assert listed(lists, [1]).tolist() == [1]
    assert listed(lists, [9], scores).tolist() == [UNLISTED]


def test_what_is_no_item_takes_its_place() -> None:
    lists = [[-1, 4, -1, 7], [4, -1, -1, -1], [-1, -1, -1, -1]]
    assert listed(lists, [7, 4, 4]).tolist() == [3, 0, UNLISTED]
    assert listed(np.zeros((2, 0), int), [1, 1]).tolist() == [UNLISTED] * 2
    values = row_values(listed(lists, [7, 4, 4]), ks=(1, 5))
    assert values["hr_at_1"].tolist() == [0, 1, 0]
    assert values["hr_at_5"].tolist() == [1, 1, 0]
    assert values["ndcg_at_5"] == pytest.approx([1 / np.log2(5), 1, 0])


def test_lists_that_can_not_be_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1: item 3 is listed twice"):
        listed([[1, 2, -1, -1], [3, 1, 3, -1]], [1, 1])
    with pytest.raises(ValueError, match="row 0: its scores rise"):
        listed([[1, 2]], [1], [[0.1, 0.2]])
    with pytest.raises(ValueError, match="row 0: its scores rise, or are no numbers"):
        listed([[1, 2]], [1], [[np.nan, 0.2]])
    with pytest.raises(ValueError, match="expected \\(n, K\\)"):
        listed([[1, 2]], [1, 2])


def test_a_sample_is_ranked_like_the_catalogue_without_the_rest() -> None:
    asked = _asked()
    candidates = _candidates(asked, 20)
    places = among(_scorer(SCORES), candidates, asked.target)
    for row in range(N):
        mine = SCORES[row, candidates[row]]
        assert places[row] == (mine > SCORES[row, ITEMS - 1]).sum()
    assert (places <= full(_scorer(SCORES), asked)).all()
    every = _candidates(asked, ITEMS - 5)
    assert (among(_scorer(SCORES), every, asked.target) == full(_scorer(SCORES), asked)).all()


def test_a_sample_without_its_target_or_with_scores_that_are_none_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1: its target 3 is not among its candidates once"):
        among(_scorer(SCORES), np.array([[3, 1], [1, 2]]), np.array([3, 3]))
    broken = np.where(np.arange(ITEMS) == 2, np.nan, SCORES)
    with pytest.raises(ValueError, match="question 1: a score is not finite"):
        among(_scorer(broken), np.array([[3, 1], [3, 2]]), np.array([3, 3]))


def test_names_say_the_protocol() -> None:
    protocol = sampled(100)
    assert list(row_values(np.array([0]), (10,), protocol)) == ["hr_at_10/sampled-100", "ndcg_at_10/sampled-100"]
    assert label("hr_at_10/sampled-100") == "HR@10, sampled@100"
    assert label("ndcg_at_10") == "NDCG@10"
    assert next_item.names() == ["hr_at_10", "ndcg_at_10", "hr_at_1", "ndcg_at_1", "hr_at_5", "ndcg_at_5"]
    assert set(next_item.names((5,), protocol)) == set(row_values(np.array([0]), (5,), protocol))


def test_slices() -> None:
    asked = NextItems(np.arange(4), Sequences.of([[1], [2], [2, 3, 4], [4, 5, 6]]), np.array([0, 1, 2, 3]))
    trained, pictured = np.array([0, 2, 1, 1, 0]), np.array([True, True, False, True, True])
    found = next_item.slices(asked, trained, pictured)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "cold": [0], "no picture": [2], "short history": [0, 1], "longer history": [2, 3],
    }  # fmt: skip
    assert next_item.slices(asked.take([1]), trained, np.ones(5, bool)) == {}
