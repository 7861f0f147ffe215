"""Who follows whom within a window, for many users at once: each answer once, at a cost bounded by events and items."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.data import windows

Rows = list[tuple[int, int, int, bool, bool]]


def laid(rows: Iterable[tuple[int, int, int, bool, bool]], window: int, max_items: int = 100) -> windows.Histories:
    ordered = sorted(rows, key=lambda row: (row[0], row[2]))
    user, item, ts = (np.array([row[k] for row in ordered], np.int64) for k in range(3))
    first, second = (np.array([row[k] for row in ordered], bool) for k in (3, 4))
    return windows.histories(user, item, ts, first, second, window, max_items)


def followed(events: windows.Histories, step: int) -> list[tuple[int, int, int]]:
    parts = list(windows.distinct_pairs(events, windows.spans(events), step))
    return [row for part in parts for row in zip(*(column.tolist() for column in part), strict=True)]


ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 9), st.booleans(), st.booleans()), max_size=25
)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.integers(0, 9), st.integers(1, 9))
def test_each_pair_of_a_user_comes_once_with_the_size_of_the_history(rows: Rows, window: int, step: int) -> None:
    size = {user: len({row[1] for row in rows if row[0] == user}) for user, *_ in rows}
    wanted = {
        (one[0], one[1], other[1])
        for one in rows
        for other in rows
        if one[0] == other[0] and one[1] != other[1] and one[3] and other[4] and 0 <= other[2] - one[2] <= window
    }
    found = followed(laid(rows, window), step)
    assert sorted(found) == sorted((a, b, size[user]) for user, a, b in wanted)


def test_a_user_with_many_events_on_few_items_costs_events_times_items() -> None:
    n, items = 20_000, 4
    events = laid(((0, at % items, at, True, True) for at in range(n)), 10**6)
    spans = windows.spans(events)
    assert int((spans.stop - spans.start).sum()) <= n * items
    assert sorted(followed(events, 1_000)) == [(a, b, items) for a in range(items) for b in range(items) if a != b]


def test_of_too_many_items_the_latest_stay() -> None:
    rows = [(0, item, ts, True, True) for item, ts in ((5, 0), (5, 9), (1, 3), (2, 4), (4, 8), (3, 8))]
    assert sorted(followed(laid(rows, 99, max_items=2), 9)) == [(3, 5, 2), (5, 3, 2)]
    assert {a for a, _, _ in followed(laid(rows, 99, max_items=3), 9)} == {3, 4, 5}


@pytest.mark.parametrize("keys", [[], [3], [3, 1, 3, 2, 1]])
def test_distinct(keys: list[int]) -> None:
    assert windows.distinct(np.array(keys, np.int64)).tolist() == sorted(set(keys))
