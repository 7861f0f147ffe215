"""Class labels out of CSV, class folders, Food-101 and FoodX-251, each in its true layout."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [json.loads(row["truth"])["name"] for row in rows]


def test_csv(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images.csv").write_text(
        "file,split,label,extra\na.jpg,train,apple_pie,x\nb.jpg,val,Golden-Delicious,x\nc.jpg,test,apple_pie,x\n"
    )
    found = collect("labelled_images", topic="dish")
    assert [row["split_item"] for row in found["items"]] == ["train", "valid", "test"]
    row = found["conversations"][0]
    assert row["item"] == found["items"][0]["id"] == "a.jpg"
    assert row["media"] == [{"modality": "image", "path": "a.jpg"}]
    assert row["turns"][0]["text"].startswith("<image>")
    assert row["turns"][1]["text"] == "apple pie"
    assert (row["modality"], row["topic"]) == ("image", "dish")
    assert json.loads(row["truth"]) == {"name": "apple pie", "names": "dish"}
    assert names(found["conversations"]) == ["apple pie", "Golden Delicious", "apple pie"]


def test_csv_rows_that_are_broken(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images.csv").write_bytes(
        b"file,split,label\na.jpg,train,x\nb.jpg,holdout,x\nc.jpg,train,\n\xe9.jpg,train,x\n"
    )
    errors = [entry for entry in collect("labelled_images")["errors"] if entry[0] == "items"]
    assert [(line, reason) for _, line, reason in errors] == [
        ("images.csv:3", "unknown-split"),
        ("images.csv:4", "no-label"),
        ("images.csv:5", "not-utf8"),
    ]
    found = collect("labelled_images", splits={"holdout": "test"})
    assert [row["split_item"] for row in found["items"]] == ["train", "test"]


def test_csv_without_splits(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images.csv").write_text("path,class\na.jpg,x\nb.jpg,y\n")
    found = collect("labelled_images", columns={"image": "path", "label": "class", "split": ""})
    assert [row["split_item"] for row in found["items"]] == [None, None]


def test_csv_missing_column(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images.csv").write_text("file,split,lable\na.jpg,train,x\n")
    with pytest.raises(DataError, match=r"missing column 'label'; did you mean 'lable'"):
        collect("labelled_images")


def test_folders_with_and_without_splits(
    collect: Callable[..., Any], picture: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("train/soup/1.png", "train/pie/2.png", "validation/soup/3.png", "test/pie/4.png"):
        picture(f"official/{name}")
    (tmp_path / "official/train/soup/.DS_Store").write_bytes(b"x")
    (tmp_path / "official/train/soup/notes.txt").write_text("no picture: prepare refuses it by name")
    found = collect("labelled_images", tmp_path / "official", layout="folders")
    got = {(row["images"][0], row["split_item"]) for row in found["items"]}
    assert got == {
        ("train/soup/1.png", "train"), ("train/soup/notes.txt", "train"), ("train/pie/2.png", "train"),
        ("validation/soup/3.png", "valid"), ("test/pie/4.png", "test"),
    }  # fmt: skip
    for name in ("soup/1.png", "pie/2.png"):
        picture(f"plain/{name}")
    found = collect("labelled_images", tmp_path / "plain", layout="folders")
    assert [(row["id"], row["split_item"]) for row in found["items"]] == [("pie/2.png", None), ("soup/1.png", None)]
    assert names(found["conversations"]) == ["pie", "soup"]


def test_food101(tmp_path: Path, collect: Callable[..., Any], picture: Callable[..., Path]) -> None:
    for key in ("apple_pie/1", "apple_pie/2", "waffles/3"):
        picture(f"images/{key}.jpg")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/train.txt").write_text("apple_pie/1\nwaffles/3\n")
    (tmp_path / "meta/test.txt").write_text("apple_pie/2\nnonsense\n")
    found = collect("labelled_images", layout="food101")
    assert [(row["images"], row["split_item"]) for row in found["items"]] == [
        (["images/apple_pie/1.jpg"], "train"),
        (["images/waffles/3.jpg"], "train"),
        (["images/apple_pie/2.jpg"], "test"),
    ]
    assert ("items", "test.txt:2", "torn-row") in found["errors"]
    (tmp_path / "meta/test.txt").unlink()
    with pytest.raises(DataError, match=r"test\.txt: no such file"):
        collect("labelled_images", layout="food101")


def test_foodx251(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "class_list.txt").write_text("0 macaron\n1 beignet\n2 beef_carpaccio\n")
    (tmp_path / "train_labels.csv").write_text("img_name,label\ntrain_000001.jpg,2\ntrain_000002.jpg,9\n")
    (tmp_path / "val_labels.csv").write_text("img_name,label\nval_000001.jpg,0\n")
    found = collect("labelled_images", layout="foodx251", topic="dish")
    assert [(row["id"], row["split_item"]) for row in found["items"]] == [
        ("train_set/train_000001.jpg", "train"),
        ("val_set/val_000001.jpg", "test"),
    ]
    assert names(found["conversations"]) == ["beef carpaccio", "macaron"]
    assert ("items", "train_labels.csv:3", "unknown-label") in found["errors"]
    found = collect("labelled_images", layout="foodx251", splits={"val": "valid"})
    assert found["items"][1]["split_item"] == "valid"


def test_per_class_and_classes(tmp_path: Path, collect: Callable[..., Any]) -> None:
    rows = [
        f"{split}/{label}/{k}.jpg,{split},{label}" for split in ("train", "test") for label in "abc" for k in range(9)
    ]
    (tmp_path / "images.csv").write_text("\n".join(["file,split,label", *rows]))
    found = collect("labelled_images", per_class=2, classes=["a", "c"])
    assert Counter((row["split_item"], row["id"].split("/")[1]) for row in found["items"]) == dict.fromkeys(
        [("train", "a"), ("train", "c"), ("test", "a"), ("test", "c")], 2
    )
    assert [row["item"] for row in found["conversations"]] == [row["id"] for row in found["items"]]
    with pytest.raises(DataError, match=r"no class 'd'"):
        collect("labelled_images", classes=["d"])


def test_labels_that_read_alike(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "images.csv").write_text("file,split,label\na.jpg,train,apple_pie\nb.jpg,train,apple-pie\n")
    with pytest.raises(DataError, match="read alike"):
        collect("labelled_images")


def test_lists_that_are_torn_name_their_line(tmp_path: Path, collect: Callable[..., Any]) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}_labels.csv").write_text("img_name,label\na.jpg,0\n")
    (tmp_path / "class_list.txt").write_text("0 macaron\n1\n")
    with pytest.raises(DataError, match=r"class_list\.txt:2: '1'; expected"):
        collect("labelled_images", layout="foodx251")
    (tmp_path / "class_list.txt").write_bytes(b"0 macaron\n1 cr\xe8me\n")
    with pytest.raises(DataError, match=r"class_list\.txt:2: not UTF-8"):
        collect("labelled_images", layout="foodx251")


def test_judgements_by_the_description_of_a_class(tmp_path: Path, collect: Callable[..., Any]) -> None:
    classes = {
        "Pear": ("Fruit", "soft and green"),
        "Plum": ("Fruit", "small and purple"),
        "Leek": ("Herb", "long stalk"),
    }
    about = [f"{name},{group},{text}" for name, (group, text) in classes.items()]
    (tmp_path / "classes.csv").write_text("\n".join(["name,kind,text", *about]))
    pictures = [f"{name}{n}.jpg,{'train' if n < 4 else 'test'},{name}" for name in classes for n in range(6)]
    (tmp_path / "images.csv").write_text("\n".join(["file,split,label", *pictures]))
    described = {"file": "classes.csv", "label": "name", "text": "text", "group": "kind"}
    judgements = {"kinds": ["same-class", "random"], "instruction": "it fits"}
    found = collect("labelled_images", topic="product", descriptions=described, judgements=judgements)
    rows, splits = found["judgements"], {row["id"]: row["split_item"] for row in found["items"]}
    assert Counter(row["label"] for row in rows) == {True: 18, False: 18}
    for row in rows:
        name = row["item"][:4]
        group, text = classes[name]
        assert (row["task"], row["image"], row["split_item"]) == ("product", row["item"], splits[row["item"]])
        assert (row["text"] == text) == row["label"]
        if row["negative"] == "same-class":
            assert (group, row["text"]) in classes.values()
    assert {row["item"][:4] for row in rows if row["negative"] == "same-class"} == {"Pear", "Plum"}
    with pytest.raises(DataError, match=r"same-class needs data\.options\.descriptions\.group"):
        collect("labelled_images", descriptions={**described, "group": ""}, judgements=judgements)
    with pytest.raises(DataError, match=r"needs data\.options\.descriptions, a table"):
        collect("labelled_images", judgements=judgements)
    with pytest.raises(DataError, match=r"nothing reads them without data\.options\.judgements"):
        collect("labelled_images", descriptions=described)
    (tmp_path / "classes.csv").write_text("\n".join(["name,kind,text", *about, about[0]]))
    with pytest.raises(DataError, match=r"name 'Pear' stands there twice"):
        collect("labelled_images", descriptions=described, judgements=judgements)
    (tmp_path / "classes.csv").write_text("\n".join(["name,kind,text", *about[:2]]))
    assert collect("labelled_images", descriptions=described, judgements=judgements, classes=["Pear", "Plum"])
    with pytest.raises(DataError, match=r"classes\.csv: no 'text' for name 'Leek' \(1 in all\)"):
        collect("labelled_images", descriptions=described, judgements=judgements)
