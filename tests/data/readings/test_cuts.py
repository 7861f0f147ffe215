"""Cuts and windows against a search over all rows."""

from __future__ import annotations

import random

import numpy as np
import pytest

from latefuse.data.readings.cuts import cut_times, windows


def test_cuts_part_training_time_and_begin_the_held_out_splits() -> None:
    ts = np.array([*range(80), *range(100, 110), *range(200, 210)])
    codes = np.array([0] * 80 + [1] * 10 + [2] * 10)
    shuffled = np.random.default_rng(0).permutation(100)
    assert cut_times(ts[shuffled], codes[shuffled], 4).tolist() == [20, 40, 60, 100, 200]
    assert cut_times(ts, codes, 1).tolist() == [100, 200]
    assert cut_times(ts[:80], codes[:80], 2).tolist() == [40]
    assert cut_times(ts[:0], codes[:0], 8).tolist() == []
    assert cut_times(np.full(9, 7), np.zeros(9, int), 8).tolist() == [7]


@pytest.mark.parametrize("seed", range(6))
def test_windows_are_those_of_a_search_over_all_rows(seed: int) -> None:
    draw = random.Random(seed)
    n, newest = 120, draw.choice([1, 3, 50])
    owner = np.array([draw.randrange(9) for _ in range(n)])
    ts = np.array([draw.randrange(40) for _ in range(n)])
    usable = np.array([draw.random() < 0.7 for _ in range(n)])
    cuts = np.array(sorted({draw.randrange(45) for _ in range(5)}))
    expected = {}
    for one in range(9):
        before: list[int] = []
        for cut in cuts.tolist():
            rows = [row for row in range(n) if owner[row] == one and usable[row] and ts[row] < cut]
            rows.sort(key=lambda row: (ts[row], row))
            if rows and rows != before:
                expected[one, cut] = (rows[-newest:], max(0, len(rows) - newest))
            before = rows
    found = {(w.owner, w.cut): (w.rows.tolist(), w.older) for w in windows(owner, ts, usable, cuts, newest)}
    assert found == expected
    assert len(found) > 5


def test_nobody_has_reviews() -> None:
    none = np.zeros(0, np.int64)
    assert list(windows(none, none, none.astype(bool), np.array([5]), 3)) == []
    assert list(windows(np.zeros(2, int), np.array([1, 2]), np.array([False, False]), np.array([5]), 3)) == []
