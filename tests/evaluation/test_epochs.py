"""The epoch that is kept, and when it stops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from latefuse.evaluation.epochs import Chosen, best_epoch


def _train(scores: list[float], most: int = 99, patience: int = 2) -> tuple[Chosen, float, int]:
    """A model whose weight is the epoch: what was chosen, the weight that is left, epochs trained."""
    model, told = nn.Linear(1, 1), iter(scores)
    nn.init.zeros_(model.weight)

    def epoch() -> None:
        assert model.training
        with torch.no_grad():
            model.weight += 1

    def score(of: Iterator[float] = told) -> float:
        assert not model.training
        return next(of)

    found = best_epoch(model, epoch, score, most, patience)
    return found, model.weight.item(), len(found.curve) - 1


def test_the_best_is_kept_and_of_equals_the_first() -> None:
    assert _train([0.1, 0.3, 0.2, 0.5, 0.5, 0.4]) == (Chosen(3, [0.1, 0.3, 0.2, 0.5, 0.5, 0.4]), 3.0, 5)


def test_the_untrained_may_be_the_best() -> None:
    assert _train([0.5, 0.3, 0.2, 0.9])[1:] == (0.0, 2)


def test_most_is_the_most() -> None:
    assert _train([0.1, 0.2, 0.3, 0.4], most=2)[1:] == (2.0, 2)


def test_a_score_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="epoch 1: the validation score is no number"):
        _train([0.1, float("nan")])
