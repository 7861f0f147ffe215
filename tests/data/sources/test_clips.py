"""Clips: one line each, YouCook2's annotations, Tasty's two JSON forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError
from latefuse.data.sources.clips import component_text

YOUCOOK = {
    "database": {
        "GLd3aX16zBg": {
            "duration": 241.62,
            "subset": "training",
            "recipe_type": "113",
            "video_url": "https://www.youtube.com/watch?v=GLd3aX16zBg",
            "annotations": [
                {"segment": [114, 127], "id": 1, "sentence": "place cheese on the bread"},
                {"segment": [90, 102], "id": 0, "sentence": "spread margarine on two slices of white bread"},
            ],
        },
        "xHr8X2Wpmno": {
            "duration": 300.0,
            "subset": "validation",
            "recipe_type": "101",
            "video_url": "https://www.youtube.com/watch?v=xHr8X2Wpmno",
            "annotations": [{"segment": [5, 9], "id": 0, "sentence": "pick the ends off the verdalago"}],
        },
    }
}

TASTY_SITE = {
    "count": 1,
    "results": [
        {
            "id": 8545,
            "slug": "cranberry-bites",
            "name": "Cranberry Bites",
            "original_video_url": "https://example.org/x.mp4",
            "sections": [
                {
                    "name": "Sauce",
                    "position": 1,
                    "components": [
                        {
                            "raw_text": "n/a",
                            "position": 1,
                            "ingredient": {"name": "fresh cranberries"},
                            "measurements": [{"quantity": "12", "unit": {"abbreviation": "oz", "system": "imperial"}}],
                        },
                        {
                            "raw_text": "3⁄4 cup sugar",
                            "position": 2,
                            "ingredient": {"name": "sugar"},
                            "measurements": [],
                        },
                    ],
                }
            ],
            "instructions": [
                {"position": 2, "display_text": "Serve.", "start_time": 22371, "end_time": 33366},
                {"position": 1, "display_text": "Boil the cranberries; stir.", "start_time": 11666, "end_time": 18333},
            ],
        }
    ],
}

TASTY_SET = [
    {
        "title": "one-pot-pasta",
        "split": "train",
        "ingredients": ["pasta", "garlic"],
        "steps": ["boil the pasta"],
        "annotations": [[1, 60]],
    },
    {"title": "egg-toast", "split": "val", "ingredients": ["egg"], "steps": ["fry the egg"], "annotations": [[]]},
    {"title": "empty", "split": "test", "ingredients": [], "steps": [], "annotations": []},
]


def recipes(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {row["item"]: json.loads(row["truth"])["recipe"] for row in rows if row["topic"] == "recipe"}


def test_one_line_per_clip(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "manifest.csv").write_text(
        "file,label,licence,split\na.mp4,flipping a pancake,MIT,train\n"
        "b.mkv,stirring,Apache-2.0,holdout\nc.gif,,MIT,train\n"
    )
    found = collect("clips", columns={"licence": "licence", "split": "split"})
    (item,) = found["items"]
    assert (item["id"], item["videos"], item["licence"], item["split_item"]) == ("a.mp4", ["a.mp4"], "MIT", "train")
    (row,) = found["conversations"]
    assert (row["modality"], row["topic"], row["media"]) == (
        "video",
        "caption",
        [{"modality": "video", "path": "a.mp4"}],
    )
    assert row["turns"][0]["text"].startswith("<video>")
    assert json.loads(row["truth"]) == {"caption": "flipping a pancake"}
    assert {entry[1:] for entry in found["errors"]} == {
        ("manifest.csv:3", "unknown-split"),
        ("manifest.csv:4", "no-words"),
    }


def test_youcook2(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "youcookii_annotations_trainval.json").write_text(json.dumps(YOUCOOK))
    (tmp_path / "label_foodtype.csv").write_text("101,caldo verde\n113,grilled cheese\n")
    video = tmp_path / "raw_videos/training/113/GLd3aX16zBg.webm"
    video.parent.mkdir(parents=True)
    video.write_bytes(b"x")
    found = collect("clips", layout="youcook2", names="label_foodtype.csv")
    assert [(row["title"], row["videos"], row["split_item"]) for row in found["items"]] == [
        ("grilled cheese", ["raw_videos/training/113/GLd3aX16zBg.webm"], "train"),
        ("caldo verde", ["raw_videos/validation/101/xHr8X2Wpmno.mp4"], "test"),
    ]
    assert recipes(found["conversations"])["GLd3aX16zBg"] == {
        "ingredients": [],
        "steps": ["spread margarine on two slices of white bread", "place cheese on the bread"],
    }
    assert [row["topic"] for row in found["conversations"]] == ["dish", "recipe"] * 2
    found = collect("clips", layout="youcook2", splits={"validation": "valid"})
    assert [row["split_item"] for row in found["items"]] == ["train", "valid"]


def test_tasty_as_the_site_gives_it(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "recipes.json").write_text(json.dumps(TASTY_SITE))
    found = collect("clips", layout="tasty", topics=["dish", "recipe"])
    assert [(row["id"], row["title"], row["videos"]) for row in found["items"]] == [
        ("cranberry-bites", "Cranberry Bites", ["videos/cranberry-bites.mp4"])
    ]
    answer = found["conversations"][1]["turns"][1]["text"]
    assert answer == "ingredients : 12 oz fresh cranberries ; 3⁄4 cup sugar steps : Boil the cranberries, stir ; Serve"
    assert recipes(found["conversations"])["cranberry-bites"]["ingredients"] == [
        {"amount": 12.0, "unit": "oz", "name": "cranberry"},
        {"amount": 0.75, "unit": "cup", "name": "sugar"},
    ]


@pytest.mark.parametrize("form", ["array", "lines", "concatenated"])
def test_tasty_as_the_set_writes_it(tmp_path: Path, collect: Callable[..., Any], form: str) -> None:
    texts = [json.dumps(row) for row in TASTY_SET]
    content = {"array": json.dumps(TASTY_SET), "lines": "\n".join(texts), "concatenated": "".join(texts)}[form]
    (tmp_path / "recipes.json").write_text(content)
    found = collect("clips", layout="tasty", max_ingredients=1)
    assert [(row["id"], row["title"], row["split_item"]) for row in found["items"]] == [
        ("one-pot-pasta", "one pot pasta", "train"),
        ("egg-toast", "egg toast", "valid"),
    ]
    assert recipes(found["conversations"])["one-pot-pasta"]["ingredients"] == [
        {"amount": None, "unit": "", "name": "pasta"}
    ]
    assert ("items", "recipes.json#3", "no-words") in found["errors"]


def test_component_without_an_amount() -> None:
    unit = {"abbreviation": "", "system": "none"}
    component = {"raw_text": "", "ingredient": {"name": "salt"}, "measurements": [{"quantity": "0", "unit": unit}]}
    assert component_text(component) == "salt"


def test_wrong_layout_is_an_error(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "recipes.json").write_text(json.dumps(YOUCOOK))
    with pytest.raises(DataError, match="no clip in the layout 'tasty'"):
        collect("clips", layout="tasty")
