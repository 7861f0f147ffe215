"""Popularity beside a score: by hand, and the weight that finds most on questions with a known answer."""

from __future__ import annotations

import torch
from torch import Tensor

from latefuse.evaluation import prior, retrieval
from latefuse.evaluation.pool import Questions
from latefuse.evaluation.retrieval import Scorer

POPULARITY = torch.tensor([0.0, 5.0, 1.0, 0.0])


def scorer(query: Tensor) -> Scorer:
    """Items 0 and 3 look like every query, item 1 a little less, item 2 not at all."""
    return retrieval.dot(torch.ones(len(query), 1), torch.tensor([[1.0], [0.8], [0.0], [1.0]]))


def questions(target: int) -> Questions:
    number = torch.arange(2)
    everything = torch.ones(4, dtype=torch.bool)
    return Questions(number, torch.full((2,), target), number, everything, torch.zeros(2, 0, dtype=torch.int64))


def test_the_prior_is_added_to_blocks_and_pairs() -> None:
    found = prior.with_prior(scorer(torch.arange(2)), 0.1 * POPULARITY)
    torch.testing.assert_close(found.block(torch.tensor([1]), slice(1, 4)), torch.tensor([[1.3, 0.1, 1.0]]))
    torch.testing.assert_close(found.pairs(torch.tensor([0, 1]), torch.tensor([1, 2])), torch.tensor([1.3, 0.1]))
    assert retrieval.ranks(found, torch.tensor([1]), torch.tensor([0])).tolist() == [0]
    plain = scorer(torch.arange(2))
    assert prior.with_prior(plain, 0 * POPULARITY) is plain


def test_counts_are_of_both_ends() -> None:
    found = prior.log_counts(torch.tensor([(0, 1), (1, 2), (1, 1)]), 4)
    torch.testing.assert_close(found.exp() - 1, torch.tensor([1.0, 4.0, 1.0, 0.0]))


def test_the_weight_is_the_first_of_those_that_find_most() -> None:
    weights = (0.0, 0.01, 0.1, 0.5, 9.0)
    assert prior.best_weight(scorer, questions(1), POPULARITY, weights, 1) == 0.1
    assert prior.best_weight(scorer, questions(1), POPULARITY, (9.0, *weights), 1) == 9.0
    # Item 2 can't be first whatever the weight, and among the first two only where popularity decides.
    assert prior.best_weight(scorer, questions(2), POPULARITY, weights, 1) == 0.0
    assert prior.best_weight(scorer, questions(2), POPULARITY, weights, 2) == 9.0


def test_a_large_prior_makes_no_target_come_before_the_first() -> None:
    draw = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(500, 64, generator=draw), dim=1)
    counts = torch.randint(0, 100, (500,), generator=draw).float().log1p()
    number = torch.arange(500)
    found = prior.with_prior(retrieval.dot(vectors, vectors), 10 * counts)
    assert int(retrieval.ranks(found, (number * 7 + 3) % 500, number).min()) >= 0
