"""Public-domain recipes, with and without photos."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import pytest

from latefuse.data.dataset import Dataset

SETS = {"recipes_public_domain": (405, 138), "recipes_nononsense": (20, 19)}


@pytest.mark.parametrize("name", SETS)
def test_recipes(prepared: Callable[..., Dataset], name: str) -> None:
    dataset = prepared("recipes", name)
    items = dataset.table("items", columns=["images", "text"]).to_pylist()
    assert (len(items), sum(bool(row["images"]) for row in items)) == SETS[name]
    assert all(row["text"] for row in items)
    assert dataset.manifest["quarantine"] == {}
    rows = dataset.rows("conversations", where={"topic": "recipe"})
    assert Counter(row["modality"] for row in rows)["text"] == len(items)
    whole = {row["id"]: row["text"].count("\n") for row in dataset.rows("items")}
    kept = {row["item"]: json.loads(row["truth"])["recipe"] for row in rows}
    parts = {key: len(recipe["ingredients"]) + len(recipe["steps"]) for key, recipe in kept.items()}
    assert sum(parts[key] >= whole[key] - 1 for key in whole) > 0.9 * len(whole), "entries are neither merged nor lost"


def test_most_amounts_are_read(prepared: Callable[..., Dataset]) -> None:
    dataset = prepared("recipes", "recipes_nononsense")
    truths = [json.loads(row["truth"])["recipe"] for row in dataset.rows("conversations", where={"modality": "text"})]
    ingredients = [one for truth in truths for one in truth["ingredients"]]
    assert sum(one["amount"] is not None for one in ingredients) > 0.5 * len(ingredients)
