"""Food-101 thumbnails and the grocery shelf, with their official splits."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from latefuse.data.dataset import Dataset


@pytest.mark.parametrize("layout", ["csv", "folders"])
def test_food101(
    prepared: Callable[..., Dataset],
    split_counts: Callable[..., Counter[str]],
    name_list: Callable[[Dataset], set[str]],
    layout: str,
) -> None:
    if layout == "csv":
        dataset = prepared("labelled_images", "food101_64px", options={"layout": "csv", "topic": "dish"})
        counts = split_counts(dataset, "items")
        assert counts["test"] == 1_010
        assert counts["train"] + counts["valid"] == 2_020
        assert counts["valid"] > 100
        assert len(name_list(dataset)) == 101
        assert "apple pie" in name_list(dataset)
        return
    # images.csv lies among the folders of the splits, so they are the only folders.
    dataset = prepared("labelled_images", "food101_64px", options={"layout": "folders", "per_class": 2})
    assert split_counts(dataset, "items")["test"] == 202
    assert len(name_list(dataset)) == 101


def test_grocery_store(
    prepared: Callable[..., Dataset],
    split_counts: Callable[..., Counter[str]],
    name_list: Callable[[Dataset], set[str]],
    real_data: Callable[[str], Path],
) -> None:
    options = {"columns": {"label": "class"}, "topic": "product"}
    dataset = prepared("labelled_images", "grocery_store", options=options, limits={"max_pixels": 10_000_000})
    with (real_data("grocery_store") / "images.csv").open(newline="") as handle:
        official = {row["file"]: row["split"] for row in csv.DictReader(handle)}
    stored = dataset.table("items", columns=["id", "split_item"]).to_pylist()
    assert {row["id"] for row in stored} == set(official)
    kept = {row["id"]: "train" if row["split_item"] == "valid" else row["split_item"] for row in stored}
    if "valid" in official.values() or "val" in official.values():
        kept = {row["id"]: row["split_item"] for row in stored}
    assert kept == {name: {"val": "valid"}.get(split, split) for name, split in official.items()}
    assert len(name_list(dataset)) == 81
