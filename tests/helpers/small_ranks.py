"""A small shop with behaviour: users who like items of one colour, which the picture shows and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

from latefuse.data.dataset import Dataset, store_medium, write_dataset

COLOURS = ("red", "green", "blue", "white")
TAGS = ("cheap", "new", "old", "rare")
CUTS = (0.7, 0.85)


def items(out: Path, count: int) -> list[dict[str, Any]]:
    """Items of one colour each; every seventh has no picture, every fifth no words."""
    raw = out.parent / f"{out.name}-raw"
    raw.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        path = raw / f"{number}.png"
        Image.new("RGB", (32 + number, 32), COLOURS[number % len(COLOURS)]).save(path)
        told = {"tags": [TAGS[number % 4], TAGS[number // 4 % 4]], "price": 1.5 * number, "shop": f"s{number % 3}"}
        found.append(
            {
                "id": f"item-{number}",
                "title": "" if number % 5 == 0 else f"thing {TAGS[number // 4 % 4]}",
                "attributes": json.dumps(told if number % 4 else {key: told[key] for key in ("tags", "shop")}),
                "images": [] if number % 7 == 0 else [store_medium(out, path)],
            }
        )
    return found


def events(users: int, each: int, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Events in no order of time, some of one second; users come to items of all colours and like those of one."""
    rng, found = random.Random(seed), []
    for user in range(users):
        for _ in range(each):
            number, ts = rng.randrange(count), rng.randrange(1, 4 * each)
            liked = number % len(COLOURS) == user % len(COLOURS) and rng.random() < 0.9
            found.append({"user": f"user-{user}", "item": f"item-{number}", "ts": ts, "value": float(liked)})
    last = [sorted(row["ts"] for row in found)[int(len(found) * share)] for share in CUTS]
    for row in found:
        row["split_time"] = "train" if row["ts"] < last[0] else "valid" if row["ts"] < last[1] else "test"
        row["split_loo"] = row["split_time"]
    rng.shuffle(found)
    return found


def shop(out: Path, users: int = 8, each: int = 60, count: int = 20) -> Dataset:
    """The shop as a dataset in `out`."""
    return write_dataset(out, {"items": items(out, count), "events": events(users, each, count)}, source="shop")
