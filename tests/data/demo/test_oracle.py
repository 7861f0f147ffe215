"""The oracle reads pixels, not files of truth, and knows what each modality can't show."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from latefuse.data import media
from latefuse.data.demo import clips, oracle, pictures, words, world
from latefuse.data.demo.lessons import shrink


@pytest.fixture(scope="module")
def menu() -> list[world.Dish]:
    return world.dishes(60, 5)


def test_pictures_are_read_right(menu: list[world.Dish]) -> None:
    for k, dish in enumerate(menu[:24]):
        read = oracle.read_picture(shrink(pictures.dish_picture(dish, random.Random(k))))
        assert read == {part: getattr(dish, part) for part in world.VISIBLE["image"]}


def test_clips_are_read_right_after_encoding(menu: list[world.Dish], tmp_path: Path) -> None:
    for k, dish in enumerate(menu[:12]):
        path = tmp_path / f"{k}.mp4"
        frames = clips.dish_frames(dish, random.Random(k))
        assert 8 <= len(frames) <= 16
        clips.write_clip(frames, path)
        shown = np.stack([shrink(frame) for frame in media.read_frames(path, 8)])
        assert oracle.read_clip(shown) == {"additions": dish.additions, "technique": dish.technique, "main": dish.main}


def test_cards_are_read_right(menu: list[world.Dish]) -> None:
    for dish in menu:
        read = oracle.read_card(words.card(dish, random.Random(dish.id)))
        assert read == {"origin": dish.origin, "allergens": dish.allergens}


def test_a_grey_picture_is_no_dish() -> None:
    grey = np.full((8, 48, 48, 3), 128, np.uint8)
    assert oracle.read_clip(grey)["additions"] == ()
