"""The best reachable score of each modality on the demo, read from the very frames and pixels that a model is given.

Pictures and frames are read by the nearest drawing among all that the demo can draw. A name of which a modality shows
only some parts is a fair guess among the names that fit what was read, so top-1 is one in the number of those.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from latefuse.data import media
from latefuse.data.dataset import Dataset
from latefuse.data.demo import journey, pictures, words, world
from latefuse.data.demo.lessons import PIXELS, POT, shrink
from latefuse.data.demo.looks import look
from latefuse.data.errors import DataError
from latefuse.evaluation.generation import recipe_scores

FRAMES = 8
Scores = dict[str, float]
Read = Mapping[str, Any]
T = TypeVar("T")


def oracle(dataset: Path, rows: Sequence[Mapping[str, Any]], frames: int = FRAMES) -> dict[str, Scores]:
    """Row id -> metric -> best reachable value, for rows of the conversations table (media in place or absent).

    rows need id, modality, topic, media, turns and truth (JSON text or a mapping).
    """
    reader = _Reader(Dataset(dataset), frames)
    return {row["id"]: reader.scores(row) for row in rows}


def oracle_fused(dataset: Path, items: Iterable[str], frames: int = FRAMES) -> dict[str, Scores]:
    """Item -> the best reachable name scores with photo, clip and card together."""
    data = Dataset(dataset)
    reader = _Reader(data, frames)
    rows = [row for row in data.rows("conversations") if row["topic"] == "dish"]
    found = {}
    for item in items:
        views: dict[str, Read] = {}
        for row in rows:
            if row["item"] == item:
                views.setdefault(row["modality"], reader.read(row))
        found[item] = reader.name_scores({key: value for view in views.values() for key, value in view.items()}, item)
    return found


def same_look(items: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(items,) int64: items of one code look alike, and belong together where behaviour is that of `looks`.

    items: rows of the items table, their attributes as JSON text or as a mapping.
    """
    codes: dict[tuple[str, ...], int] = {}
    planted = (row["attributes"] for row in items)
    looks = (look(json.loads(one) if isinstance(one, str) else one) for one in planted)
    return np.array([codes.setdefault(one, len(codes)) for one in looks], np.int64)


