"""Vectors of readings, against the plain way; and a word of a held-out review reaches no row at or before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_ranks import events, items
from torch import Tensor

from latefuse.config import Task
from latefuse.config_rank import Rank
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.tasks.rank_columns import columns
from latefuse.tasks.rank_readings import of_pictures, of_reviews, places_of, reviewed

CUTS = (60, 120, 180)


def encode(texts: Sequence[str]) -> Tensor:
    """Letters counted: a vector from which a word can be told."""
    return torch.tensor([[text.count(letter) for letter in "abcdefgh"] for text in texts], dtype=torch.float32)


def words(number: int) -> str:
    return "abcdefgh"[number % 8] * (1 + number // 8)


def readings(reviews: list[dict[str, Any]], newest: int = 3) -> list[dict[str, Any]]:
    """What prepare would write: the texts of the newest reviews before each cut, one after the other."""
    found = []
    for of in ("item", "user"):
        for owner in sorted({row[of] for row in reviews}):
            for cut in CUTS:
                own = [row for row in reviews if row[of] == owner and row["ts"] < cut and row["split_time"] != "test"]
                own = sorted(own, key=lambda row: row["ts"])[-newest:]
                if own:
                    said = " ".join(row["text"] for row in own)
                    found.append({"of": of, "id": owner, "cut": cut, "text": said, "documents": len(own), "maker": "m"})
    return [{**row, "prompt": "v1", "digest": "d"} for row in found]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    out = tmp_path_factory.mktemp("shop")
    rows = events(8, 60, 20)
    told = [
        {"user": row["user"], "item": row["item"], "ts": row["ts"], "text": words(number),
         "split_time": row["split_time"], "split_loo": row["split_loo"]}
        for number, row in enumerate(rows) if number % 4 == 0
    ]  # fmt: skip
    moments = {(row["user"], row["ts"]): row for row in told}
    told = list(moments.values())
    things = items(out, 20)
    shown = {number: row["images"][0] for number, row in enumerate(things) if row["images"] and number % 3}
    made = {"of": "picture", "cut": 0, "documents": 0, "maker": "m", "prompt": "v1", "digest": "d"}
    seen = [{**made, "id": path, "text": words(number)} for number, path in shown.items()]
    return write_dataset(out, {"items": things, "events": rows, "reviews": told, "readings": readings(told) + seen})


def task(**settings: Any) -> Task:
    return Task.model_validate({"kind": "rank", "modality": ["text"], "rank": settings})


@pytest.mark.parametrize("of", ["item", "user"])
@pytest.mark.parametrize("text", ["summary", "averaged"])
def test_a_row_reads_what_was_written_before_it(dataset: Dataset, of: str, text: str):
    settings = Rank(text=text)
    vectors = of_reviews(dataset, of, settings, encode)
    place = places_of(dataset, of, columns(dataset, task()), np.arange(20))
    reviews, known = dataset.rows("reviews"), 0
    for at, row in zip(place, dataset.rows("events"), strict=True):
        cut = max((cut for cut in CUTS if cut <= row["ts"]), default=0)
        own = [r for r in reviews if r[of] == row[of] and r["ts"] < cut and r["split_time"] != "test"]
        own = sorted(own, key=lambda r: r["ts"])[-3:]
        assert (at >= 0) == bool(own)
        if own:
            each = encode([r["text"] for r in own])
            torch.testing.assert_close(vectors[at], each.sum(0) if text == "summary" else each.mean(0))
        known += bool(own)
    assert 100 < known < len(place)


def test_items_of_the_control_read_anothers_reviews(dataset: Dataset):
    found, donors = columns(dataset, task()), np.roll(np.arange(20), 1)
    own, others = (places_of(dataset, "item", found, which) for which in (np.arange(20), donors))
    table = [row for row in dataset.rows("readings") if row["of"] == "item"]
    for place, item in zip(others, found.item, strict=True):
        if place >= 0:
            assert table[place]["id"] == found.items[donors[item]]
    assert (own != others).any()


def test_pictures_in_words(dataset: Dataset):
    pictures = [row["images"] for row in dataset.rows("items")]
    vectors, place = of_pictures(dataset, pictures, encode)
    for number, paths in enumerate(pictures):
        if paths and number % 3:
            torch.testing.assert_close(vectors[place[number]], encode([words(number)])[0])
        else:
            assert place[number] == -1


def test_of_whom_there_are_readings(dataset: Dataset, tmp_path: Path):
    assert reviewed(dataset, Rank()) == ["item", "user"]
    bare = write_dataset(tmp_path, {"items": items(tmp_path, 20), "events": events(8, 60, 20)})
    assert reviewed(bare, Rank()) == []
    with pytest.raises(DataError, match=r"set data.readings.reviews and run prepare again"):
        reviewed(bare, Rank(text="averaged"))
    with pytest.raises(DataError, match=r"set data.readings.pictures and run prepare again"):
        of_pictures(bare, [], encode)
