"""Ragged histories against plain lists."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.data import splits
from latefuse.data.histories import Histories, targets
from latefuse.evaluation.sequences import NextItems, Sequences, asked, trained

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


def test_parts_may_overlap() -> None:
    found = Sequences.cut([5, 6, 7, 8], [0, 1, 2, 0], [2, 4, 2, 4])
    assert [found[row].tolist() for row in range(4)] == [[5, 6], [6, 7, 8], [], [5, 6, 7, 8]]


def test_questions_are_those_of_the_split() -> None:
    """Against a loop over users."""
    rng = np.random.default_rng(0)
    user, item, ts = np.sort(rng.integers(0, 12, 80)), rng.integers(0, 30, 80), np.arange(80)
    split = splits.leave_one_out(user, ts, np.full(80, -1))
    start = np.searchsorted(user, np.arange(13))
    found = Histories([f"u{one}" for one in range(12)], [f"i{one}" for one in range(30)], start, user, item, ts, split)
    train = trained(found)
    for name, code in (("valid", 1), ("test", 2)):
        some, place = asked(found, targets(found, name)), 0
        for one in range(12):
            mine = item[user == one].tolist()
            assert train[one].tolist() == (mine[:-2] if len(mine) >= 3 else mine)
            if len(mine) < 3:
                continue
            assert some.user[place] == one
            assert some.target[place] == mine[code - 3]
            assert some.history[place].tolist() == mine[: code - 3]
            place += 1
        assert len(some) == place > 5


def test_the_target_may_be_found_though_it_was_seen() -> None:
    some = NextItems(np.arange(2), Sequences.of([[1, 2], [2, 3]]), np.array([2, 0]))
    assert some.unasked().tolist() == [[0, 1, 1], [1, 2, 3]]
    assert some.take([1]).unasked().tolist() == [[0, 0], [2, 3]]
