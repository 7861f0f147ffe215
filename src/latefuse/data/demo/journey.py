"""A planted sequence: which dish comes next follows from the user's taste and the dish before, and can be worked out.

A user stays with dishes of one origin, which their cards tell, and goes through the colours in a fixed cycle, which
their pictures show. Every dish is as popular as any other, so that popularity is worth nothing. What a user writes
about is the user's own: the same part of every dish, whose value only its picture shows.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latefuse.data.demo import words
from latefuse.data.demo.users import DAY, START
from latefuse.data.demo.world import COLOURS, ORIGINS, VISIBLE, Dish

BY_CHANCE = 0.1
"""How often the next dish is any that the user has not had."""
REVIEWED = 0.6
LEAST, MOST = 8, 16
"""How many dishes a user has."""
CYCLE = tuple(COLOURS)
NOTICED = VISIBLE["image"]


@dataclass(frozen=True)
class Traveller:
    """A user: origin, which never changes, and the part of a dish that this user writes about."""

    id: str
    name: str
    origin: str
    notices: str


def travellers(count: int, seed: int) -> list[Traveller]:
    """Users with origins and habits of their own; some share a name."""
    drawn = (random.Random(f"{seed}/traveller/{number}") for number in range(count))
    return [
        Traveller(
            f"user-{number:04d}",
            f"{rng.choice(words.COOKS)} {rng.choice(words.COOKS)}",
            rng.choice(list(ORIGINS)),
            rng.choice(NOTICED),
        )
        for number, rng in enumerate(drawn)
    ]


def after(colour: str) -> str:
    """The colour that comes next in the cycle."""
    return CYCLE[(CYCLE.index(colour) + 1) % len(CYCLE)]


def visits(menu: Sequence[Dish], count: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(event, review or None) of `count` users, one after the other, each in order of time, no dish twice.

    The first dish is any of the user's origin. Of what fits, one that the user has not had is drawn evenly; where none
    is left, or by chance, any dish. A dish that fits gets four stars or five, any other one at most three.
    """
    fitting: dict[tuple[str, str], list[Dish]] = {}
    for dish in menu:
        fitting.setdefault((dish.origin, dish.colour), []).append(dish)
    for number, user in enumerate(travellers(count, seed)):
        rng = random.Random(f"{seed}/journey/{number}")
        colour, had = rng.choice(CYCLE), set[str]()
        moment = START + rng.randrange(60 * DAY)
        for _ in range(min(rng.randint(LEAST, MOST), len(menu))):
            fits = [dish for dish in fitting.get((user.origin, colour), ()) if dish.id not in had]
            by_plan = bool(fits) and rng.random() >= BY_CHANCE
            dish = rng.choice(fits if by_plan else [dish for dish in menu if dish.id not in had])
            had.add(dish.id)
            colour = after(dish.colour)
            moment += rng.randint(600, 3 * DAY)
            event = {"user": user.id, "item": dish.id, "ts": moment, "kind": "view", "value": 0.0}
            yield event, _review(user, dish, moment, dish in fits, rng)


def _review(user: Traveller, dish: Dish, moment: int, fits: bool, rng: random.Random) -> dict[str, Any] | None:
    if rng.random() >= REVIEWED:
        return None
    stars = rng.choice((4, 5) if fits else (1, 2, 3))
    about = {"user": user.id, "item": dish.id, "ts": moment + 60, "stars": float(stars)}
    return {**about, **words.review(dish, stars, rng, (user.notices,))}


def chances(
    origins: Sequence[str], colours: Sequence[str], origin: Sequence[str], last: Sequence[str], seen: np.ndarray
) -> np.ndarray:
    """(m, n) the probability of each of n dishes to be a user's next: the best that any recommender could know.

    origins, colours: of the dishes. origin: (m,) of each user. last: (m,) the colour of each user's last dish.
    seen: (m, n) bool, what the user has had. A row sums to 1, to 0 where nothing is left.
    """
    wanted = np.array([after(colour) for colour in last])
    fits = (np.asarray(origins) == np.asarray(origin)[:, None]) & (np.asarray(colours) == wanted[:, None]) & ~seen
    some, left = fits.sum(1, keepdims=True), (~seen).sum(1, keepdims=True)
    by_chance = np.where(some > 0, BY_CHANCE, 1.0)
    return np.asarray((1 - by_chance) * fits / np.maximum(some, 1) + by_chance * ~seen / np.maximum(left, 1))


def hit_rate(chances: np.ndarray, k: int) -> float:
    """The expected HR@k of who names the k likeliest dishes. chances: (m, n)."""
    return float(np.sort(chances, axis=1)[:, -k:].sum(1).mean())
