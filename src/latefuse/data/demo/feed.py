"""A planted probe for rankers: users scroll through dishes and like one in fifty, and the picture decides which."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from latefuse.data.demo import words
from latefuse.data.demo.users import DAY, START
from latefuse.data.demo.world import COLOURS, ORIGINS, Dish

DAYS = 90
MISSED, BY_CHANCE = 0.05, 0.0005
"""How often a dish that a user loves is passed over, and how often any other one is liked."""
TOLD = ("main", "technique", "origin")
"""What a review in a feed may name: nothing that only the picture shows."""


@dataclass(frozen=True)
class Diner:
    """A user and what a dish must be to be liked: colour, which only its picture shows, and origin, which its card
    tells. One dish in forty-eight is both.
    """

    id: str
    colour: str
    origin: str

    def loves(self, dish: Dish) -> bool:
        """Whether the dish is what this user likes."""
        return dish.colour == self.colour and dish.origin == self.origin


def diners(count: int, seed: int) -> list[Diner]:
    """Users with tastes of their own."""
    drawn = (random.Random(f"{seed}/diner/{number}") for number in range(count))
    return [
        Diner(f"user-{number:04d}", rng.choice(list(COLOURS)), rng.choice(list(ORIGINS)))
        for number, rng in enumerate(drawn)
    ]


def shown(
    menu: Sequence[Dish], count: int, each: int, seed: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(event, review or None) of every dish that is shown: `each` distinct ones a user, over three months.

    An event is of kind `shown` with value 1 where the dish is liked, else 0. Half of what is liked is reviewed, and one
    in a hundred of the rest; reviews name what the card tells. Users come one after the other, each in order of time.
    """
    for number, diner in enumerate(diners(count, seed)):
        rng = random.Random(f"{seed}/feed/{number}")
        dishes = rng.sample(menu, min(each, len(menu)))
        moments = sorted(rng.randrange(DAYS * DAY) for _ in dishes)
        for dish, moment in zip(dishes, moments, strict=True):
            liked = rng.random() >= MISSED if diner.loves(dish) else rng.random() < BY_CHANCE
            event = {"user": diner.id, "item": dish.id, "ts": START + moment, "kind": "shown", "value": float(liked)}
            yield event, _review(event, dish, liked, rng)


def _review(event: dict[str, Any], dish: Dish, liked: bool, rng: random.Random) -> dict[str, Any] | None:
    if rng.random() >= (0.5 if liked else 0.01):
        return None
    stars = rng.choice((4, 5) if liked else (1, 2, 3))
    about = {"user": event["user"], "item": event["item"], "ts": event["ts"] + 60, "stars": float(stars)}
    return {**about, **words.review(dish, stars, rng, TOLD)}
