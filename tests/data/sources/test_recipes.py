"""Recipe lines with photos: what is asked, what is cut and only where the recipe says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError
from latefuse.data.sources.rows import recipe_answer

SOUP = {
    "slug": "soup",
    "title": "Pea soup",
    "images": ["soup-1.jpg", "soup-2.jpg", "soup-1.jpg"],
    "ingredients": ["500 g beans; frozen", "1 1/2 cups water", "salt"],
    "steps": ["Boil the [peas](/peas) for 10 minutes.", "For the ingredients: blend; then salt.", "Serve hot ."],
    "tags": ["green"],
}
TOAST = {
    "slug": "toast",
    "title": "Toast",
    "images": [],
    "ingredients": ["2 slices bread"],
    "steps": ["Toast the bread."],
}


@pytest.fixture
def kitchen(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "recipes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (SOUP, TOAST)))
    return tmp_path


def test_items_keep_the_whole_recipe(kitchen: Path, collect: Callable[..., Any]) -> None:
    found = collect("recipes", max_steps=1, max_ingredients=1)
    soup, toast = found["items"]
    assert soup["images"] == ["images/soup-1.jpg", "images/soup-2.jpg"]
    assert soup["text"].splitlines() == [*SOUP["ingredients"], "", *SOUP["steps"]]
    assert json.loads(soup["attributes"]) == {"tags": ["green"]}
    assert toast["images"] == []


def test_conversations(kitchen: Path, collect: Callable[..., Any]) -> None:
    rows = {row["id"]: row for row in collect("recipes")["conversations"]}
    assert sorted(rows) == ["dish:soup#0", "dish:soup#1", "recipe:soup#0", "recipe:soup#1", "text:soup", "text:toast"]
    assert json.loads(rows["dish:soup#1"]["truth"]) == {"name": "Pea soup", "names": "dish"}
    assert rows["dish:soup#1"]["media"] == [{"modality": "image", "path": "images/soup-2.jpg"}]
    assert (rows["text:toast"]["modality"], rows["text:toast"]["topic"]) == ("text", "recipe")
    assert "Toast" in rows["text:toast"]["turns"][0]["text"]
    truth = json.loads(rows["recipe:soup#0"]["truth"])["recipe"]
    assert truth["ingredients"] == [
        {"amount": 500.0, "unit": "g", "name": "bean"},
        {"amount": 1.5, "unit": "cup", "name": "water"},
        {"amount": None, "unit": "", "name": "salt"},
    ]
    assert truth["steps"][0] == "Boil the peas for 10 minutes"


def test_answer_is_one_line_that_keeps_every_entry() -> None:
    bold = ["**1 kg of black beans**, drained", "½ cup sugar", "salt; pepper"]
    answer, truth = recipe_answer(bold, ["Method: stir.", "* Bake", "Steps: 1. cool 2. eat"])
    assert answer == (
        "ingredients : 1 kg of black beans, drained ; ½ cup sugar ; salt, pepper "
        "steps : Method - stir ; * Bake ; Steps - 1. cool 2. eat"
    )
    assert truth["recipe"] == {
        "ingredients": [
            {"amount": 1.0, "unit": "kg", "name": "black bean"},
            {"amount": 0.5, "unit": "cup", "name": "sugar"},
            {"amount": None, "unit": "", "name": "salt"},
        ],
        "steps": ["Method - stir", "Bake", "Steps - 1. cool 2. eat"],
    }


def test_shortening_is_an_option(kitchen: Path, collect: Callable[..., Any]) -> None:
    rows = collect("recipes", max_ingredients=2, max_steps=1, max_words=3, topics=["text"])["conversations"]
    assert rows[0]["turns"][1]["text"] == "ingredients : 500 g beans, frozen ; 1 1/2 cups water steps : Boil the peas"
    truth = json.loads(rows[0]["truth"])["recipe"]
    assert (len(truth["ingredients"]), truth["steps"]) == (2, ["Boil the peas"])


def test_photos_only(kitchen: Path, collect: Callable[..., Any]) -> None:
    assert [row["id"] for row in collect("recipes", photos_only=True)["items"]] == ["soup"]


def test_placeholders_in_a_title_open_no_slot(kitchen: Path, collect: Callable[..., Any]) -> None:
    (kitchen / "recipes.jsonl").write_text(json.dumps({**TOAST, "title": "Toast <image>"}) + "\n")
    row = collect("recipes", topics=["text"])["conversations"][0]
    assert row["media"] == []
    assert "\\<image>" in row["turns"][0]["text"]


def test_broken_rows(kitchen: Path, collect: Callable[..., Any]) -> None:
    bad = [{**TOAST, "ingredients": "bread"}, {**TOAST, "title": ""}, {**TOAST, "steps": [1]}]
    (kitchen / "recipes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [SOUP, *bad]) + "{torn\n")
    errors = [entry[1:] for entry in collect("recipes")["errors"] if entry[0] == "items"]
    assert errors == [
        ("recipes.jsonl:2", "wrong-type"),
        ("recipes.jsonl:3", "missing-value"),
        ("recipes.jsonl:4", "wrong-type"),
        ("recipes.jsonl:5", "not-json"),
    ]


def test_missing_key(kitchen: Path, collect: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"missing column 'name'"):
        collect("recipes", columns={"title": "name"})
