"""Splits hang on ids, times and the seed alone, keep what was given, and tear nothing apart."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.data import splits
from latefuse.data.splits import NONE, TEST, TRAIN, VALID

KEYS = [f"item-{number}" for number in range(20_000)]


def none(n: int) -> np.ndarray:
    return np.full(n, NONE, np.int8)


def test_the_draw_is_the_hash_of_seed_and_id() -> None:
    digest = hashlib.sha256(b"7:item-3").digest()
    assert splits.uniform(["item-3"], 7)[0] == int.from_bytes(digest[:8], "big") / 2**64
    assert not np.array_equal(splits.uniform(KEYS[:5], 0), splits.uniform(KEYS[:5], 1))


def test_shares_are_as_asked_and_a_new_item_moves_no_other() -> None:
    drawn = splits.uniform(KEYS, 0)
    codes = splits.by_item(drawn, none(len(KEYS)), np.arange(len(KEYS)), 0.1, 0.2)
    assert np.bincount(codes) / len(KEYS) == pytest.approx([0.7, 0.1, 0.2], abs=0.01)
    fewer = splits.by_item(drawn[:100], none(100), np.arange(100), 0.1, 0.2)
    assert np.array_equal(codes[:100], fewer)


def test_groups_are_the_connected_components() -> None:
    assert splits.groups(6, np.array([[1, 4], [4, 5]])).tolist() == [0, 1, 2, 3, 1, 1]
    assert splits.groups(3, np.zeros((0, 2), np.int64)).tolist() == [0, 1, 2]


def test_a_group_shares_one_split_and_a_given_one_stays() -> None:
    drawn = splits.uniform(KEYS[:400], 0)
    group = np.arange(400) // 4 * 4
    codes = splits.by_item(drawn, none(400), group, 0.2, 0.2).reshape(100, 4)
    assert (codes == codes[:, :1]).all()
    assert len(np.unique(codes)) == 3
    told = none(400)
    told[[1, 9, 10]] = TEST, TRAIN, VALID
    codes = splits.by_item(drawn, told, group, 0.2, 0.2)
    assert codes[:4].tolist() == [TEST] * 4
    assert codes[8:12].tolist() == [VALID, TRAIN, VALID, VALID]


def test_an_official_split_without_valid_gets_it_from_train() -> None:
    told = np.array([TRAIN] * 800 + [TEST] * 200, np.int8)
    drawn = splits.uniform(KEYS[:1000], 0)
    group = np.arange(1000) // 2 * 2
    codes = splits.with_valid(told, drawn, group, 0.1, 0.2)
    assert (codes[800:] == TEST).all()
    assert (codes[::2] == codes[1::2]).all()
    assert 60 < (codes == VALID).sum() < 140
    assert np.array_equal(
        splits.with_valid(np.append(told, VALID), np.append(drawn, 0), np.arange(1001), 0.1, 0.2)[:-1], told
    )


def test_pairs_go_with_their_mirror_images() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 60, 3000), draw.integers(0, 60, 3000)
    names = [f"i{number}" for number in range(60)]
    codes = splits.by_pair(a, b, names, none(3000), 0, 0.1, 0.2)
    of: dict[frozenset[int], set[int]] = {}
    for one, other, code in zip(a.tolist(), b.tolist(), codes.tolist(), strict=True):
        of.setdefault(frozenset((one, other)), set()).add(code)
    assert all(len(found) == 1 for found in of.values())
    assert np.bincount(codes) / 3000 == pytest.approx([0.7, 0.1, 0.2], abs=0.03)
    order = draw.permutation(60)
    shuffled = [names[number] for number in order]
    place = np.argsort(order)
    assert np.array_equal(splits.by_pair(place[b], place[a], shuffled, none(3000), 0, 0.1, 0.2), codes)


def test_a_pair_has_the_split_of_both_ends_or_none() -> None:
    codes = np.array([TRAIN, TEST, TEST, VALID], np.int8)
    found = splits.of_both(np.array([0, 0, 1, 2, 3, 3]), np.array([0, 1, 2, 1, 3, 0]), codes)
    assert found.tolist() == [TRAIN, NONE, TEST, TEST, VALID, NONE]
    assert splits.NAMES[found].tolist() == ["train", None, "test", "test", "valid", None]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.sampled_from([(0.1, 0.1), (0.2, 0.3), (0.0, 0.5)]))
def test_the_time_cut_never_tears_a_second_apart(ts: list[int], shares: tuple[float, float]) -> None:
    times = np.array(ts)
    codes = splits.by_time(times, none(len(ts)), splits.time_cuts(times, *shares))
    for early, late in ((TRAIN, VALID), (TRAIN, TEST), (VALID, TEST)):
        if (codes == early).any() and (codes == late).any():
            assert times[codes == early].max() < times[codes == late].min()


def test_the_time_cut_holds_out_the_shares() -> None:
    times = np.random.default_rng(0).permutation(1000)
    codes = splits.by_time(times, none(1000), splits.time_cuts(times, 0.1, 0.2))
    assert np.bincount(codes).tolist() == [700, 100, 200]
    assert (splits.by_time(times, none(1000), splits.time_cuts(times, 0.0, 0.0)) == TRAIN).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), max_size=80))
def test_leave_one_out_against_the_plain_way(rows: list[tuple[int, int]]) -> None:
    user, ts = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    wanted = [TRAIN] * len(rows)
    for one in set(user.tolist()):
        history = sorted((at, place) for place, (who, at) in enumerate(rows) if who == one)
        if len(history) >= 3:
            wanted[history[-1][1]], wanted[history[-2][1]] = TEST, VALID
    assert splits.leave_one_out(user, ts, none(len(rows))).tolist() == wanted


def test_a_review_of_a_held_out_event_does_not_train() -> None:
    events = np.zeros(4, np.int64), np.array([1, 2, 3, 4]), np.array([TRAIN, TRAIN, VALID, TEST], np.int8)
    codes = splits.not_before(np.zeros(4, np.int8), np.array([0, 0, 0, 1]), np.array([2, 3, 4, 9]), events)
    assert codes.tolist() == [TRAIN, VALID, TEST, TRAIN]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=12),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12),
)
def test_the_least_held_out_event_of_a_pair(events: list[tuple[int, int, int]], rows: list[tuple[int, int]]) -> None:
    others = tuple(np.array([event[k] for event in events], np.int64) for k in range(3))
    user, item = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    wanted = [min((code for *pair, code in events if tuple(pair) == row), default=NONE) for row in rows]
    assert splits.first_codes(user, item, others).tolist() == wanted


def test_numbers_are_a_permutation_that_knows_nothing_of_the_split() -> None:
    number = splits.numbers(splits.uniform(KEYS, "number:0"))
    assert np.array_equal(np.sort(number), np.arange(len(KEYS)))
    test = splits.uniform(KEYS, 0) < 0.1
    assert number[test].mean() == pytest.approx(len(KEYS) / 2, rel=0.05)
