"""Rows laid on disk in parts come back whole and in order, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from latefuse.data.spill import Spill


def test_each_part_keeps_its_rows_in_order_and_gives_them_once(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    kind = np.dtype([("key", np.int32), ("value", np.int64)])
    spill = Spill(tmp_path / "deep" / "spill", kind, 300)
    added = []
    for size in (0, 1, 500, 70):
        rows = np.zeros(size, kind)
        rows["key"], rows["value"] = draw.integers(0, 300, size), draw.integers(0, 9**9, size)
        spill.add(rows, rows["key"])
        added.append(rows)
    whole = np.concatenate(added)
    for part in range(300):
        wanted = whole[whole["key"] == part]
        assert spill.size(part) == len(wanted)
        found = spill.take(part) if part % 2 else np.concatenate(list(spill.pieces(part, 2)))
        assert np.array_equal(found, wanted)
        assert spill.size(part) == 0
        assert len(spill.take(part)) == 0
    assert not list((tmp_path / "deep/spill").iterdir())
