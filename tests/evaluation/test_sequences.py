"""Ragged histories against plain lists."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.data import splits
from latefuse.evaluation.sequences import NextItems, Sequences, held_out

LISTS = [[3, 1, 2], [], [0], [5, 4, 3, 2, 1]]


def test_rows_are_the_lists() -> None:
    found = Sequences.of(LISTS)
    assert [row.tolist() for row in map(found.__getitem__, range(4))] == LISTS
    assert found.lengths.tolist() == [3, 0, 1, 5]
    assert found.row_of.tolist() == [0, 0, 0, 2, 3, 3, 3, 3, 3]
    assert found.counts(7).tolist() == [1, 2, 2, 2, 1, 1, 0]
    again = found.take([3, 1, 3])
    assert [again[row].tolist() for row in range(3)] == [LISTS[3], [], LISTS[3]]
    assert found.last(4).tolist() == [[2, 1, 3, -1], [-1] * 4, [0, -1, -1, -1], [1, 2, 3, 4]]
    assert Sequences.of([[], []]).last(2).tolist() == [[-1, -1]] * 2
    assert len(Sequences.of([])) == 0


def test_nothing_can_be_sorted_in_place() -> None:
    with pytest.raises(ValueError, match="read-only"):
        Sequences.of(LISTS).indices.sort()


def test_events_come_in_the_order_of_time() -> None:
    found = Sequences.from_events([1, 0, 1, 1], [7, 5, 8, 9], [3, 1, 2, 3], users=3)
    assert [found[row].tolist() for row in range(3)] == [[5], [8, 7, 9], []]


def test_what_is_asked_is_what_was_held_out() -> None:
    """Against a loop over users."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 12, 80), rng.integers(0, 30, 80)
    ts = rng.permutation(80)
    codes = splits.leave_one_out(user, ts, np.full(80, -1))
    for split in (1, 2):
        found = held_out(user, item, ts, codes, split)
        place = 0
        for one in range(12):
            mine = sorted(np.flatnonzero(user == one), key=lambda row: ts[row])
            if len(mine) < 3:
                continue
            assert found.user[place] == one
            assert found.target[place] == item[mine[split - 3]]
            assert found.history[place].tolist() == item[mine[: split - 3]].tolist()
            place += 1
        assert len(found) == place > 5


def test_a_history_may_not_be_later_than_what_is_asked() -> None:
    with pytest.raises(ValueError, match="event 1: its user has less held-out events that are later"):
        held_out([0, 0], [1, 2], [5, 4], [0, 2], 2)


def test_the_target_may_be_found_though_it_was_seen() -> None:
    asked = NextItems(np.arange(2), Sequences.of([[1, 2], [2, 3]]), np.array([2, 0]))
    assert asked.unasked().tolist() == [[0, 1, 1], [1, 2, 3]]
    assert asked.take([1]).unasked().tolist() == [[0, 0], [2, 3]]
