"""A planted probe: behaviour in which nothing but the picture tells what belongs together."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from latefuse.data.demo.users import DAY, START
from latefuse.data.demo.world import Dish
from latefuse.data.errors import DataError

LOOK = ("colour", "garnish", "plating")
"""What a picture shows and neither card nor clip."""


def look(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The look of a dish, by its planted attributes. Raises DataError where it has none: only the demo plants them."""
    if missing := [part for part in LOOK if part not in attributes]:
        raise DataError(f"an item has no planted {missing[0]!r} among its attributes; only those of the demo do")
    return tuple(str(attributes[part]) for part in LOOK)


def visits(menu: Sequence[Dish], count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The events of `count` users that each love one look and see 4 to 8 of its dishes, as many as there are.

    One after the other within four days, each dish once, none by chance. Users are spread evenly over the looks that
    two dishes or more have. Raises DataError where there is no such look.
    """
    dishes: dict[tuple[str, ...], list[Dish]] = {}
    for dish in menu:
        dishes.setdefault(look(vars(dish)), []).append(dish)
    shared = [alike for alike in dishes.values() if len(alike) > 1]
    if not shared:
        raise DataError(f"data.options.dishes: no two of {len(menu)} dishes look alike; ask for more")
    random.Random(f"{seed}/looks").shuffle(shared)
    for number in range(count):
        rng = random.Random(f"{seed}/look/{number}")
        alike = shared[number % len(shared)]
        moment = START + rng.randrange(60 * DAY)
        for dish in rng.sample(alike, min(len(alike), rng.randint(4, 8))):
            moment += rng.randint(600, DAY // 2)
            yield {"user": f"user-{number:04d}", "item": dish.id, "ts": moment, "kind": "view", "value": 0.0}
