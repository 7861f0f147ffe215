"""The search of weights on functions whose best is known."""

from __future__ import annotations

import pytest

from latefuse.fusion.search import choose, search

GRID = (0.3, 0.6, 1.0)


def bowl(*best):
    """A separable loss with its least value at `best`, split over two tasks; counts its calls."""
    calls = []

    def evaluate(weights):
        calls.append(weights)
        loss = sum((w - b) ** 2 for w, b in zip(weights, best, strict=True))
        return {"a": loss + 1, "b": loss - 1}

    return evaluate, calls


def test_it_finds_the_best_of_a_separable_loss_and_tells_what_it_tried():
    evaluate, calls = bowl(1.0, 0.3, 0.6)
    best, tried = search(evaluate, 3, GRID, 30)
    assert best.weights == (1.0, 0.3, 0.6)
    assert best.loss == pytest.approx(0)
    assert [candidate.weights for candidate in tried] == calls
    assert len(calls) == len(set(calls)) <= 16
    assert best in tried
    assert all(best.loss <= candidate.loss for candidate in tried)
    assert best.nll == {"a": pytest.approx(1), "b": pytest.approx(-1)}


def test_equal_weights_come_first_or_the_given_start():
    evaluate, calls = bowl(1.0, 1.0)
    search(evaluate, 2, GRID, 3)
    assert calls == [(0.3, 0.3), (0.6, 0.6), (1.0, 1.0)]
    evaluate, calls = bowl(1.0, 1.0)
    best, _ = search(evaluate, 2, GRID, 99, start=(0.6, 1.0))
    assert calls[0] == (0.6, 1.0)
    assert best.weights == (1.0, 1.0)


@pytest.mark.parametrize("limit", [1, 2, 5, 7])
def test_it_never_tries_more_than_the_limit(limit):
    evaluate, calls = bowl(0.6, 0.3, 1.0)
    best, tried = search(evaluate, 3, GRID, limit)
    assert len(calls) == len(tried) == limit
    assert best.loss == min(candidate.loss for candidate in tried)


def test_it_never_tries_to_leave_everything_out():
    evaluate, calls = bowl(0.0, 0.0)
    search(evaluate, 2, (0.0, 1.0), 99)
    assert calls == [(1.0, 1.0), (0.0, 1.0)]  # then (0, 0) would be next
    with pytest.raises(ValueError, match=r"fusion\.grid"):
        search(evaluate, 2, (0.0,), 9)


def test_a_nan_is_never_chosen():
    best, _ = search(lambda weights: {"a": float("nan") if weights[0] != 0.6 else 2.0}, 1, GRID, 9)
    assert best.weights == (0.6,)


def test_later_methods_begin_where_the_first_ended_and_try_half_as_many():
    best = {"concat": (1.0, 0.6), "svd": (0.6, 0.6)}
    calls = []

    def evaluate(method, weights):
        calls.append((method, weights))
        return {"a": sum((w - b) ** 2 for w, b in zip(weights, best[method], strict=True))}

    found = choose(evaluate, ("concat", "svd"), 2, GRID, 8)
    assert {method: candidate.weights for method, (candidate, _) in found.items()} == best
    svd = [weights for method, weights in calls if method == "svd"]
    assert svd[0] == (1.0, 0.6)
    assert len(svd) <= 4 < len(calls) - len(svd)
