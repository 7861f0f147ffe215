"""Chats in LLaVA's form about real photos: two about the same photo share its split."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

from latefuse import tracking
from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.steps import prepare


def test_llava_about_flickr8k(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder, raw = real_data("flickr8k_1000"), tmp_path / "raw"
    (raw / "images").mkdir(parents=True)
    chats = []
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as handle:
        for name, lines in groupby(csv.DictReader(handle), lambda row: row["image"]):
            shutil.copyfile(folder / "images" / name, raw / "images" / name)
            for line in list(lines)[:2]:
                turns = [("human", "<image>\nDescribe the picture."), ("gpt", line["caption"])]
                said = [{"from": who, "value": text} for who, text in turns]
                chats.append({"id": str(len(chats)), "image": name, "conversations": said})
            if len(chats) >= 200:
                break
    (raw / "chats.json").write_text(json.dumps(chats), encoding="utf-8")
    data = Data(source="chats", path=str(raw), options={"files": ["chats.json"], "media": "images"})
    prepare.run(data, tmp_path / "dataset", tracking.Null())
    dataset = Dataset(tmp_path / "dataset")
    assert dataset.manifest["rows"] == {"items": 100, "conversations": 200}
    rows = dataset.rows("conversations")
    assert len({(row["item"], row["split_item"]) for row in rows}) == 100
    assert all(row["media"][0]["path"] for row in rows)
