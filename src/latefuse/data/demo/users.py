"""Users with planted tastes: events and reviews follow the attributes of the dishes, modality by modality."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latefuse.data.demo import words
from latefuse.data.demo.world import ALLERGENS, ATTRIBUTES, EXTRAS, VISIBLE, Dish

START = 1_700_000_000
DAY = 86_400
LIKED = 2.0

TASTES: Mapping[str, tuple[str, ...]] = {
    **ATTRIBUTES,
    "addition": EXTRAS,
    "allergen": tuple(ALLERGENS),
}
"""Attribute -> values that a user may love; an allergen is avoided instead."""

SHOWN_BY: Mapping[str, tuple[str, ...]] = {
    "image": VISIBLE["image"],
    "video": ("main", "technique", "addition"),
    "text": ("origin", "allergen"),
}
"""Modality -> the tastes that it can serve."""


@dataclass(frozen=True)
class User:
    """A user and the planted taste: (attribute, value) -> weight."""

    id: str
    taste: Mapping[tuple[str, str], float]


def users(count: int, seed: int) -> list[User]:
    """Users that each love two looks, one thing of the clip and one origin, and half of whom avoid an allergen."""
    return [_user(f"user-{k:04d}", random.Random(f"{seed}/user/{k}")) for k in range(count)]


def _user(name: str, rng: random.Random) -> User:
    looks = rng.sample(("colour", "garnish", "plating"), 2)
    loved = [*looks, rng.choice(("main", "technique", "addition")), "origin"]
    taste = {(part, rng.choice(TASTES[part])): rng.uniform(1.0, 2.0) for part in loved}
    if rng.random() < 0.5:
        taste["allergen", rng.choice(TASTES["allergen"])] = -3.0
    return User(name, taste)


def features(dish: Dish) -> set[tuple[str, str]]:
    """Every (attribute, value) that a taste can meet in a dish."""
    planted = {(part, getattr(dish, part)) for part in ATTRIBUTES}
    planted |= {("addition", name) for name, _ in dish.additions}
    return planted | {("allergen", allergen) for allergen in dish.allergens}


def utilities(people: Sequence[User], menu: Sequence[Dish], modality: str | None = None) -> np.ndarray:
    """(users, dishes) planted utility; with a modality, only the tastes that it shows: the modality's oracle score."""
    shown = SHOWN_BY[modality] if modality else tuple(TASTES)
    columns = {key: k for k, key in enumerate((part, value) for part in shown for value in TASTES[part])}
    weights = np.zeros((len(people), len(columns)), np.float32)
    held = np.zeros((len(menu), len(columns)), np.float32)
    for row, user in enumerate(people):
        for key, weight in user.taste.items():
            if key in columns:
                weights[row, columns[key]] = weight
    for row, dish in enumerate(menu):
        for key in features(dish) & columns.keys():
            held[row, columns[key]] = 1
    return weights @ held.T


def behaviour(
    people: Sequence[User], menu: Sequence[Dish], seed: int
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """(event, review or None) per visit, in time order per user, no dish twice.

    Two thirds of the visits are drawn with odds exp(utility), one third by chance, so that both labels occur.
    """
    planted = utilities(people, menu)
    for row, user in enumerate(people):
        rng = np.random.default_rng([seed, row])
        visits = int(rng.integers(8, 25))
        by_taste = np.argsort(-(planted[row] + rng.gumbel(size=len(menu))))[: visits * 2 // 3]
        by_chance = rng.permutation(np.setdiff1d(np.arange(len(menu)), by_taste))[: visits - len(by_taste)]
        chosen = np.concatenate([by_taste, by_chance])
        rng.shuffle(chosen)
        moment = START + int(rng.integers(0, 60 * DAY))
        for k, column in enumerate(chosen):
            moment += int(rng.exponential(3 * DAY)) + 60
            yield _visit(user, menu[column], float(planted[row, column]), moment, random.Random(f"{seed}/{row}/{k}"))


def _visit(
    user: User, dish: Dish, utility: float, moment: int, rng: random.Random
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    liked = utility + rng.gauss(0, 0.5) > LIKED
    event = {"user": user.id, "item": dish.id, "ts": moment, "kind": "like" if liked else "view", "value": float(liked)}
    if rng.random() > 0.3:
        return event, None
    stars = max(1, min(5, round(3 + utility + rng.gauss(0, 0.7))))
    return event, {
        "user": user.id,
        "item": dish.id,
        "ts": moment + 3_600,
        "stars": float(stars),
        **words.review(dish, stars, rng),
    }
