"""Golden answers of the recipe reader."""

from __future__ import annotations

import pytest

from latefuse.evaluation.recipe_text import (
    Amount,
    Ingredient,
    normalise_name,
    normalise_unit,
    parse_amount,
    parse_ingredient,
    parse_recipe,
    to_base,
)


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1 1/2", 1.5, ""),
        ("½", 0.5, ""),
        ("1½ tsp", 1.5, "tsp"),
        ("3/4 cup", 0.75, "cup"),
        ("1-2", 1.5, ""),
        ("1 – 2 cups", 1.5, "cup"),
        ("½ – ¾ cup", 0.625, "cup"),
        ("1 to 2 Tbsp.", 1.5, "tbsp"),
        ("2.5 kg", 2.5, "kg"),
        ("1,5 l", 1.5, "l"),
        ("1,000 g", 1000, "g"),
        ("500 g", 500, "g"),
        ("500g", 500, "g"),
        ("a pinch", 1, "pinch"),
        ("half a lemon", 0.5, ""),
        ("a dozen eggs", 12, ""),
        ("2 dozen eggs", 24, ""),
        ("about 3", 3, ""),
        ("1 T", 1, "tbsp"),
        ("1 t", 1, "tsp"),
        ("12 fl. oz", 12, "fl oz"),
        ("1 (14 oz) can", 1, "can"),
    ],
)
def test_amounts(text: str, value: float, unit: str) -> None:
    assert parse_amount(text) == Amount(value, unit)


def test_a_range_keeps_its_ends() -> None:
    amount = parse_amount("1 – 2 cups")
    assert amount is not None
    assert (amount.low, amount.high) == (1, 2)


@pytest.mark.parametrize("text", ["", "salt to taste", "1/0 cup", "cups", "some rice", "– –", "1/", "ante"])
def test_no_amount(text: str) -> None:
    assert parse_amount(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 cups rice, cooked", Ingredient(2, "cup", "rice")),
        ("3 cloves garlic", Ingredient(3, "clove", "garlic")),
        ("- 1½ tsp of freshly ground black pepper", Ingredient(1.5, "tsp", "black pepper")),
        ("1 (14 oz) can chopped tomatoes", Ingredient(1, "can", "tomato")),
        ("3 large egg whites", Ingredient(3, "", "egg white")),
        ("Salt (to taste)", Ingredient(None, "", "salt")),
        ("2. Crème fraîche", Ingredient(None, "", "crème fraîche")),
        ("2 lbs. peeled potatoes", Ingredient(2, "lb", "potato")),
        ("10 cherries", Ingredient(10, "", "cherry")),
    ],
)
def test_ingredients(text: str, expected: Ingredient) -> None:
    assert parse_ingredient(text) == expected


@pytest.mark.parametrize(
    ("value", "unit", "base"),
    [
        (2, "cup", (473.176, "ml")),
        (1.5, "kg", (1500, "g")),
        (3, "clove", (3, "count")),
        (3, "tsp", (14.78676, "ml")),
        (4, "", (4, "count")),
    ],
)
def test_base_quantities(value: float, unit: str, base: tuple[float, str]) -> None:
    quantity, kind = to_base(value, unit)
    assert quantity == pytest.approx(base[0])
    assert kind == base[1]


def test_three_teaspoons_are_one_tablespoon() -> None:
    assert to_base(3, "tsp")[0] == pytest.approx(to_base(1, "tbsp")[0], rel=1e-4)


@pytest.mark.parametrize(
    ("word", "unit"),
    [("Tablespoons", "tbsp"), ("c.", "cup"), ("T", "tbsp"), ("Grams", "g"), ("rice", None), ("", None)],
)
def test_units(word: str, unit: str | None) -> None:
    assert normalise_unit(word) == unit


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tomatoes", "tomato"),
        ("fresh Bay Leaves", "bay leaf"),
        ("berries", "Berry"),
        ("olive  oil", "Olive Oil"),
        ("dishes", "dish"),
    ],
)
def test_names_that_are_the_same(one: str, other: str) -> None:
    assert normalise_name(one) == normalise_name(other)


@pytest.mark.parametrize("name", ["couscous", "asparagus", "watercress", "molasses"])
def test_no_false_singular(name: str) -> None:
    assert normalise_name(name) == name


DEMO = (
    "ingredients : 2 cups rice ; 1 tbsp butter ; 3 cloves garlic "
    "steps : add 2 cups rice ; add 1 tbsp butter ; add 3 cloves garlic ; bake"
)
RICE = (Ingredient(2, "cup", "rice"), Ingredient(1, "tbsp", "butter"), Ingredient(3, "clove", "garlic"))


def test_the_one_line_form() -> None:
    recipe = parse_recipe(DEMO)
    assert recipe.ingredients == RICE
    assert recipe.steps == ("add 2 cups rice", "add 1 tbsp butter", "add 3 cloves garlic", "bake")


@pytest.mark.parametrize(
    "text",
    [
        "Ingredients:\n- 2 cups rice\n- 1 Tbsp. butter\n- 3 garlic cloves\n\nSteps:\n1. Add rice.\n2. Bake.",
        "# Rice\n\n**Ingredients:**\n* 2 cups of rice\n* 1 tablespoon butter\n* 3 cloves garlic\n\n"
        "**Instructions:**\nStep 1: Add rice\nStep 2: Bake",
        "Ingredients\n2 cups rice, cooked\n1 T butter\n3 cloves of garlic\nDirections\n1. Add rice. 2. Bake.",
    ],
)
def test_ordinary_recipes(text: str) -> None:
    recipe = parse_recipe(text)
    assert recipe.ingredients[:2] == RICE[:2]
    assert [step.lower() for step in recipe.steps] == ["add rice", "bake"]


def test_without_headings_amounts_tell_ingredients_from_steps() -> None:
    recipe = parse_recipe("1 egg\n2 cups milk\nmix well")
    assert recipe.ingredients == (Ingredient(1, "", "egg"), Ingredient(2, "cup", "milk"))
    assert recipe.steps == ("mix well",)


@pytest.mark.parametrize("text", ["", "ingredients :", "steps : ;;; ", "ingredients : ; ; steps :"])
def test_nothing_said(text: str) -> None:
    recipe = parse_recipe(text)
    assert recipe.ingredients == ()
    assert recipe.steps == ()


def test_odd_text_never_raises() -> None:
    for text in (
        "\x00",
        "9" * 400,
        "1/" * 50,
        "ingredients : " + "- " * 300,
        "½½½",
        "ingredients : 1 1 1 1/1 1 steps : steps : 1.",
    ):
        parse_recipe(text)


@pytest.mark.parametrize(
    ("text", "amount", "unit", "name"),
    [
        ("cream 200 ml", 200, "ml", "cream"),
        ("vinegar 1 1/2 tbsp", 1.5, "tbsp", "vinegar"),
        ("onion (2 pieces)", 2, "piece", "onion"),
        ("rice: 2 cups", 2, "cup", "rice"),
        ("eggs 3", 3, "", "egg"),
    ],
)
def test_an_amount_may_stand_behind_its_name(text: str, amount: float, unit: str, name: str) -> None:
    found = parse_ingredient(text)
    assert (found.amount, found.unit, found.name) == (amount, unit, name)
