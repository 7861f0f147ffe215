"""What was known before a row, against the plain way: a loop over all rows for every row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_ranks import events, items

from latefuse.config import Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.tasks import rank_columns
from latefuse.tasks.rank_columns import BEFORE, PRIOR, columns


def task(where: dict[str, str] | None = None, **settings: Any) -> Task:
    return Task.model_validate({"kind": "rank", "modality": [], "rank": settings, "where": where or {}})


@pytest.mark.parametrize("scheme", ["time", "loo"])
@pytest.mark.parametrize("chunk", [7, 100_000])
def test_what_is_known_before_a_row(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, scheme: str, chunk: int):
    monkeypatch.setattr(rank_columns, "CHUNK", chunk)
    found = columns(dataset, task(scheme=scheme))
    rows = dataset.rows("events")
    train = [row for row in rows if row["split_time"] == "train"]
    positive = sum(row["value"] for row in train) / len(train)
    for number, row in enumerate(rows):
        past = [r for r in (rows if scheme == "time" else train) if r["ts"] < row["ts"]]
        expected, likes = [], {}
        for key in ("user", "item"):
            own = [r for r in past if r[key] == row[key]]
            likes[key] = [r["item"] for r in own if r["value"]]
            rate = (len(likes[key]) + PRIOR * positive) / (len(own) + PRIOR)
            since = row["ts"] - max(r["ts"] for r in own) if own else math.nan
            expected += [math.log1p(len(own)), rate, math.log1p(since)]
        expected = [expected[at] for at in (0, 1, 3, 4, 2, 5)]
        np.testing.assert_allclose(found.before[number], expected, rtol=1e-5)
        assert (found.past[number], found.likes[number]) == (len(likes["user"]), len(likes["item"]))
        begin = found.liked_from[found.user[number]]
        read = [found.items[code] for code in found.liked_items[begin : begin + found.past[number]]]
        assert sorted(read) == sorted(likes["user"])
    assert len(BEFORE) == found.before.shape[1]


def test_rows_are_what_the_table_holds(dataset: Dataset):
    found, rows = columns(dataset, task()), dataset.rows("events")
    assert [found.users[code] for code in found.user] == [row["user"] for row in rows]
    assert [found.items[code] for code in found.item] == [row["item"] for row in rows]
    assert found.liked.tolist() == [row["value"] == 1 for row in rows]
    for split in ("train", "valid", "test"):
        assert found.rows(split).tolist() == [k for k, row in enumerate(rows) if row["split_time"] == split]
    trained = {row["item"] for row in rows if row["split_time"] == "train"}
    assert {found.items[code] for code in np.flatnonzero(found.trained("item"))} == trained


def written(out: Path, rows: list[dict[str, Any]]) -> Dataset:
    return write_dataset(out, {"items": items(out, 20), "events": rows})


def test_where_keeps_rows_and_their_places(tmp_path: Path):
    rows = [{**row, "kind": "shown" if number % 3 else "bought"} for number, row in enumerate(events(8, 60, 20))]
    found = columns(written(tmp_path, rows), task(where={"kind": "bought"}))
    assert found.number.tolist() == list(range(0, len(rows), 3))
    assert found.ts.tolist() == [row["ts"] for row in rows[::3]]
    with pytest.raises(DataError, match="no row of events is"):
        columns(Dataset(tmp_path), task(where={"kind": "sold"}))
    with pytest.raises(DataError, match="no column 'knd'; did you mean 'kind'"):
        columns(Dataset(tmp_path), task(where={"knd": "sold"}))


def test_labels_of_three_values_need_a_rule(tmp_path: Path):
    rows = [{**row, "value": float(number % 3)} for number, row in enumerate(events(8, 60, 20))]
    dataset = written(tmp_path, rows)
    with pytest.raises(DataError, match=r"events.value holds more than two values \(0, 1, 2\): say from which on"):
        columns(dataset, task())
    found = columns(dataset, task(label={"at_least": 2}))
    assert found.liked.tolist() == [row["value"] == 2 for row in rows]


def test_labels_by_kind_and_by_the_larger_of_two(tmp_path: Path):
    rows = [
        {**row, "value": 3.0 + number % 2, "kind": "abc"[number % 3]} for number, row in enumerate(events(8, 60, 20))
    ]
    dataset = written(tmp_path, rows)
    assert columns(dataset, task()).liked.tolist() == [row["value"] == 4 for row in rows]
    found = columns(dataset, task(label={"kinds": ["a", "c"]}))
    assert found.liked.tolist() == [row["kind"] in "ac" for row in rows]
    with pytest.raises(DataError, match=r"0 of \d+ training rows of events are liked"):
        columns(dataset, task(label={"kinds": ["d"]}))
    with pytest.raises(DataError, match=r"(\d+) of \1 training rows of events are liked"):
        columns(dataset, task(label={"at_least": 1}))
    with pytest.raises(DataError, match="the table events has no column 'stars'"):
        columns(dataset, task(label={"column": "stars"}))
