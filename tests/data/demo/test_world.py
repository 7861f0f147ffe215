"""The planted world keeps its promises: composed names, new combinations in test, one modality per attribute."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from latefuse.data.demo import words, world
from latefuse.evaluation.recipe_text import parse_recipe


@pytest.fixture(scope="module")
def menu() -> list[world.Dish]:
    return world.dishes(720, 7)


def test_same_seed_same_dishes_other_seed_others(menu: list[world.Dish]) -> None:
    assert world.dishes(720, 7) == menu
    assert world.dishes(720, 8) != menu


def test_names_are_distinct_and_composed(menu: list[world.Dish]) -> None:
    assert len({dish.name for dish in menu}) == len(menu) == 720
    for dish in menu:
        assert dish.name.split() == [getattr(dish, part) for part in world.NAME_PARTS]


def test_more_names_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct names"):
        world.dishes(10_000, 0)


def test_test_dishes_are_new_combinations_of_seen_values(menu: list[world.Dish]) -> None:
    train = [dish for dish in menu if dish.split == "train"]
    test = [dish for dish in menu if dish.split == "test"]
    assert len(test) >= 90
    seen_triples = {(d.colour, d.garnish, d.main) for d in train}
    assert not seen_triples & {(d.colour, d.garnish, d.main) for d in test}
    for part in world.ATTRIBUTES:
        assert {getattr(d, part) for d in test} <= {getattr(d, part) for d in train}


def test_every_pair_of_values_stays_in_train() -> None:
    splits = {t: world.held_out(*t) for t in product(world.COLOURS, world.GARNISHES, world.MAINS)}
    shares = Counter(splits.values())
    assert 0.12 < shares["test"] / len(splits) < 0.2
    assert shares["valid"] > 0
    for first, second in ((0, 1), (0, 2), (1, 2)):
        train_pairs = {(t[first], t[second]) for t, split in splits.items() if split == "train"}
        assert train_pairs == {(t[first], t[second]) for t in splits}


def test_each_ingredient_looks_like_no_other() -> None:
    looks = Counter((one.colour, one.shape) for one in world.INGREDIENTS.values())
    assert max(looks.values()) == 1
    assert len({world.INGREDIENTS[main].shape for main in world.MAINS}) == len(world.MAINS)


def test_a_card_tells_only_what_text_may_tell(menu: list[world.Dish]) -> None:
    import random

    hidden = {*world.COLOURS, *world.GARNISHES, *world.MAINS, *world.TECHNIQUES, *world.PLATINGS, *world.ORIGINS}
    cards = [words.card(dish, random.Random(dish.id)) for dish in menu]
    assert not hidden & {word for card in cards for word in card.split()}
    assert len(set(cards)) == len(cards)


def test_a_recipe_reads_back_to_its_truth(menu: list[world.Dish]) -> None:
    for dish in menu[:50]:
        read = parse_recipe(words.recipe_text(dish.additions, dish.technique))
        truth = words.recipe_truth(dish)["ingredients"]
        assert [(i.name, i.amount) for i in read.ingredients] == [(t["name"], t["amount"]) for t in truth]
        assert len(read.steps) == len(truth) + 1
