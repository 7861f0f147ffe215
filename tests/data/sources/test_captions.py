"""Captions, one line each, several per picture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError

LINES = 'image,caption\na.jpg,A dog runs .\na.jpg,"A brown dog, fast ."\nb.jpg,Two cats .\nc.jpg,  \n'


def test_flickr8k(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "captions.csv").write_text(LINES)
    found = collect("captions")
    assert [(row["id"], row["images"]) for row in found["items"]] == [
        ("a.jpg", ["images/a.jpg"]),
        ("b.jpg", ["images/b.jpg"]),
    ]
    said = [(row["id"], row["item"], row["turns"][1]["text"]) for row in found["conversations"]]
    assert said == [
        ("caption:a.jpg#0", "a.jpg", "A dog runs ."),
        ("caption:a.jpg#1", "a.jpg", "A brown dog, fast ."),
        ("caption:b.jpg#0", "b.jpg", "Two cats ."),
    ]
    truth = json.loads(found["conversations"][1]["truth"])
    assert truth == {"caption": "A brown dog, fast .", "captions": ["A dog runs .", "A brown dog, fast ."]}
    assert ("items", "captions.csv:5", "no-caption") in found["errors"]


def test_flickr30k_with_pipe_and_splits(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "results.csv").write_text("image_name|part|comment\na.jpg|training|A dog .\nb.jpg|dev|A cat .\n")
    options = {"file": "results.csv", "delimiter": "|", "images": ""}
    found = collect("captions", **options, columns={"image": "image_name", "caption": "comment", "split": "part"})
    assert [(row["images"], row["split_item"]) for row in found["items"]] == [
        (["a.jpg"], "train"),
        (["b.jpg"], "valid"),
    ]


def test_limit_counts_pictures(tmp_path: Path, collect: Callable[..., Any]) -> None:
    lines = [f"{k}.jpg,caption {n} of {k}" for k in range(40) for n in range(5)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    found = collect("captions", images="", limit=10, captions=2)
    assert (len(found["items"]), len(found["conversations"])) == (10, 20)
    assert {row["item"] for row in found["conversations"]} == {row["id"] for row in found["items"]}
    assert len(json.loads(found["conversations"][0]["truth"])["captions"]) == 5


def test_lines_of_one_picture_must_stand_together(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,one\nb.jpg,two\na.jpg,three\n")
    with pytest.raises(DataError, match=r"captions\.csv:4: 'a\.jpg' has captions further up too; sort"):
        collect("captions", images="")


def test_missing_column_and_folder(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "captions.csv").write_text("image,captions\na.jpg,one\n")
    with pytest.raises(DataError, match=r"missing column 'caption'; did you mean 'captions'"):
        collect("captions")
    (tmp_path / "captions.csv").write_text(LINES)
    with pytest.raises(DataError, match=r"images: no such file"):
        collect("captions")


def test_judgements_keep_their_picture_its_split_and_a_balance(tmp_path: Path, collect: Callable[..., Any]) -> None:
    things = ["red dog", "blue boat", "green kite", "black horse", "white bird"]
    lines = [f"{k}.jpg,the {things[k % 5]} {n}" for k in range(40) for n in range(3)]
    (tmp_path / "captions.csv").write_text("\n".join(["image,caption", *lines]))
    found = collect("captions", images="", judgements={"per_picture": 2, "instruction": "it fits"})
    rows, items = found["judgements"], {row["id"]: row for row in found["items"]}
    assert len({row["id"] for row in rows}) == len(rows) == 160
    assert Counter((row["split_item"], row["label"]) for row in rows) == {
        (split, label): 2 * sum(row["split_item"] == split for row in items.values())
        for split in ("train", "valid", "test")
        for label in (True, False)
    }
    for row in rows:
        assert items[row["item"]]["split_item"] == row["split_item"]
        assert row["image"] == row["item"]
        assert (row["instruction"], row["source"], bool(row["negative"])) == ("it fits", "captions", not row["label"])
        own = things[int(row["item"].removesuffix(".jpg")) % 5]
        assert (own in row["text"]) == row["label"]
    with pytest.raises(DataError, match="same-class needs classes"):
        collect("captions", images="", judgements={"kinds": ["same-class"]})
