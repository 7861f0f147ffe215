"""A thousand photos of Flickr8k with five captions each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from latefuse.data.dataset import Dataset


def test_flickr8k(prepared: Callable[..., Dataset], split_counts: Callable[..., Counter[str]]) -> None:
    dataset = prepared("captions", "flickr8k_1000")
    assert dataset.manifest["rows"] == {"items": 1_000, "conversations": 5_000}
    assert dataset.manifest["quarantine"] == {}
    split_of = {row["id"]: row["split_item"] for row in dataset.rows("items")}
    rows = dataset.rows("conversations")
    assert all(row["split_item"] == split_of[row["item"]] for row in rows), "captions of a picture stay together"
    assert all(len(json.loads(row["truth"])["captions"]) == 5 for row in rows)
    counts = split_counts(dataset, "items")
    assert 60 < counts["test"] < 140