def next_dish(data: Dataset, users: Sequence[str], last: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(m, items) float64: how likely each dish is the next one of a user, where the demo's visits are a `journey`.

    last: (m,) item codes of the dishes had last. seen: (m, items) bool, what each user has had. Raises DataError where
    the users have no planted origin.
    """
    items = [json.loads(row["attributes"]) for row in data.rows("items")]
    planted = {row["id"]: json.loads(row["attributes"]) for row in data.rows("users")}
    if strangers := [user for user in users if "origin" not in planted.get(user, {})]:
        raise DataError(f"user {strangers[0]!r} has no planted 'origin'; only users on a journey of the demo do")
    origins, colours = [one["origin"] for one in items], [one["colour"] for one in items]
    return journey.chances(
        origins, colours, [planted[user]["origin"] for user in users], [colours[code] for code in last], seen
    )


def read_picture(pixels: np.ndarray) -> Read:
    """colour, garnish, main and plating of one picture. pixels: (48, 48, 3) uint8."""
    plating, colour = _nearest(pixels, *_plates())
    garnish, main = _nearest(pixels, *_toppings(plating, colour), slack=1)
    return {"colour": colour, "garnish": garnish, "main": main, "plating": plating}


def read_clip(frames: np.ndarray) -> Read:
    """main, technique and additions of a clip. frames: (n, 48, 48, 3) uint8 in order."""
    steps = [_read_frame(frame) for frame in frames]
    once = [step for k, step in enumerate(steps) if k == 0 or steps[k - 1] != step]
    additions = tuple(step for step in once if step[0] in world.INGREDIENTS)
    techniques = [name for name, _ in once if name in world.TECHNIQUES]
    mains = [name for name, _ in additions if name in world.MAINS]
    read: dict[str, Any] = {"additions": additions}
    if techniques:
        read["technique"] = techniques[-1]
    if mains:
        read["main"] = mains[0]
    return read


def _read_frame(pixels: np.ndarray) -> tuple[str, int]:
    """(ingredient, times), or (technique, 0): slot by slot, then whichever drawing explains the whole frame better."""
    side = PIXELS // 3
    cells = [
        pixels[side * (k // 3) : side * (k // 3 + 1), side * (k % 3) : side * (k % 3 + 1)]
        for k in range(pictures.SLOTS)
    ]
    found = [_nearest(cell, *_cells(), slack=1) for cell in cells]
    filled = [slot for slot, name in enumerate(found) if name]
    technique, _ = _nearest(pixels[:POT], *_techniques())
    if not filled:
        return technique, 0
    name = max(sorted(set(found) - {""}), key=found.count)
    look = world.INGREDIENTS[name]
    drawn = _Drawings.of(
        shrink(pictures.addition_frame(look.colour, look.shape, filled, fall, 0, _Still()))[:POT]
        for fall in pictures.PHASES
    )
    added = drawn.distances(pixels[:POT]).min() < _techniques()[1].distances(pixels[:POT]).min()
    return (name, len(filled)) if added else (technique, 0)


def read_card(text: str) -> Read:
    """origin and allergens of a card."""
    known = set(text.split())
    origins = [origin for origin, towns in world.ORIGINS.items() if known & set(towns)]
    held = sorted(allergen for allergen, traces in world.ALLERGENS.items() if known & set(traces))
    return {"origin": origins[0], "allergens": tuple(held)} if origins else {}


@lru_cache(maxsize=4_096)
def _read_file(path: Path, modality: str, frames: int) -> Read:
    """A medium is asked about more than once, and read once."""
    if modality == "image":
        return read_picture(shrink(media.open_image(path)))
    return read_clip(np.stack([shrink(frame) for frame in media.read_frames(path, frames)]))


@dataclass
class _Reader:
    data: Dataset
    frames: int

    @cached_property
    def planted(self) -> dict[str, dict[str, Any]]:
        """Item -> its planted attributes."""
        return {row["id"]: json.loads(row["attributes"]) for row in self.data.rows("items")}

    def read(self, row: Mapping[str, Any]) -> Read:
        """What a row's own medium or card shows."""
        if row["modality"] == "text":
            return read_card(row["turns"][0]["text"])
        path = row["media"][0]["path"] if row["media"] else ""
        if not path:
            return {}
        return _read_file(self.data.media(path), row["modality"], self.frames)

    def scores(self, row: Mapping[str, Any]) -> Scores:
        read = self.read(row)
        truth = json.loads(row["truth"]) if isinstance(row["truth"], str) else row["truth"]
        if "recipe" in truth:
            return self.recipe_scores(read, row["turns"][-1]["text"], truth["recipe"])
        if "answer" in truth:
            said = (
                " ".join(read.get("allergens", ())) or "none" if row["topic"] == "allergens" else read.get("origin", "")
            )
            return {"exact_match": float(said == truth["answer"]), "answer_top1": float(said == truth["answer"])}
        return self.name_scores(read, row["item"])

    def name_scores(self, read: Read, item: str) -> Scores:
        """A fair guess among the names that fit."""
        parts = {part: read[part] for part in world.NAME_PARTS if part in read}
        fitting = {
            known["name"] for known in self.planted.values() if all(known[p] == value for p, value in parts.items())
        }
        if self.planted[item]["name"] not in fitting:
            return {"dish_top1": 0.0, "dish_top5": 0.0}
        return {"dish_top1": 1 / len(fitting), "dish_top5": min(1.0, 5 / len(fitting))}

    def recipe_scores(self, read: Read, reference: str, truth: Mapping[str, Any]) -> Scores:
        """The scores of the recipe that the frames tell."""
        said = words.recipe_text(read.get("additions", ()), read.get("technique", ""))
        return {name: value for name, (value, _) in recipe_scores(said, reference, truth).items()}


@dataclass(frozen=True)
class _Drawings:
    """Drawings of one kind, flat: (n, height*width*3) float32, and their squared norms (n,)."""

    flat: np.ndarray
    norms: np.ndarray

    @classmethod
    def of(cls, images: Iterable[np.ndarray]) -> _Drawings:
        flat = np.stack([image.astype(np.float32).reshape(-1) for image in images])
        return cls(flat, np.einsum("ij,ij->i", flat, flat))

    def distances(self, pixels: np.ndarray) -> np.ndarray:
        """(n,) squared distances."""
        flat = pixels.astype(np.float32).reshape(-1)
        return self.norms - 2 * (self.flat @ flat) + flat @ flat


def _nearest(pixels: np.ndarray, values: Sequence[T], drawings: _Drawings, slack: int = 0) -> T:
    """The value whose drawing is nearest, with the picture moved by up to `slack` pixels."""
    moves = [(dy, dx) for dy in range(-slack, slack + 1) for dx in range(-slack, slack + 1)]
    away = np.min([drawings.distances(np.roll(pixels, move, (0, 1))) for move in moves], axis=0)
    return values[int(np.argmin(away))]


class _Still(random.Random):
    """Draws everything where it belongs, but for a given turn of the bits."""

    def __init__(self, turn: float = 0.0) -> None:
        super().__init__(0)
        self.turn = turn

    def uniform(self, a: float, b: float) -> float:
        return self.turn if b < 1 else (a + b) / 2


def _scene(colour: str, garnish: str, main: str, plating: str, turn: float) -> np.ndarray:
    shape = world.INGREDIENTS[main].shape
    return shrink(pictures.scene(world.COLOURS[colour][0], world.GARNISHES[garnish], shape, plating, _Still(turn)))


@cache
def _plates() -> tuple[list[tuple[str, str]], _Drawings]:
    values = list(product(world.PLATINGS, world.COLOURS))
    return values, _Drawings.of(_scene(colour, "mint", "rice", plating, 0.0) for plating, colour in values)


@cache
def _toppings(plating: str, colour: str) -> tuple[list[tuple[str, str]], _Drawings]:
    drawn = [
        (garnish, main, turn) for garnish in world.GARNISHES for main in world.MAINS for turn in (-0.07, 0.0, 0.07)
    ]
    return [(garnish, main) for garnish, main, _ in drawn], _Drawings.of(
        _scene(colour, g, m, plating, t) for g, m, t in drawn
    )


@cache
def _cells() -> tuple[list[str], _Drawings]:
    side = PIXELS // 3
    middle = (slice(0, side), slice(side, 2 * side))
    names = [*world.INGREDIENTS, *world.INGREDIENTS, *world.INGREDIENTS, ""]
    falls = [fall for fall in pictures.PHASES for _ in world.INGREDIENTS]
    looks = [world.INGREDIENTS[name] for name in names if name]
    images = [
        pictures.addition_frame(look.colour, look.shape, (1,), fall, 0, _Still())
        for look, fall in zip(looks, falls, strict=True)
    ]
    images.append(pictures.addition_frame("red", "disc", (), 0.0, 0, _Still()))
    return names, _Drawings.of(shrink(image)[middle] for image in images)


@cache
def _techniques() -> tuple[list[tuple[str, int]], _Drawings]:
    drawn = [(name, shown, phase) for name, shown in world.TECHNIQUES.items() for phase in (0.0, 1 / 3, 1 / 2, 2 / 3)]
    return [(name, 0) for name, _, _ in drawn], _Drawings.of(
        shrink(pictures.technique_frame(s, p, 0))[:POT] for _, s, p in drawn
    )
