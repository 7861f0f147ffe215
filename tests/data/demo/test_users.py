"""Planted tastes: behaviour follows them, and each modality's share of them is computable."""

from __future__ import annotations

import numpy as np
import pytest

from latefuse.data.demo import users, world


@pytest.fixture(scope="module")
def menu() -> list[world.Dish]:
    return world.dishes(200, 7)


def test_utilities_equal_a_plain_sum_over_tastes(menu: list[world.Dish]) -> None:
    people = users.users(5, 3)
    for modality in (None, "image", "video", "text"):
        shown = users.SHOWN_BY[modality] if modality else tuple(users.TASTES)
        expected = [
            [
                sum(w for key, w in user.taste.items() if key in users.features(dish) and key[0] in shown)
                for dish in menu
            ]
            for user in people
        ]
        np.testing.assert_allclose(users.utilities(people, menu, modality), expected, rtol=1e-6)


def test_liked_dishes_have_more_utility_and_no_dish_comes_twice(menu: list[world.Dish]) -> None:
    people = users.users(40, 3)
    planted = users.utilities(people, menu)
    column = {dish.id: k for k, dish in enumerate(menu)}
    row = {user.id: k for k, user in enumerate(people)}
    visits = [event for event, _ in users.behaviour(people, menu, 3)]
    score = {
        kind: np.mean([planted[row[e["user"]], column[e["item"]]] for e in visits if e["kind"] == kind])
        for kind in ("like", "view")
    }
    assert score["like"] > score["view"] + 1
    assert len({(e["user"], e["item"]) for e in visits}) == len(visits)
    for user in people:
        moments = [e["ts"] for e in visits if e["user"] == user.id]
        assert moments == sorted(moments)


def test_behaviour_is_repeatable(menu: list[world.Dish]) -> None:
    people = users.users(3, 1)
    assert list(users.behaviour(people, menu, 1)) == list(users.behaviour(people, menu, 1))
