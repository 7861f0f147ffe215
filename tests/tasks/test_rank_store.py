"""What a ranker reads of a row, each against the plain way: one row after the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_ranks import events, items

from latefuse.config import Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.models.backbone import Backbone
from latefuse.models.text_vectors import mean_words, rarity
from latefuse.prompts import MediaRef
from latefuse.tasks import item_pictures, rank_store
from latefuse.tasks.rank_store import Store, hashes, open_store, spans
from latefuse.training.features import Features


def task(modality: tuple[str, ...] = ("text", "image"), **settings: Any) -> Task:
    return Task.model_validate({"kind": "rank", "modality": modality, "rank": {"bins": 500, **settings}})


def opened(dataset: Dataset, backbone: Backbone, wanted: Task) -> Store:
    store = open_store(dataset, wanted, backbone)
    store.warm(Features(backbone, dataset.media), progress=False)
    return store


def vector_of(row: dict[str, Any], source: str, backbone: Backbone, dataset: Dataset) -> torch.Tensor | None:
    """An item's own vector, without any batching."""
    if source == "item words":
        trained = {event["item"] for event in dataset.rows("events") if event["split_time"] == "train"}
        known = [item["title"] for item in dataset.rows("items") if item["id"] in trained]
        return mean_words(backbone, [row["title"]], rarity(backbone, known))[0] if row["title"] else None
    refs = [MediaRef("image", path) for path in row["images"]]
    return Features(backbone, dataset.media).pooled(refs).mean(0) if refs else None


@pytest.mark.parametrize(("own", "past"), [("item words", "user words"), ("item picture", "user pictures")])
def test_vectors_are_the_items_own_and_the_mean_of_what_was_liked(
    dataset: Dataset, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, own: str, past: str
):
    monkeypatch.setattr(rank_store, "HISTORY", 4)
    monkeypatch.setattr(rank_store, "BLOCK", 3)
    monkeypatch.setattr(item_pictures, "BLOCK", 3)
    store, rows = opened(dataset, backbone, task()), dataset.rows("events")
    known = {row["id"]: vector_of(row, own, backbone, dataset) for row in dataset.rows("items")}
    places = np.arange(0, len(rows), 3)
    shown = store.shown(places)
    empty = 0
    for at, number in enumerate(places):
        row = rows[number]
        liked = sorted((r for r in rows if r["user"] == row["user"] and r["ts"] < row["ts"] and r["value"]), key=_ts)
        seconds = [r["ts"] for r in liked]
        if len(set(seconds)) < len(seconds):
            continue  # of one second, the order is free
        read = [known[r["item"]] for r in liked[-4:]]
        read = [vector for vector in read if vector is not None]
        for name, expected in ((own, known[row["item"]]), (past, torch.stack(read).mean(0) if read else None)):
            vectors, place = shown.vectors[name]
            assert (place[at] < 0) == (expected is None)
            if expected is not None:
                torch.testing.assert_close(vectors[place[at]], expected)
            empty += expected is None
    assert empty > 10


def _ts(row: dict[str, Any]) -> int:
    return int(row["ts"])


def test_ids_and_attributes(dataset: Dataset, backbone: Backbone):
    store = opened(dataset, backbone, task((), attributes=["tags", "price", "shop"]))
    assert store.inputs.hashed == ("user", "item", "tags", "shop")
    assert store.inputs.numbers[-1] == "price"
    assert store.inputs.vectors == {}
    rows, known = dataset.rows("events"), {row["id"]: json.loads(row["attributes"]) for row in dataset.rows("items")}
    places = np.array([5, 0, 17, 300])
    shown = store.shown(places)
    for at, place in enumerate(places):
        told = known[rows[place]["item"]]
        np.testing.assert_allclose(shown.numbers[at, -1], told.get("price", np.nan), rtol=1e-6)
        for name, words in (("tags", told["tags"]), ("shop", [told["shop"]]), ("user", [rows[place]["user"]])):
            values, offsets = shown.hashed[name]
            end = offsets[at + 1] if at + 1 < len(offsets) else len(values)
            assert values[offsets[at] : end].tolist() == hashes(words, name, 500).tolist()
    assert task((), ids=False, numbers=False).rank is not None
    bare = opened(dataset, backbone, task((), ids=False, numbers=False, attributes=["price"]))
    assert (bare.inputs.hashed, bare.inputs.numbers) == ((), ("price",))
    assert bare.shown(places).numbers.shape == (4, 1)


def test_hashes_leave_row_zero_to_what_is_unseen():
    found = hashes([str(number) for number in range(2_000)], "user", 50)
    assert set(found.tolist()) == set(range(1, 50))
    assert hashes(["a"], "user", 50) != hashes(["a"], "item", 50)


def test_texts_of_numbers_are_numbers_where_all_are(tmp_path: Path, backbone: Backbone):
    rows = items(tmp_path, 20)
    for number, row in enumerate(rows):
        row["attributes"] = json.dumps({"price": str(number / 4), "size": "large" if number == 3 else str(number)})
    dataset = write_dataset(tmp_path, {"items": rows, "events": events(8, 60, 20)})
    store = open_store(dataset, task((), attributes=["price", "size"]), backbone)
    assert (store.inputs.numbers[-1], store.inputs.hashed[-1]) == ("price", "size")
    codes = store.columns.item[:9]
    assert store.numbers(np.arange(9))[:, -1].tolist() == [code / 4 for code in codes]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", "many"])
def test_a_number_that_is_none_is_refused_by_name(tmp_path: Path, backbone: Backbone, value: Any):
    rows = items(tmp_path, 20)
    rows[3]["attributes"] = json.dumps({"tags": ["new"], "price": value})
    dataset = write_dataset(tmp_path, {"items": rows, "events": events(8, 60, 20)})
    with pytest.raises(DataError, match=f"item 'item-3' has price = '?{value}'? where others have a number"):
        _ = open_store(dataset, task(attributes=["price"]), backbone).inputs


def test_an_attribute_that_no_item_has(dataset: Dataset, backbone: Backbone):
    with pytest.raises(DataError, match="no item has an attribute 'prise'; did you mean 'price'"):
        _ = open_store(dataset, task(attributes=["prise"]), backbone).inputs


def test_shuffled_items_have_anothers_picture_and_their_own_words(dataset: Dataset, backbone: Backbone):
    plain, mixed = (opened(dataset, backbone, task(shuffled=some)) for some in ([], ["image"]))
    own, others = (store.vectors["item picture"].place for store in (plain, mixed))
    np.testing.assert_array_equal(own < 0, others < 0)
    assert sorted(own) == sorted(others)
    assert (own != others)[own >= 0].all()
    np.testing.assert_array_equal(mixed.vectors["item words"].place, plain.vectors["item words"].place)


def test_spans():
    values, owner = spans(np.array([2, 0, 5]), np.array([4, 0, 6]), np.arange(10) * 10)
    assert (values.tolist(), owner.tolist()) == ([20, 30, 50], [0, 0, 2])
