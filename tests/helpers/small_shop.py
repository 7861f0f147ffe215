"""Events and reviews by leave-one-out, with names, split as `prepare` splits: for tests of personalised rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from latefuse.data import splits
from latefuse.data.dataset import Dataset, store_medium, write_dataset


def events(lengths: list[int], items: int, seed: int = 0, again: bool = False) -> list[dict[str, Any]]:
    """A user per length, shuffled among each other; each item once per user unless `again`; some share a second."""
    rng = np.random.default_rng(seed)
    rows = [
        {"user": f"u{user}", "item": f"i{item}", "ts": 1_000 + at // 2}
        for user, length in enumerate(lengths)
        for at, item in enumerate(rng.choice(items, length, replace=again))
    ]
    rows = [rows[at] for at in np.lexsort((rng.random(len(rows)), [row["ts"] for row in rows]))]
    codes = splits.leave_one_out(
        np.array([int(row["user"][1:]) for row in rows]), np.array([row["ts"] for row in rows]), np.full(len(rows), -1)
    )
    return [{**row, "split_loo": splits.NAMES[code]} for row, code in zip(rows, codes, strict=True)]


def shop(
    out: Path, lengths: list[int], items: int = 60, seed: int = 0, again: bool = False, pictures: bool = False
) -> Dataset:
    """A dataset of these events; every other event has a review, every third of them no headline. pictures: whether
    items have one, each of its own colour, but for every seventh."""
    rows = events(lengths, items, seed, again)
    reviews = [
        {
            **row, "stars": 1 + number % 5, "headline": "" if number % 3 == 0 else f"headline {number}",
            "feature": "" if number % 7 == 0 else "mint", "text": f"the mint of {row['item']} is {number} .",
        }
        for number, row in enumerate(rows[::2])
    ]  # fmt: skip
    tables = {
        "items": [
            {
                "id": f"i{number}",
                "number": number,
                "title": f"thing {number}",
                "images": _pictures(out, number, pictures),
            }
            for number in range(items)
        ],
        "users": [{"id": "u0", "name": "ana"}, {"id": "u1", "name": ""}],
        "events": rows,
        "reviews": reviews,
    }
    return write_dataset(out, tables)


def _pictures(out: Path, number: int, wanted: bool) -> list[str]:
    if not wanted or number % 7 == 0:
        return []
    raw = out.parent / f"{out.name}-{number}.png"
    Image.new("RGB", (32, 32), (number * 4 % 256, 255 - number * 3 % 256, 80)).save(raw)
    return [store_medium(out, raw)]
