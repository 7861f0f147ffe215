"""General texts that the demo T5 learns from: sentences of the demo's kitchen, and small questions about lists.

Dishes are imagined, and none has a held-out (colour, garnish, main) triple; numbers are drawn anew each time and are
nobody's. No list, card or review is a row of a dataset.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from latefuse.data.demo import words, world

IMAGINED, OFFSET = 1_500, 1_000_003
"""How many dishes are imagined, and how far their seed is from that of the menu with the same one."""
LARGEST = 1_000
JOINS = (",", "->", "and")
YES, NO = "yes", "no"
REVIEWERS = 400
SHORT, LONGEST = 3, 12
"""Of lists: how long they are at first where they grow, and at most."""

LAST, FIRST, AFTER, ISIN, BESIDE, NAMED, ECHO = (
    "which is the last of {} ?",
    "which is the first of {} ?",
    "what comes after {} in {} ?",
    "is {} one of {} ? say yes or no .",
    "{} : which number is {} ?",
    "{} : which one is {} ?",
    "say {} again .",
)
CONTINUED = (
    "{} took {} . which comes next ?",
    "the list of {} is {} . what is next ?",
    "{} had {} up to now : name the one that follows .",
)
QUESTIONS = (LAST, FIRST, AFTER, ISIN, BESIDE, NAMED, ECHO, *CONTINUED)


class Texts:
    """An endless supply from one seed. longest: how long lists are at most, from then on."""

    def __init__(self, seed: int) -> None:
        self.rng, self.longest = random.Random(seed), LONGEST
        self.dishes = [dish for dish in world.dishes(IMAGINED, seed + OFFSET) if dish.split == "train"]
        values = [value for values in world.ATTRIBUTES.values() for value in values]
        self.pool = sorted({*values, *world.INGREDIENTS, *world.ALLERGENS, *words.COOKS})

    def sentences(self) -> list[str]:
        """A few sentences that belong together: a card, reviews, a recipe, a name, what a user wrote."""
        dish = self.rng.choice(self.dishes)
        makers: Sequence[Callable[[world.Dish], str]] = (
            lambda dish: words.card(dish, self.rng),
            self._review,
            lambda dish: words.recipe_text(dish.additions, dish.technique),
            lambda dish: f"{dish.name} : {dish.origin} , {dish.colour} , {dish.garnish} , {dish.main} .",
            self._wrote,
        )
        return [make(dish) for make in self.rng.sample(makers, self.rng.randint(1, 2))]

    def question(self) -> tuple[str, str]:
        """A question about a list, and its answer."""
        kinds: Mapping[str, Callable[[], tuple[str, str]]] = {
            "last": lambda: self._end(LAST, -1),
            "first": lambda: self._end(FIRST, 0),
            "after": self._after,
            "is in": self._is_in,
            "beside": self._beside,
            "echo": self._echo,
            "round": self._round,
        }
        return kinds[self.rng.choices(list(kinds), weights=(2, 1, 3, 2, 3, 1, 3))[0]]()

    def _review(self, dish: world.Dish) -> str:
        told = words.review(dish, self.rng.randint(1, 5), self.rng)
        return f"{told['headline']} : {told['text']}"

    def _wrote(self, dish: world.Dish) -> str:
        stars = self.rng.randint(1, 5)
        told = words.review(dish, stars, self.rng)
        return f"{self._who()} gave {stars} stars to {dish.name} : {told['text']}"

    def _who(self) -> str:
        return self.rng.choice((f"user_{self.rng.randrange(REVIEWERS)}", self.rng.choice(words.COOKS)))

    def _numbers(self, most: int) -> list[str]:
        """Distinct numbers, small ones as often as large ones."""
        top = self.rng.choice((50, 300, LARGEST))
        return [str(one) for one in self.rng.sample(range(top), self.rng.randint(2, most))]

    def _list(self, items: Sequence[str]) -> str:
        return f" {self.rng.choice(JOINS)} ".join(items)

    def _some(self) -> list[str]:
        """Numbers, or words, in a row."""
        if self.rng.random() < 0.8:
            return self._numbers(self.longest)
        return self.rng.sample(self.pool, self.rng.randint(2, self.longest))

    def _end(self, question: str, place: int) -> tuple[str, str]:
        items = self._some()
        return question.format(self._list(items)), items[place]

    def _after(self) -> tuple[str, str]:
        items = self._some()
        place = self.rng.randrange(len(items) - 1)
        return AFTER.format(items[place], self._list(items)), items[place + 1]

    def _is_in(self) -> tuple[str, str]:
        items = self._some()
        asked, yes = items.pop(self.rng.randrange(len(items))), self.rng.random() < 0.5
        if yes:
            items.insert(self.rng.randrange(len(items) + 1), asked)
        return ISIN.format(asked, self._list(items)), YES if yes else NO

    def _beside(self) -> tuple[str, str]:
        """Words with numbers beside them, asked either way round."""
        numbers = self._numbers(max(2, self.longest // 2))
        names = self.rng.sample(self.pool, len(numbers))
        told = self._list([f"{number} {name}" for number, name in zip(numbers, names, strict=True)])
        place = self.rng.randrange(len(numbers))
        if self.rng.random() < 0.5:
            return BESIDE.format(told, names[place]), numbers[place]
        return NAMED.format(told, numbers[place]), names[place]

    def _round(self) -> tuple[str, str]:
        """A list that goes round and round."""
        items = self._some()[: max(2, self.longest // 2)]
        shown = [items[place % len(items)] for place in range(self.rng.randint(len(items) + 1, 2 * len(items)))]
        asked = self.rng.choice(CONTINUED).format(self._who(), self._list(shown))
        return asked, items[len(shown) % len(items)]

    def _echo(self) -> tuple[str, str]:
        told = self._list(self._some()[:5])
        return ECHO.format(told), told


def vocabulary() -> list[str]:
    """Every word that these texts are made of, but numbers, sorted."""
    dish = Texts(0).dishes[0]
    told = [*QUESTIONS, *JOINS, YES, NO, "user_ gave stars to :", *words.COOKS]
    for stars in range(1, 6):
        for part in words.REVIEWED:
            found = words.review(dish, stars, random.Random(0), (part,))
            told += [found["headline"], found["text"]]
    return sorted({word for text in told for word in text.replace("{}", " ").split()})
