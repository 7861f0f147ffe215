"""Every check finds the leak that was planted, and is quiet where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.data import leaks
from latefuse.data.near import Near
from latefuse.data.splits import TEST, TRAIN, VALID

CODES = np.array([TRAIN, TEST, VALID, TRAIN], np.int8)


def shared(content: list[int], unit: list[int]) -> leaks.Finding:
    uses = np.array(content, np.int32), np.array(unit, np.int32)
    return leaks.shared(*uses, CODES, lambda c: f"medium {c}", lambda u: f"item {u}", "media")


def test_a_medium_in_train_and_test_is_named() -> None:
    finding = shared([5, 5, 6], [0, 1, 1])
    assert (finding.passed, finding.found, finding.elsewhere) == (False, 1, 0)
    assert finding.examples == ("medium 5: item 0 (train) and item 1 (test)",)


def test_a_medium_within_one_item_or_one_split_is_fine() -> None:
    assert shared([1, 1, 2, 2], [1, 1, 0, 3]).passed
    assert shared([], []).passed
    valid_and_train = shared([1, 1], [0, 2])
    assert (valid_and_train.passed, valid_and_train.elsewhere) == (True, 1)


def near(first: list[int], pairs: list[list[int]], unit: list[int]) -> leaks.Finding:
    found = Near(np.array(first), np.array(pairs, np.int64).reshape(-1, 2), 0)
    return leaks.near_texts(found, np.array(unit), CODES, lambda u: f"item {u}", 0.8)


def test_texts() -> None:
    assert near([0, 1, 2], [], [0, 1, 2]).passed
    same = near([0, 1, 0], [], [3, 2, 1])
    assert (same.found, same.examples) == (1, ("item 3 (train) and item 1 (test)",))
    alike = near([0, 1, 2], [[0, 2]], [1, 2, 0])
    assert (alike.found, alike.examples) == (1, ("item 0 (train) and item 1 (test)",))
    behind_a_copy = near([0, 0, 2], [[0, 2]], [2, 0, 1])
    assert (behind_a_copy.found, behind_a_copy.elsewhere) == (1, 1)
    assert near([0, 1], [[0, 1]], [0, 3]).passed


def test_time_order() -> None:
    codes = np.array([TRAIN, TRAIN, VALID, TEST])
    assert leaks.time_order(np.array([1, 2, 3, 4]), codes).passed
    assert not leaks.time_order(np.array([1, 3, 3, 4]), codes).passed
    assert leaks.time_order(np.array([1, 9, 3, 4]), codes).found == 2
    assert leaks.time_order(np.array([9, 1]), np.array([TRAIN, TRAIN])).passed


def test_a_review_of_what_a_user_has_later_only() -> None:
    """User 0 has item 5 in train and in test, 6 in valid, 7 in test; user 1 item 7 in train."""
    events = np.array([0, 0, 0, 0, 1]), np.array([5, 6, 7, 5, 7]), np.array([TRAIN, VALID, TEST, TEST, TRAIN])
    user, item = np.array([0, 0, 0, 1, 0]), np.array([5, 6, 7, 7, 8])
    assert leaks.held_pairs(user, item, np.array([TRAIN, VALID, TEST, TRAIN, TRAIN]), events).passed
    assert leaks.held_pairs(user, item, np.array([TRAIN, TRAIN, VALID, TRAIN, TRAIN]), events).found == 2
    assert leaks.held_pairs(user, item, np.array([TRAIN, -1, -1, TRAIN, TRAIN]), events).passed


def test_order_per_user() -> None:
    user, codes = np.array([0, 0, 0, 1]), np.array([TRAIN, VALID, TEST, TRAIN])
    assert leaks.user_order(user, np.array([1, 1, 2, 99]), codes).passed
    assert leaks.user_order(user, np.array([5, 1, 2, 99]), codes).found == 2


def test_pairs() -> None:
    codes = np.array([TRAIN, TEST, VALID])
    assert leaks.pair_disjoint(np.array([1, 2, 3]), np.array([2, 3, 4]), codes, 9).passed
    assert leaks.pair_disjoint(np.array([1, 2, 3]), np.array([2, 1, 4]), codes, 9).found == 1


def histories(users: int = 200, items: int = 300, length: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Popular items again and again, and after one of them often the same other: what honest behaviour looks like."""
    draw = np.random.default_rng(0)
    weight = 1 / np.arange(1, items + 1)
    item = np.concatenate([draw.choice(items, length, replace=False, p=weight / weight.sum()) for _ in range(users)])
    user = np.repeat(np.arange(users), length)
    return user, item, draw.permutation(users * length)


def test_permuted_numbers_tell_nothing() -> None:
    user, item, ts = histories()
    for seed in range(20):
        number = np.random.default_rng(seed).permutation(300)
        assert leaks.number_order(number, item, ts).passed
        assert leaks.next_number(number, user, item, ts).passed


def test_numbers_in_the_order_of_first_appearance_are_found() -> None:
    _, item, ts = histories()
    order = item[np.argsort(ts)]
    _, first = np.unique(order, return_index=True)
    number = np.empty(300, np.int64)
    seen = order[np.sort(first)]
    number[seen] = np.arange(len(seen))
    number[np.setdiff1d(np.arange(300), seen)] = np.arange(len(seen), 300)
    finding = leaks.number_order(number, item, ts)
    assert not finding.passed
    assert "+1.000" in finding.detail


def test_numbers_given_user_by_user_are_found() -> None:
    """P5's way: items are numbered while walking each user's history, so that the next is often the previous + 1."""
    user, item, ts = histories()
    walk = item[np.lexsort((ts, user))]
    number = {one: place for place, one in enumerate(dict.fromkeys(walk.tolist()))}
    numbers = np.array([number.get(one, len(number) + one) for one in range(300)])
    finding = leaks.next_number(numbers, user, item, ts)
    assert not finding.passed
    assert "previous id + 1 anywhere" in finding.detail


def test_the_highest_number_so_far_is_a_probe_of_its_own() -> None:
    """Every user's last item is one above the highest before, which is not the item just before."""
    user = np.repeat(np.arange(50), 3)
    item = np.stack([3 * np.arange(50) + 1, 3 * np.arange(50), 3 * np.arange(50) + 2], axis=1).ravel()
    finding = leaks.next_number(np.arange(150), user, item, np.tile([1, 2, 3], 50))
    assert "previous id + 1 into the last row: 0 of 50" in finding.detail
    assert "highest id + 1 into the last row: 50 of 50" in finding.detail
    assert not finding.passed


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_to_tell(n: int) -> None:
    few = np.arange(n)
    assert leaks.number_order(few, few, few).passed
    assert leaks.next_number(few, few, few, few).passed
