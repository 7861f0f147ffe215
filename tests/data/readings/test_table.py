"""The look-up against a search row by row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from latefuse.data.dataset import write_dataset
from latefuse.data.errors import DataError
from latefuse.data.readings.cuts import ALWAYS
from latefuse.data.readings.table import Readings


def rows(seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    chosen = {(f"i{draw.randrange(12)}", draw.choice([0, 7, 20, 31, 55])) for _ in range(40)}
    made = [{"of": "item", "id": id, "cut": cut, "text": f"{id} at {cut}"} for id, cut in chosen]
    made += [{"of": "user", "id": "i1", "cut": 3, "text": "a user"}]
    made += [{"of": "picture", "id": "media/aa/x.png", "cut": ALWAYS, "text": "a cup"}]
    draw.shuffle(made)
    return made


@pytest.mark.parametrize("seed", range(5))
def test_at(seed: int, tmp_path: Path) -> None:
    table = rows(seed)
    dataset = write_dataset(tmp_path, {"readings": table})
    found = Readings.read(dataset, "item")
    draw = random.Random(seed + 100)
    ids = [draw.choice([f"i{n}" for n in range(12)] + ["stranger"]) for _ in range(300)]
    ts = np.array([draw.randrange(-5, 70) for _ in range(300)])
    at = found.at(ids, ts)
    for id, second, place in zip(ids, ts.tolist(), at.tolist(), strict=True):
        known = [row for row in table if row["of"] == "item" and row["id"] == id and row["cut"] <= second]
        newest = max(known, key=lambda row: row["cut"], default=None)
        assert (found.texts[place] if place >= 0 else None) == (newest["text"] if newest else None)
    assert np.array_equal(found.at(pa.chunked_array([ids[:100], ids[100:]]), ts), at)
    assert (at >= 0).any()
    assert (at < 0).any()
    assert len(found) == sum(row["of"] == "item" for row in table)
    assert found.at([], np.zeros(0, np.int64)).tolist() == []


def test_pictures_are_always_readable(tmp_path: Path) -> None:
    found = Readings.read(write_dataset(tmp_path, {"readings": rows(0)}), "picture")
    assert found.at(["media/aa/x.png", "media/aa/y.png"]).tolist() == [0, -1]
    assert found.at(["media/aa/x.png"], np.array([ALWAYS])).tolist() == [0]


def test_a_dataset_without_readings_says_what_to_set(tmp_path: Path) -> None:
    plain = write_dataset(tmp_path / "plain", {"events": [{"user": "u", "item": "i", "ts": 1}]})
    with pytest.raises(DataError, match=r"set data\.readings\.reviews"):
        Readings.read(plain, "user")
    some = write_dataset(tmp_path / "some", {"readings": [row for row in rows(0) if row["of"] == "item"]})
    with pytest.raises(DataError, match=r"no readings of pictures; set data\.readings\.pictures"):
        Readings.read(some, "picture")
