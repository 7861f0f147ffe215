"""Floors of next items against loops over users, items and steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latefuse.evaluation import sequence_floors as floors
from latefuse.evaluation.next_item import full, row_values
from latefuse.evaluation.retrieval import Scorer
from latefuse.evaluation.sequences import NextItems, Sequences

ITEMS = 14
RNG = np.random.default_rng(0)
LISTS = [RNG.choice(ITEMS - 1, RNG.integers(1, 9), replace=False).tolist() for _ in range(40)] + [[]]
TRAIN = Sequences.of(LISTS)
ASKED = NextItems(np.arange(41), TRAIN, np.full(41, ITEMS - 1))


def _all(score: Scorer) -> np.ndarray:
    return score.block(torch.arange(score.queries), slice(0, score.pool)).numpy()


def test_popularity_counts_training_alone() -> None:
    found = _all(floors.popularity(TRAIN, ASKED, ITEMS))
    flat = [item for row in LISTS for item in row]
    assert (found == [flat.count(item) for item in range(ITEMS)]).all()


def test_neighbours_by_the_users_they_share() -> None:
    found = _all(floors.item_knn(TRAIN, ASKED, ITEMS, last=3, decay=0.5))
    fans = [{user for user, row in enumerate(LISTS) if item in row} for item in range(ITEMS)]
    for user, row in enumerate(LISTS):
        for item in range(ITEMS):
            told = 0.0
            for age, other in enumerate(row[::-1][:3]):
                if other != item and fans[item] and fans[other]:
                    told += 0.5**age * len(fans[item] & fans[other]) / np.sqrt(len(fans[item]) * len(fans[other]))
            assert found[user, item] == pytest.approx(told)


def test_transitions_by_steps() -> None:
    found = _all(floors.markov(TRAIN, ASKED, ITEMS, window=3))
    counts = np.zeros((ITEMS, ITEMS))
    for row in LISTS:
        for place, item in enumerate(row):
            for distance in (1, 2, 3):
                if place + distance < len(row):
                    counts[item, row[place + distance]] += 1 / distance
    for user, row in enumerate(LISTS):
        told = sum((counts[item] / (age + 1) for age, item in enumerate(row[::-1][:3])), np.zeros(ITEMS))
        assert found[user] == pytest.approx(told)


def test_an_item_that_comes_twice_is_one_neighbour_and_histories_stay_as_they_are() -> None:
    twice = Sequences.of([[3, 1, 3], [3, 1], [2, 1]])
    before = twice.indices.copy()
    asked = NextItems(np.arange(1), Sequences.of([[1]]), np.array([0]))
    assert _all(floors.item_knn(twice, asked, 5))[0] == pytest.approx([0, 0, 1 / 3**0.5, 2 / 6**0.5, 0])
    assert (twice.indices == before).all()


def test_numbers_in_order_behind_the_highest_and_the_last() -> None:
    number = np.array([4, 0, 2, 1, 3])
    asked = NextItems(np.arange(3), Sequences.of([[1, 2, 3], [0, 1], []]), np.array([0, 2, 3]))
    highest = np.argsort(-_all(floors.next_number(number, asked)), axis=1)
    assert number[highest].tolist() == [[3, 4, 0, 1, 2], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    last = np.argsort(-_all(floors.next_number(number, asked, highest=False)), axis=1)
    assert number[last].tolist() == [[2, 3, 4, 0, 1], [1, 2, 3, 4, 0], [0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="no permutation"):
        floors.next_number(np.array([1, 2, 3, 4, 5]), asked)


def test_the_probe_finds_numbers_given_in_order_of_appearance_and_chance_where_they_are_drawn() -> None:
    rng, items = np.random.default_rng(1), 900
    lists = [rng.choice(items, 6, replace=False) for _ in range(600)]
    history, target = Sequences.of([row[:-1] for row in lists]), np.array([row[-1] for row in lists])
    asked = NextItems(np.arange(600), history, target)
    in_order = np.full(items, -1)
    for row in lists:
        for item in row[in_order[row] < 0]:
            in_order[item] = in_order.max() + 1
    in_order[in_order < 0] = np.arange((in_order >= 0).sum(), items)
    for highest in (True, False):
        drawn = row_values(full(floors.next_number(rng.permutation(items), asked, highest), asked))
        leaking = row_values(full(floors.next_number(in_order, asked, highest), asked))
        assert drawn["hr_at_10"].mean() < 0.03
        assert leaking["hr_at_1"].mean() > 0.1


def test_every_floor_has_words() -> None:
    assert set(floors.PROBES) < set(floors.MEANINGS)
