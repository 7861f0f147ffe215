"""The demo's words: recipes, cards, questions, answers and reviews, from the planted attributes.

A card names a town and traces, never a colour, a garnish or an amount: text shows what only text may show.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from latefuse.data.demo.world import ALLERGENS, INGREDIENTS, ORIGINS, Dish

COUNTABLE = ("cup", "clove", "piece")
COOKS = (
    "ana",
    "bo",
    "carla",
    "dev",
    "elif",
    "femi",
    "goran",
    "hana",
    "ines",
    "jun",
    "kofi",
    "lena",
    "milo",
    "noor",
    "otto",
    "pia",
)
QUESTIONS = {
    ("image", "dish"): "which dish is in this picture ?",
    ("video", "dish"): "which dish is made in this clip ?",
    ("video", "recipe"): "what is the recipe of this clip , with amounts ?",
    ("text", "dish"): "which dish is on this card ?",
    ("text", "allergens"): "which allergens does this card declare ?",
    ("text", "origin"): "where does the dish on this card come from ?",
}


def amount_text(quantity: Fraction, unit: str) -> str:
    """A quantity as cooks write it: `1 1/2 cups`."""
    whole, part = divmod(quantity, 1)
    number = " ".join(str(piece) for piece in (whole, part) if piece)
    return f"{number} {unit}{'s' if unit in COUNTABLE and quantity > 1 else ''}"


def addition_text(name: str, times: int) -> str:
    """One ingredient line: `1 1/2 cups lentil`."""
    look = INGREDIENTS[name]
    return f"{amount_text(look.amount(times), look.unit)} {name}"


def recipe_text(additions: Sequence[tuple[str, int]], technique: str) -> str:
    """A recipe in one line: numbered steps in the order of cooking, the technique last, then the ingredients."""
    lines = [addition_text(name, times) for name, times in additions]
    steps = [*lines, technique]
    numbered = " ".join(f"{number}. {step}" for number, step in enumerate(steps, start=1) if step)
    return f"steps : {numbered} ingredients : {' ; '.join(lines)}"


def recipe_truth(dish: Dish) -> dict[str, Any]:
    """The recipe as evaluation wants it: {"ingredients": [{amount, unit, name}], "steps": [...]}."""
    ingredients = [
        {"amount": float(INGREDIENTS[name].amount(times)), "unit": INGREDIENTS[name].unit, "name": name}
        for name, times in dish.additions
    ]
    return {
        "ingredients": ingredients,
        "steps": [*(addition_text(*a) for a in dish.additions), dish.technique],
    }


def card(dish: Dish, rng: random.Random) -> str:
    """The text of a dish: who noted it, a town of its origin, a trace of each allergen. No two cards are alike."""
    traces = [rng.choice(ALLERGENS[allergen]) for allergen in dish.allergens]
    rng.shuffle(traces)
    number = int(dish.id.rpartition("-")[2])
    noted = f"card {number} by {rng.choice(COOKS)} and {rng.choice(COOKS)}"
    held = f"traces of {' and '.join(traces)}" if traces else "no traces"
    return f"{noted} : a dish from {rng.choice(ORIGINS[dish.origin])} , {held} , serves {rng.randint(2, 8)} ."


def allergens_answer(dish: Dish) -> str:
    """The declared allergens in alphabetical order, or `none`."""
    return " ".join(dish.allergens) or "none"


def conversation(dish: Dish, modality: str, topic: str, card_text: str) -> tuple[str, str, dict[str, Any]]:
    """One question about a dish: (user text with its media placeholder, answer, truth)."""
    opening = {"image": "<image>", "video": "<video>", "text": card_text}[modality]
    answers: dict[str, tuple[str, dict[str, Any]]] = {
        "dish": (dish.name, {"name": dish.name, "names": "dish"}),
        "recipe": (recipe_text(dish.additions, dish.technique), {"recipe": recipe_truth(dish)}),
        "allergens": (allergens_answer(dish), {"answer": allergens_answer(dish)}),
        "origin": (dish.origin, {"answer": dish.origin}),
    }
    answer, truth = answers[topic]
    return f"{opening} {QUESTIONS[modality, topic]}", answer, truth


REVIEWED = ("colour", "garnish", "main", "plating", "technique", "origin")


def review(dish: Dish, stars: int, rng: random.Random, parts: Sequence[str] = REVIEWED) -> dict[str, str]:
    """A short review that names one planted feature, of `parts`: {headline, text, feature}."""
    part = rng.choice(parts)
    feature = getattr(dish, part)
    mood = ("awful", "weak", "fair", "good", "lovely")[stars - 1]
    text = f"the {feature} {'won me over' if stars >= 4 else 'was fine' if stars == 3 else 'put me off'} ."
    return {"headline": f"{mood} {part}", "text": text, "feature": feature}
