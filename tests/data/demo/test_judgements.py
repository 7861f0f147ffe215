"""Every label of the generated judgements against what the dish is, read back out of the text."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest

from latefuse.data.demo import judgements, world
from latefuse.data.demo.judgements import Asked

DISHES = 600
PLACES = {
    "colour": r"(\w+) food|food : (\w+)", "top": r"(\w+ \w+) on top|on top : (\w+ \w+)",
    "bits": r"(\w+) bits|bits : (\w+)", "plate": r"(\w+) plate|plate : (\w+)",
}  # fmt: skip


@pytest.fixture(scope="module")
def asked() -> list[tuple[world.Dish, Asked]]:
    menu = world.dishes(DISHES, 3)
    return [(dish, one) for dish in menu for one in judgements.judgements(dish, menu, random.Random(dish.id))]


def _claims(text: str) -> dict[str, str]:
    """Part -> value, read from the text behind a card."""
    told = text.split("\n", 1)[1] if text.startswith("card ") else text
    found = {part: re.search(pattern, told) for part, pattern in PLACES.items()}
    return {part: next(filter(None, one.groups())) for part, one in found.items() if one}


def _shown(dish: world.Dish) -> dict[str, str]:
    """What is drawn, from the tables that the drawing reads."""
    (colour, _), top = world.COLOURS[dish.colour], world.GARNISHES[dish.garnish]
    bits = world.INGREDIENTS[dish.main].shape
    return {"colour": colour, "top": f"{top[0]} {top[1]}", "bits": bits, "plate": dish.plating}


def _truth(dish: world.Dish, one: Asked) -> bool:
    if one.task == "step":
        food, times = dish.additions[0]
        look = world.INGREDIENTS[food]
        return one.text == f"{times} {look.colour} {look.shape}"
    shown = _shown(dish)
    fits = {part: shown[part] == value for part, value in _claims(one.text).items()}
    if one.task == "every":
        return all(fits.values())
    return any(fits.values()) if one.task == "some" else fits[one.task.removeprefix("only-")]


def test_every_label_follows_from_the_dish(asked: list[tuple[world.Dish, Asked]]) -> None:
    wrong = [(dish.id, one) for dish, one in asked if _truth(dish, one) != one.label]
    assert not wrong


def test_every_task_is_balanced_and_no_word_tells_the_label(asked: list[tuple[world.Dish, Asked]]) -> None:
    by_task = defaultdict(Counter)
    by_word = defaultdict(Counter)
    for _, one in asked:
        by_task[one.task][one.label] += 1
        for word in set(one.text.split()):
            by_word[one.task, word][one.label] += 1
    assert set(by_task) == set(judgements.RULES)
    for counts in (*by_task.values(), *by_word.values()):
        total = counts.total()
        assert abs(counts[True] - total / 2) <= 4 * (total / 4) ** 0.5  # four standard deviations of a fair coin


def test_a_swapped_attribute_is_the_only_wrong_claim(asked: list[tuple[world.Dish, Asked]]) -> None:
    kinds = Counter(one.negative for _, one in asked)
    assert {"attribute:colour", "attribute:object", "attribute:relation", "attribute:count"} < set(kinds)
    assert {"random", "same-class", "nearest"} < set(kinds)
    for dish, one in asked:
        if one.task == "every" and one.negative.startswith("attribute:"):
            wrong = [part for part, value in _claims(one.text).items() if _shown(dish)[part] != value]
            assert [f"attribute:{judgements.CLAIMS[part][0]}" for part in wrong] == [one.negative]
        assert bool(one.negative) != one.label


def test_the_same_picture_and_text_have_two_right_answers(asked: list[tuple[world.Dish, Asked]]) -> None:
    pairs = defaultdict(list)
    for dish, one in asked:
        if one.task.startswith("only-"):
            pairs[dish.id, one.text].append(one)
    assert len(pairs) > DISHES
    for rows in pairs.values():
        assert sorted(one.label for one in rows) in ([False, True], [False, False, True, True])
        assert len({one.task for one in rows}) >= 2
    swapped = Counter(one.task for rows in pairs.values() for one in rows if one.label)
    assert len(swapped) == 4  # each rule is right in some pair and wrong in another: the rule alone tells nothing


def test_no_text_tells_the_triple_that_splits_are_drawn_by(asked: list[tuple[world.Dish, Asked]]) -> None:
    assert not [one for _, one in asked if {"colour", "top", "bits"} <= set(_claims(one.text))]


def test_the_same_seed_gives_the_same_judgements() -> None:
    menu = world.dishes(40, 3)
    first, again = (list(judgements.judgements(menu[0], menu, random.Random(5))) for _ in range(2))
    assert first == again
