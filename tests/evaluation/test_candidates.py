"""Candidates: never seen, all different, evenly drawn, the same again."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import chisquare

from latefuse.evaluation.candidates import draw_candidates
from latefuse.evaluation.sequences import Sequences


def _seen(n: int, items: int, rng: np.random.Generator) -> Sequences:
    return Sequences.of([rng.choice(items, rng.integers(1, 20), replace=False) for _ in range(n)])


def test_none_was_seen_and_the_target_is_there_once() -> None:
    rng = np.random.default_rng(0)
    seen, items = _seen(300, 150, rng), 150
    target = np.array([seen[row][-1] for row in range(300)])
    found = draw_candidates(seen, target, items, 100, seed=3)
    assert found.shape == (300, 100)
    assert found.dtype == np.int64
    for row, wanted in enumerate(target):
        assert len(set(found[row].tolist())) == 100
        assert set(found[row].tolist()) & set(seen[row].tolist()) == {wanted}
        assert found[row].min() >= 0
        assert found[row].max() < items
    assert (found == draw_candidates(seen, target, items, 100, seed=3)).all()
    assert (found != draw_candidates(seen, target, items, 100, seed=4)).any()


def test_places_and_items_are_drawn_evenly() -> None:
    n, items = 20_000, 12
    seen = Sequences.of([[2, 7, 11]] * n)
    found = draw_candidates(seen, np.full(n, 7), items, 5)
    places = np.bincount((found == 7).argmax(axis=1), minlength=5)
    assert chisquare(places).pvalue > 1e-4
    others = np.bincount(found.ravel(), minlength=items)
    assert others[[2, 11]].tolist() == [0, 0]
    assert chisquare(np.delete(others, [2, 7, 11])).pvalue > 1e-4
    first = np.bincount(found[:, 0], minlength=items)
    assert chisquare(np.delete(first, [2, 7, 11])).pvalue > 1e-4


def test_a_sparse_matrix_will_do_and_exactly_enough_items_too() -> None:
    seen = csr_array(np.array([[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]))
    found = draw_candidates(seen, [4, 2], 5, 3)
    assert sorted(found[0].tolist()) == [2, 3, 4]
    with pytest.raises(ValueError, match="row 0: 2 of 5 items are left, 3 are wanted"):
        draw_candidates(seen, [4, 2], 5, 4)


def test_what_does_not_fit_is_refused() -> None:
    seen = Sequences.of([[0], [1]])
    with pytest.raises(ValueError, match="row 1: target 9 is no item"):
        draw_candidates(seen, [0, 9], 5, 2)
    with pytest.raises(ValueError, match="1 targets but 2 rows"):
        draw_candidates(seen, [0], 5, 2)
