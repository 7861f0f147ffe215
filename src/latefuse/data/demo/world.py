"""The planted world: attributes, ingredients and dishes, and which modality shows what.

A dish is one value per attribute plus a recipe. Its name is composed of five attributes, so the name of a new
dish can be worked out from its parts. A triple (colour, garnish, main) is held out as a whole: test dishes are new
combinations of values that training has seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

COLOURS: Mapping[str, tuple[str, tuple[int, int, int]]] = {
    "crimson": ("red", (214, 40, 40)),
    "amber": ("orange", (244, 132, 28)),
    "golden": ("yellow", (246, 212, 60)),
    "jade": ("green", (52, 168, 83)),
    "azure": ("blue", (54, 122, 232)),
    "violet": ("purple", (142, 68, 190)),
    "umber": ("brown", (128, 78, 44)),
    "ivory": ("white", (248, 246, 236)),
}
"""Name word -> (plain word, RGB)."""

SHAPES = ("disc", "bar", "square", "ring", "diamond", "triangle", "star", "cross")

PLATINGS = ("round", "square", "bowl", "board", "leaf")

GARNISHES: Mapping[str, tuple[str, str]] = {
    "mint": ("green", "diamond"),
    "lemon": ("yellow", "ring"),
    "sesame": ("white", "disc"),
    "chili": ("red", "triangle"),
    "olive": ("purple", "ring"),
    "nori": ("brown", "square"),
}
"""Name word -> (plain colour, shape)."""

TECHNIQUES: Mapping[str, str] = {"fry": "flames", "bake": "oven", "steam": "clouds", "toss": "arrows", "grill": "grate"}
"""Name word and last step -> what the clip shows."""

ORIGINS: Mapping[str, tuple[str, ...]] = {
    "tuscan": ("florence", "siena", "lucca"),
    "andean": ("cusco", "quito", "puno"),
    "bengali": ("dhaka", "kolkata", "khulna"),
    "nordic": ("bergen", "turku", "malmo"),
    "basque": ("bilbao", "getaria", "biarritz"),
    "cretan": ("chania", "sitia", "heraklion"),
}
"""Name word -> towns that a card may mention."""

ALLERGENS: Mapping[str, tuple[str, ...]] = {
    "nuts": ("walnut", "almond", "cashew"),
    "milk": ("ghee", "yoghurt", "whey"),
    "gluten": ("wheat", "rye", "barley"),
    "shellfish": ("shrimp", "crab", "clam"),
    "soy": ("miso", "tamari", "edamame"),
}
"""Allergen -> traces that a card may mention."""


@dataclass(frozen=True)
class Ingredient:
    """How an ingredient looks in a clip (`colour` `shape`) and what one addition of it amounts to."""

    name: str
    colour: str
    shape: str
    quantity: Fraction
    unit: str

    def amount(self, times: int) -> Fraction:
        """The quantity of `times` additions, in `unit`."""
        return self.quantity * times


_KITCHEN = """
rice white disc 1 cup | noodle white bar 100 g | tofu white square 1 piece | lentil white ring 1/2 cup
potato white diamond 1 piece | corn white triangle 1 cup | chicken white star 100 g | bean white cross 1/2 cup
tomato red disc 1 piece | cheese orange triangle 50 g | butter yellow square 1 tbsp | basil green star 1 tsp
mussel blue diamond 2 piece | onion purple ring 1 piece | ginger brown cross 1 tsp
"""
INGREDIENTS: Mapping[str, Ingredient] = {
    words[0]: Ingredient(words[0], words[1], words[2], Fraction(words[3]), words[4])
    for words in (entry.split() for line in _KITCHEN.strip().splitlines() for entry in line.split("|"))
}
MAINS = tuple(INGREDIENTS)[:8]
EXTRAS = tuple(INGREDIENTS)[8:]
MAX_TIMES = 4

NAME_PARTS = ("origin", "colour", "garnish", "main", "technique")
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "origin": tuple(ORIGINS),
    "colour": tuple(COLOURS),
    "garnish": tuple(GARNISHES),
    "main": MAINS,
    "technique": tuple(TECHNIQUES),
    "plating": PLATINGS,
}
VISIBLE: Mapping[str, tuple[str, ...]] = {
    "image": ("colour", "garnish", "main", "plating"),
    "video": ("main", "technique", "additions"),
    "text": ("origin", "allergens"),
}
"""Modality -> the attributes that it shows; `main` is shown by two, every other one by a single modality."""


@dataclass(frozen=True)
class Dish:
    """One dish. additions: (ingredient, times) in the order of cooking; allergens: sorted."""

    id: str
    origin: str
    colour: str
    garnish: str
    main: str
    technique: str
    plating: str
    additions: tuple[tuple[str, int], ...]
    allergens: tuple[str, ...]

    @property
    def name(self) -> str:
        """Five words, one per attribute of NAME_PARTS."""
        return " ".join(getattr(self, part) for part in NAME_PARTS)

    @property
    def split(self) -> str:
        """train, valid or test, by the triple that the picture shows."""
        return held_out(self.colour, self.garnish, self.main)


def held_out(colour: str, garnish: str, main: str) -> str:
    """The split of a (colour, garnish, main) triple: 4 of 24 residues are test, 2 valid; every pair stays in train."""
    code = tuple(COLOURS).index(colour) * 5 + tuple(GARNISHES).index(garnish) * 7 + MAINS.index(main) * 11
    residue = code % 24
    return "test" if residue < 4 else "valid" if residue < 6 else "train"


def dishes(count: int, seed: int) -> list[Dish]:
    """`count` dishes with distinct names, the same ones for the same seed. Raises ValueError when names run out."""
    limit = 1
    for part in NAME_PARTS:
        limit *= len(ATTRIBUTES[part])
    if count > limit // 2:
        raise ValueError(f"dishes: {count} asked for, at most {limit // 2} distinct names are drawn")
    return list(_draw(count, random.Random(seed)))


def _draw(count: int, rng: random.Random) -> Iterator[Dish]:
    names: set[str] = set()
    while len(names) < count:
        values = {part: rng.choice(options) for part, options in ATTRIBUTES.items()}
        parts = [(values["main"], rng.randint(1, MAX_TIMES))]
        parts += [(extra, rng.randint(1, MAX_TIMES)) for extra in rng.sample(EXTRAS, rng.randint(2, 3))]
        rng.shuffle(parts)
        allergens = tuple(sorted(rng.sample(tuple(ALLERGENS), rng.choice((0, 1, 1, 2, 2)))))
        dish = Dish(id=f"dish-{len(names):04d}", additions=tuple(parts), allergens=allergens, **values)
        if dish.name not in names:
            names.add(dish.name)
            yield dish
